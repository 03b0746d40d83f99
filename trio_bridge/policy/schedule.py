"""A grid of instants on the monotonic clock, `t0 + k·interval`, and how late is too late. The rows
have a grid that follows the wall clock: `slots.py`.

A slot's instant is always computed from its number, never from the previous slot, so neither errors
nor lateness accumulate. A slot that could not be served on time may still be served until half an
interval after its instant: until then it is the nearest slot. A slot is served once or not at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

TOLERANCE = 0.5
"""How late a slot may still be served, as a fraction of the interval."""

INTERVALS_ALLOWED = 3
"""More than this many intervals without a served slot, or without a row with Greeks, is reported by
the endpoint, `status` and the alerts, and to the service manager."""

STOOD_STILL_S = 5.0
"""A task that runs this much later than it was due shows that the process was stopped: what the
gateway has sent since is still to be read."""


class NextSlot(NamedTuple):
    """The slot to serve next, and how many slots before it can no longer be served."""

    slot: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The slots 0, 1, 2, … at `t0_s + slot·interval_s` on the monotonic clock.

    Raises:
        ValueError: the interval is not a positive number of seconds.
    """

    t0_s: float
    interval_s: float

    def __post_init__(self) -> None:
        if not 0 < self.interval_s < math.inf or not math.isfinite(self.t0_s):
            raise ValueError(f"not a grid: every {self.interval_s} s from {self.t0_s}")

    def at(self, slot: int) -> float:
        """The slot's instant on the monotonic clock, in seconds."""
        return self.t0_s + slot * self.interval_s

    def in_time(self, slot: int, now: float) -> bool:
        """Whether the slot may still be served at `now`: at most half an interval late."""
        return now <= self.at(slot) + TOLERANCE * self.interval_s

    def next_slot(self, after: int, now: float) -> NextSlot:
        """The first slot after `after` (-1 before the first one) that can still be served at `now`.

        Work that ends up to half an interval after the next slot's instant loses no slot.
        """
        # The division rounds, so start one slot early; `in_time` decides.
        estimate = math.ceil((now - self.t0_s) / self.interval_s - TOLERANCE) - 1
        slot = max(after + 1, estimate)
        while not self.in_time(slot, now):
            slot += 1
        return NextSlot(slot, slot - after - 1)
