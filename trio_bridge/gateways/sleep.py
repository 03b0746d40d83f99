"""Whether the machine has slept: then the wall clock has moved and the monotonic clock has not.

The monotonic clock of Linux and macOS stands still while a machine is suspended (so does that of a
paused virtual machine): no timer expires, and nothing in memory seems to age.
https://docs.python.org/3/library/time.html#time.monotonic
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_bridge.gateways.readiness import Blocked, Reason

if TYPE_CHECKING:
    from datetime import datetime

SHORTEST_SLEEP_S = 10.0
"""A shorter step counts as a correction of the wall clock. A larger correction is mistaken for a
sleep, which costs a reconnect and nothing else."""


class SleepWatch:
    """Compares the two clocks at each `look`, from the start of the connection (`restart`)."""

    def __init__(self) -> None:
        self._ahead_s: float | None = None
        self._found = trio.Event()
        self._asleep = Blocked(Reason.ASLEEP)

    def restart(self, wall: datetime, monotonic_s: float) -> None:
        """A new connection begins: earlier sleeps do not concern it."""
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
        """Wait until a sleep is found; return it as the reason to reconnect."""
        await self._found.wait()
        return str(self._asleep)
