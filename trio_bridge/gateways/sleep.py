"""Whether the machine has slept: then the wall clock has gone on alone.

The monotonic clock of Linux and macOS does not count the time that a machine is suspended (nor does
a paused virtual machine's), so no timer runs out meanwhile and nothing in memory seems to age.
https://docs.python.org/3/library/time.html#time.monotonic
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_bridge.gateways.readiness import Blocked, Reason

if TYPE_CHECKING:
    from datetime import datetime

SHORTEST_SLEEP_S = 10.0
"""What is less is taken for a correction of the wall clock. A larger correction is taken for a
sleep, which costs a reconnect and nothing else."""


class SleepWatch:
    """Compares the two clocks at each `look`, from the connection's beginning (`restart`) on."""

    def __init__(self) -> None:
        self._ahead_s: float | None = None
        self._found = trio.Event()
        self._asleep = Blocked(Reason.ASLEEP)

    def restart(self, wall: datetime, monotonic_s: float) -> None:
        """A new connection begins: it has nothing to do with what was."""
        self._ahead_s = wall.timestamp() - monotonic_s
        self._found = trio.Event()

    def look(self, wall: datetime, monotonic_s: float) -> Blocked | None:
        """The sleep since the last look, if there was one."""
        before_s, self._ahead_s = self._ahead_s, wall.timestamp() - monotonic_s
        if before_s is None or self._ahead_s - before_s < SHORTEST_SLEEP_S:
            return None
        self._asleep = Blocked(Reason.ASLEEP, f"{self._ahead_s - before_s:.0f} s")
        self._found.set()
        return self._asleep

    async def wait_woken(self) -> str:
        """Wait until a sleep is found; return the reason to connect anew: what is in memory is as
        old as the sleep was long, and does not know it."""
        await self._found.wait()
        return str(self._asleep)
