"""Live streams: every listener gets every message or is disconnected; none is waited for.

Each stream has a short queue. The stream of a listener that does not keep up is ended; a browser
then reconnects by itself and asks for what it has missed.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_STREAMS = 64
QUEUE_SIZE = 64
"""Messages that may wait for one listener: some minutes of rows, or one burst of events."""

KEEP_ALIVE_S = 15.0
"""Something is sent at least this often: that finds listeners that have silently gone."""

STATUS_EVERY_S = 5.0
"""The status is sent at least this often: a page that hears nothing knows nothing."""

RETRY_MS = 2_000
"""How long a browser waits before it connects again."""


class TooManyStreamsError(Exception):
    """There is room for no more listeners."""


class Hub:
    """Passes messages on to all streams. `send` never waits and never raises."""

    def __init__(self) -> None:
        self._senders: set[trio.MemorySendChannel[bytes]] = set()

    @property
    def listeners(self) -> int:
        return len(self._senders)

    def send(self, kind: str, data: bytes) -> None:
        """`kind` is the event's type, `data` one line of text."""
        if not self._senders:
            return
        message = encode(kind, data)
        for sender in tuple(self._senders):
            try:
                sender.send_nowait(message)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._remove(sender)

    @contextmanager
    def listen(self) -> Iterator[trio.MemoryReceiveChannel[bytes]]:
        """A stream of encoded messages; it ends when the listener did not keep up.

        Raises:
            TooManyStreamsError: there is no room.
        """
        if len(self._senders) >= MOST_STREAMS:
            raise TooManyStreamsError
        sender, receiver = trio.open_memory_channel[bytes](QUEUE_SIZE)
        self._senders.add(sender)
        try:
            with receiver:
                yield receiver
        finally:
            self._remove(sender)

    def _remove(self, sender: trio.MemorySendChannel[bytes]) -> None:
        self._senders.discard(sender)
        sender.close()


def encode(kind: str, data: bytes) -> bytes:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation"""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)


KEEP_ALIVE = b": still here\n\n"
OPENING = b"retry: %d\n\n" % RETRY_MS
