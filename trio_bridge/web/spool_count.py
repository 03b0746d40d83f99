"""How many rows wait in the spool: counted in its file, from time to time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from trio_bridge.stores.spool_look import look_at_spool

if TYPE_CHECKING:
    from pathlib import Path

COUNT_EVERY_S = 15.0
"""A backlog of a month is 150 MB to read."""

DISK_TIMEOUT_S = 2.0


class SpoolCount:
    """Only a spool that holds something is looked at."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: int | None = None
        self._counted_s = -math.inf
        # A disk that hangs takes one thread, not one more with every question.
        self._thread = trio.CapacityLimiter(1)

    async def rows(self, backlog_bytes: int) -> int | None:
        """At most COUNT_EVERY_S old; None when the disk does not tell."""
        if backlog_bytes == 0:
            self._counted_s = -math.inf
            return 0
        if trio.current_time() - self._counted_s >= COUNT_EVERY_S:
            self._rows = None
            with trio.move_on_after(DISK_TIMEOUT_S):
                self._rows = await self._count()
            self._counted_s = trio.current_time()
        return self._rows

    async def _count(self) -> int | None:
        try:
            look = await trio.to_thread.run_sync(
                look_at_spool, self._path, abandon_on_cancel=True, limiter=self._thread
            )
        except OSError:
            return None
        return look.backlog_rows
