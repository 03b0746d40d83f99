"""The status endpoint: health, metrics, the status as JSON, and a live page. Off by default.

It runs beside the recording: it only reads, everything it holds is bounded, and none of its
failures reaches the recording (`endpoint.py` says how).
"""
