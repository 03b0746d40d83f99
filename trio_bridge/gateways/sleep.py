"""Whether the machine has slept, or its wall clock was set.

In both cases the wall clock has moved and the monotonic clock has not: on Linux and macOS that
stands still while a machine is suspended, no timer expires, and nothing in memory seems to age.
https://docs.python.org/3/library/time.html#time.monotonic
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import trio

from trio_bridge.events.service import ClockStepped
from trio_bridge.gateways.readiness import Blocked, Reason
from trio_bridge.policy.clocks import Clocks, change_between

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from trio_bridge.events.event import Event

SHORTEST_SLEEP_S = 10.0
"""Of a shorter sleep, or step forward, the connection notices nothing."""

AT_ONCE_S = 0.05
ATTEMPTS = 5
"""The clocks are read one after the other. On a busy machine there may be a pause in between, which
would look like a step: then they are read again."""


def slept_s() -> float:
    """For how long this machine has been suspended since its start; 0 where no clock can tell.

    https://man7.org/linux/man-pages/man2/clock_gettime.2.html, and macOS's clock_gettime(3), where
    it is CLOCK_MONOTONIC that goes on during sleep.
    """
    if sys.platform == "darwin":
        clocks = time.CLOCK_MONOTONIC, time.CLOCK_UPTIME_RAW
    elif sys.platform == "linux":
        clocks = time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC
    else:
        return 0.0
    with_sleep_s, without_s = map(time.clock_gettime, clocks)
    return with_sleep_s - without_s


class SleepWatch:
    """Compares the clocks at each `look`. `emit` gets each step of the wall clock."""

    def __init__(
        self, emit: Callable[[Event], None], *, slept: Callable[[], float] = slept_s
    ) -> None:
        self._emit = emit
        self._slept = slept
        self._before: Clocks | None = None
        self._found = trio.Event()
        self._why = Blocked(Reason.ASLEEP)

    def read(self, now: Callable[[], datetime]) -> Clocks:
        """All clocks; `now` is the wall clock."""
        for _ in range(ATTEMPTS):
            began_s = trio.current_time()
            # The wall clock first: what passes after it makes rows late, not early.
            wall, slept = now(), self._slept()
            monotonic_s = trio.current_time()
            if monotonic_s - began_s < AT_ONCE_S:
                break
        return Clocks(wall, monotonic_s, slept)

    def restart(self, clocks: Clocks) -> None:
        """A new connection begins: earlier sleeps do not concern it."""
        self.look(clocks)
        self._found = trio.Event()

    def look(self, clocks: Clocks) -> Blocked | None:
        """Why all that is in memory is older than it seems, since the last look; None: it is not.

        After a step forward that is a suspicion: the machine may have been paused from outside. It
        costs a reconnect and nothing else.
        """
        before, self._before = self._before, clocks
        if before is None:
            return None
        slept, step = change_between(before, clocks)
        if step:
            self._emit(ClockStepped(step, before.wall, clocks.wall))
        if slept >= SHORTEST_SLEEP_S:
            self._why = Blocked(Reason.ASLEEP, f"{slept:.0f} s")
        elif step >= SHORTEST_SLEEP_S:
            self._why = Blocked(Reason.CLOCK_SET, f"{step:.0f} s")
        else:
            return None
        self._found.set()
        return self._why

    async def wait_woken(self) -> str:
        """Wait until a look finds one; return it as the reason to reconnect."""
        await self._found.wait()
        return str(self._why)
