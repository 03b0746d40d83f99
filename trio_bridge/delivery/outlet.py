"""The way in: one channel for the rows and events of the sources and for delivery's own events.

One channel keeps one order: nothing overtakes what was put before it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_bridge.logs import Log, log_event
from trio_bridge.model import ApiMode, Item, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from trio_bridge.events.event import Event

CHANNEL_SIZE = 1_000
"""Rows between the sources and the writer. It takes them at once, so this is minutes of slack."""

log = Log()


class Outlet:
    """`put` never waits and never raises, so delivery cannot block on itself.

    After `close` only delivery still has something to report. Its events wait until the channel is
    empty; after `end` they go straight to delivery's queue.
    """

    def __init__(
        self, mode: ApiMode = ApiMode.SOCKET, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._mode = mode
        self._now = now
        self._send, self._receive = trio.open_memory_channel[Item](CHANNEL_SIZE)
        self._late: list[Item] = []
        self._put_late: Callable[[Item], None] = self._late.append
        self.dropped = 0

    def put(self, item: Item) -> None:
        try:
            self._send.send_nowait(item)
        except trio.WouldBlock:
            # The writer takes rows from here within milliseconds. A thousand that it has not taken
            # mean that something is badly wrong.
            self.dropped += 1
            log.error("row dropped: the writer does not take any", dropped=self.dropped)
        except trio.ClosedResourceError:
            self._put_late(item)

    def emit(self, event: Event) -> None:
        """An event for `api_logs` and the console."""
        log_event(event)
        self.put(event.as_row(self._now(), self._mode))

    def close(self) -> None:
        """The sources have ended."""
        self._send.close()

    async def receive_all(self, accept: Callable[[Item], None]) -> None:
        """Pass everything to `accept` as it comes, until the outlet is closed and empty."""
        with suppress(trio.EndOfChannel):
            while True:
                accept(await self._receive.receive())
                self.receive_pending(accept)

    def end(self, accept: Callable[[Item], None]) -> None:
        """Pass on what is left, and from now on everything that is put.

        Not while `receive_all` runs: it may hold a row that would then be overtaken."""
        self.close()
        self.receive_pending(accept)
        for item in self._late:
            accept(item)
        self._late.clear()
        self._put_late = accept

    def receive_pending(self, accept: Callable[[Item], None]) -> None:
        """Pass on what is in the channel, without waiting for more."""
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                accept(self._receive.receive_nowait())
