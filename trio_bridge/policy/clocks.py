"""What the machine's clocks have done between two readings: run, stood still, or been set.

The wall clock runs against the monotonic one by the drift of an oscillator (50 parts in a million),
or by the rate at which a program corrects it; when it is set, it moves at once. During sleep the
monotonic clock stands still (Linux, macOS) and the wall clock does not; a third clock, which does
not either, tells sleep from a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

SMALLEST_STEP_S = 0.45
"""A step forward or back, not a slew: chrony, the fastest to correct a clock without a step, moves
it by 1/12, 0.42 s in 5 s (maxslewrate, https://chrony-project.org/doc/4.6/chrony.conf.html)."""

SHORTEST_NAP_S = 0.01
"""Less is only that the clocks are read one after the other."""

STEADY_SLEW = 0.0005
"""The kernel's limit for a steady correction (ntp_adjtime(3)), for readings that are far apart."""


class Clocks(NamedTuple):
    """All clocks at one instant.

    `monotonic_s` is that of `trio.current_time`; `slept_s` says for how long the machine has slept
    since its start, as far as it can tell.
    """

    wall: datetime
    monotonic_s: float
    slept_s: float = 0.0

    @property
    def ahead_s(self) -> float:
        """How far the wall clock is ahead of the monotonic one."""
        return self.wall.timestamp() - self.monotonic_s


class Change(NamedTuple):
    """Between two readings: for how long the machine slept, and by how much its wall clock was set
    (0: it only ran). A machine that was paused from outside looks like one whose clock was set
    forward."""

    slept_s: float
    set_s: float

    @property
    def breaks_off(self) -> bool:
        """Whether one clock can't be told from the other any more by what they showed before."""
        return bool(self.set_s) or self.slept_s >= SMALLEST_STEP_S


def change_between(before: Clocks, after: Clocks) -> Change:
    slept_s = after.slept_s - before.slept_s
    moved_s = after.ahead_s - before.ahead_s - slept_s
    passed_s = after.monotonic_s - before.monotonic_s
    is_step = abs(moved_s) >= SMALLEST_STEP_S + STEADY_SLEW * passed_s
    return Change(slept_s if slept_s >= SHORTEST_NAP_S else 0.0, moved_s if is_step else 0.0)
