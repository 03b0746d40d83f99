"""The slots: the wall clock's multiples of the interval, and when each is due on the monotonic
clock.

A slot is named by its instant (UTC), which is the same in every process that records at the same
interval; a row's identity is made of it. So each name is used once:

- The monotonic clock says when the next slot is due, so that a correction of the wall clock neither
  bunches nor delays rows. The grid follows a wall clock that drifts or is slewed, by no more than
  1 % of the time that passes.
- When the wall clock is set, or the monotonic one stood still, the grid is laid on it anew. Slots
  that fall away by that are skipped. Set back, the wall clock shows instants again: those that lie
  in a stretch served already are taken, and get no second row.
- A slot that could not be served on time may still be served until half an interval after its
  instant; then it is skipped. It is the nearest slot until then.

Every slot that the wall clock passes is served, taken, or counted as skipped.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from trio_bridge.identity import EPOCH, MICROSECOND
from trio_bridge.policy.clocks import change_between

if TYPE_CHECKING:
    from datetime import datetime

    from trio_bridge.policy.clocks import Clocks

FOLLOWED = 1 / 101
"""Of the time that passes: by how much the grid may be moved after a wall clock that was not set,
which is 1 % of an interval for each slot. A drifting or steadily corrected clock needs a twentieth
of that."""

ROUNDED_US = 1
"""So much before its instant a slot is due: the clocks' sum is rounded."""

STRETCHES_KEPT = 1_000
"""Each step of the clock begins one."""

_MICROSECONDS = 1_000_000


class Due(NamedTuple):
    """What a reading of the clocks asks for.

    Attributes:
        slot: the one to serve now; None: not yet.
        taken_until: the end of the stretch that has used the slot's name already: no row for it.
        skipped: slots before it that were not served, and can no longer be.
        slept_s, set_s: for how long the machine slept and by how much its wall clock was set, as
            far as that moved the grid.
    """

    slot: datetime | None
    taken_until: datetime | None = None
    skipped: int = 0
    slept_s: float = 0.0
    set_s: float = 0.0


class Slots:
    """Sleep until `due_s`, read the clocks, and `look`; again and again. Looking in between does no
    harm: the sooner a step of the wall clock is seen, the better.

    Raises:
        ValueError: the interval is not a positive number of seconds, at least a microsecond.
    """

    def __init__(self, interval_s: float, clocks: Clocks) -> None:
        if not MICROSECOND.total_seconds() <= interval_s < math.inf:
            raise ValueError(f"no slots: every {interval_s} s")
        self._interval_us = round(interval_s * _MICROSECONDS)
        self._seen = clocks
        self._ahead_s = clocks.ahead_s
        """Of the monotonic clock: the grid's idea of the wall clock."""
        self._next = _up(_us(clocks.wall), self._interval_us)
        """The number of the next slot: its instant, in intervals since the epoch."""
        self._stretches: deque[tuple[int, int]] = deque(maxlen=STRETCHES_KEPT)
        """First and last of the slots served between two steps."""
        self._is_new_stretch = True

    @property
    def due_s(self) -> float:
        """When the next slot is due, on the monotonic clock."""
        instant_s = self._next * self._interval_us / _MICROSECONDS
        return instant_s - self._ahead_s

    def look(self, clocks: Clocks) -> Due:
        """What to do now. A slot that it names counts as served, with or without a row."""
        slept_s, set_s = self._follow(clocks)
        now_us = round((clocks.monotonic_s + self._ahead_s) * _MICROSECONDS)
        latest_us = max(now_us, _us(clocks.wall))
        in_time = _up(latest_us - self._interval_us // 2, self._interval_us)
        if set_s < 0:
            self._next = min(self._next, in_time)
        skipped = max(0, in_time - self._next)
        self._next += skipped
        if now_us + ROUNDED_US < self._next * self._interval_us:
            return Due(None, None, skipped, slept_s, set_s)
        slot, self._next = self._next, self._next + 1
        return Due(self._instant(slot), self._use(slot), skipped, slept_s, set_s)

    def _use(self, slot: int) -> datetime | None:
        """Use up a slot's name; the end of the stretch that has used it already, if one has."""
        for first, last in self._stretches:
            if first <= slot <= last:
                return self._instant(last + 1)
        first = slot if self._is_new_stretch else self._stretches.pop()[0]
        self._stretches.append((first, slot))
        self._is_new_stretch = False
        return None

    def _follow(self, clocks: Clocks) -> tuple[float, float]:
        """Move the grid after the wall clock; return for how long that slept, and by how much it
        was set, if the grid had to be laid anew."""
        before, self._seen = self._seen, clocks
        change = change_between(before, clocks)
        off_s = clocks.ahead_s - self._ahead_s
        half_s = self._interval_us / _MICROSECONDS / 2
        if change.breaks_off or abs(off_s) > half_s:
            self._ahead_s = clocks.ahead_s
            self._is_new_stretch = True
            return change.slept_s, off_s - change.slept_s
        most_s = FOLLOWED * (clocks.monotonic_s - before.monotonic_s)
        self._ahead_s += min(max(off_s, -most_s), most_s)
        return 0.0, 0.0

    def _instant(self, number: int) -> datetime:
        return EPOCH + timedelta(microseconds=number * self._interval_us)


def _us(wall: datetime) -> int:
    return (wall - EPOCH) // MICROSECOND


def _up(time_us: int, interval_us: int) -> int:
    """The first slot at or after this instant."""
    return -(-time_us // interval_us)
