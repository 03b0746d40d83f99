"""A grid on the monotonic clock: never drifting, never bunched."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.policy.schedule import Grid

GRID = Grid(t0_s=100.0, interval_s=5.0)

uptimes = st.floats(0, 1e9)
intervals = st.sampled_from([0.1, 0.25, 1 / 3, 1.0, 5.0, 7.5, 60.0, 3600.0]) | st.floats(0.1, 1e4)
grids = st.builds(Grid, uptimes, intervals)


def test_a_slot_is_computed_from_its_number_alone() -> None:
    assert [GRID.at(k) for k in range(4)] == [100.0, 105.0, 110.0, 115.0]


@given(grids, st.integers(0, 10**9))
def test_the_grid_does_not_drift_however_many_slots_pass(grid: Grid, slot: int) -> None:
    exact = Fraction(grid.t0_s) + slot * Fraction(grid.interval_s)

    assert abs(Fraction(grid.at(slot)) - exact) <= 2 * Fraction(math.ulp(float(exact)))


@pytest.mark.parametrize(
    ("after", "now", "slot", "skipped"),
    [
        (-1, 0.0, 0, 0),  # long before the grid begins
        (-1, 100.0, 0, 0),
        (-1, 102.5, 0, 0),  # half an interval late: still served
        (-1, 102.6, 1, 1),
        (0, 100.0, 1, 0),  # the work took no time
        (0, 104.9, 1, 0),
        (0, 105.0, 1, 0),  # the work ended exactly on the next slot
        (0, 107.5, 1, 0),
        (0, 107.6, 2, 1),
        (0, 3700.0, 720, 719),  # an hour asleep: 719 skipped, none recovered
        (7, 100.0, 8, 0),  # never backwards
    ],
)
def test_the_next_slot_and_what_was_skipped(
    after: int, now: float, slot: int, skipped: int
) -> None:
    assert GRID.next_slot(after, now) == (slot, skipped)


def test_years_asleep_are_skipped_at_once() -> None:
    slot, skipped = Grid(0.0, 0.1).next_slot(0, 1e9)

    assert slot == skipped + 1 == 10**10


@given(grids, st.integers(-1, 10**6), st.floats(-2, 1e5))
def test_the_next_slot_is_the_first_that_can_still_be_served(
    grid: Grid, after: int, intervals_later: float
) -> None:
    now = grid.at(after) + intervals_later * grid.interval_s
    slot, skipped = grid.next_slot(after, now)

    assert slot > after
    assert skipped == slot - after - 1
    assert grid.in_time(slot, now)
    assert skipped == 0 or not grid.in_time(slot - 1, now)


@given(grids, st.lists(st.floats(0, 4), max_size=50))
def test_rows_keep_their_distance_and_every_slot_is_served_or_counted(
    grid: Grid, durations: list[float]
) -> None:
    """The ticker's loop: sleep until the slot, work for a while, take the next."""
    now = grid.t0_s - grid.interval_s
    slot = -1
    served: list[float] = []
    skipped = 0
    for duration in durations:
        slot, missed = grid.next_slot(slot, now)
        skipped += missed
        now = max(now, grid.at(slot))
        served.append(now)
        now += duration * grid.interval_s

    assert len(served) + skipped == slot + 1
    tolerance = 4 * math.ulp(now)
    for earlier, later in pairwise(served):
        assert later - earlier >= grid.interval_s / 2 - tolerance


def test_late_work_does_not_shift_the_slots_after_it() -> None:
    slot, _ = GRID.next_slot(0, 107.4)  # 2.4 s late
    assert GRID.at(slot) == 105.0
    slot, skipped = GRID.next_slot(slot, 107.5)
    assert (GRID.at(slot), skipped) == (110.0, 0)


@pytest.mark.parametrize(
    ("t0_s", "interval_s"),
    [(0.0, 0.0), (0.0, -5.0), (0.0, math.inf), (0.0, math.nan), (math.nan, 5.0)],
)
def test_what_is_not_a_grid_is_refused(t0_s: float, interval_s: float) -> None:
    with pytest.raises(ValueError, match="grid"):
        Grid(t0_s, interval_s)
