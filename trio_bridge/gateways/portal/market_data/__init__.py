"""PORTAL mode: the quotes: polled, streamed, and what has been said so far."""
