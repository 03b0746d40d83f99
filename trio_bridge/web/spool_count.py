"""How many rows wait in the spool, counted in its file from time to time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from trio_bridge.stores.spool.look import look_at_spool

if TYPE_CHECKING:
    from pathlib import Path

COUNT_EVERY_S = 15.0
"""At least. A backlog of a month is 150 MB to read."""

MOST_OF_THE_TIME = 0.02
"""The part of the time that counting may take: a short spool is counted at every request."""

DISK_TIMEOUT_S = 2.0


class SpoolCount:
    """Reads the spool only when it holds something."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: int | None = None
        self._count_from_s = -math.inf
        # A disk that hangs takes one thread, not one more with every question.
        self._thread = trio.CapacityLimiter(1)

    async def rows(self, backlog_bytes: int) -> int | None:
        """At most COUNT_EVERY_S old; None when the disk does not answer, or not yet."""
        if backlog_bytes == 0:
            self._rows, self._count_from_s = None, -math.inf
            return 0
        if trio.current_time() >= self._count_from_s:
            await self._count_again()
        return self._rows

    async def _count_again(self) -> None:
        began_s = trio.current_time()
        self._count_from_s = math.inf  # one at a time
        try:
            rows = None
            with trio.move_on_after(DISK_TIMEOUT_S):
                rows = await self._count()
            self._rows = rows
        finally:
            ended_s = trio.current_time()
            pause_s = (ended_s - began_s) / MOST_OF_THE_TIME
            self._count_from_s = ended_s + min(COUNT_EVERY_S, pause_s)

    async def _count(self) -> int | None:
        try:
            look = await trio.to_thread.run_sync(
                look_at_spool, self._path, abandon_on_cancel=True, limiter=self._thread
            )
        except OSError:
            return None
        return look.backlog_rows
