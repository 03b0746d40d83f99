"""The status endpoint: health, metrics, the status as JSON, and a live page. Off by default.

It lives beside the recording and is its guest: it only reads, everything it holds is bounded, and
whatever happens in here ends in here (`endpoint.py` says how).
"""
