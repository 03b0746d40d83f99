"""The way in: one channel for the rows and events of the sources and for delivery's own events.

One channel is one order: what was put later never overtakes what was put before it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
import trio

from trio_bridge.logs import log_event
from trio_bridge.model import ApiEvent, ApiMode, Severity, Snapshot, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

CHANNEL_SIZE = 1_000
"""Rows between the sources and the writer. It takes them at once, so this is minutes of slack."""

log = structlog.get_logger()


class Outlet:
    """Putting something here never waits and never raises, so nothing can wait for itself.

    After `close` only delivery still speaks. What it says waits behind what is in the channel, and
    once that is received (`end`) goes straight to delivery's queue.
    """

    def __init__(
        self, mode: ApiMode = ApiMode.SOCKET, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._mode = mode
        self._now = now
        self._send, self._receive = trio.open_memory_channel[Snapshot | ApiEvent](CHANNEL_SIZE)
        self._late: list[Snapshot | ApiEvent] = []
        self._put_late: Callable[[Snapshot | ApiEvent], None] = self._late.append
        self.dropped = 0

    def put(self, item: Snapshot | ApiEvent) -> None:
        try:
            self._send.send_nowait(item)
        except trio.WouldBlock:
            # The writer takes rows from here within milliseconds. If it has not taken a thousand of
            # them, something is badly wrong, and must not stay silent.
            self.dropped += 1
            log.error("row dropped: the writer does not take any", dropped=self.dropped)
        except trio.ClosedResourceError:
            self._put_late(item)

    def emit(self, message: str, status: Severity = Severity.INFO) -> None:
        """An event for `api_logs` and the console."""
        log_event(message, status)
        self.put(ApiEvent(self._now(), self._mode, message, status))

    def close(self) -> None:
        """The sources have ended."""
        self._send.close()

    async def receive_all(self, accept: Callable[[Snapshot | ApiEvent], None]) -> None:
        """Hand everything to `accept` as it comes, until the outlet is closed and empty."""
        with suppress(trio.EndOfChannel):
            while True:
                accept(await self._receive.receive())
                self.receive_pending(accept)

    def end(self, accept: Callable[[Snapshot | ApiEvent], None]) -> None:
        """Hand over what is left, and from now on whatever is put. Only beside no `receive_all`:
        a row that it was given and has not handed over yet would be overtaken."""
        self.close()
        self.receive_pending(accept)
        for item in self._late:
            accept(item)
        self._late.clear()
        self._put_late = accept

    def receive_pending(self, accept: Callable[[Snapshot | ApiEvent], None]) -> None:
        """Hand over what is in the channel, without waiting for more."""
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                accept(self._receive.receive_nowait())
