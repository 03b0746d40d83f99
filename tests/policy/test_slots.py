"""Slots follow the wall clock: none twice, none lost without being counted, whatever it does."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.policy.clocks import Clocks
from trio_bridge.policy.schedule import TOLERANCE
from trio_bridge.policy.slots import Due, Slots

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = datetime(2026, 3, 2, 12, 0, 1, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")
DAY_S = 86_400

Served = tuple[datetime, float, float]
"""A slot, how late it was served by the wall clock, and when (monotonic), in seconds."""


@dataclass
class Machine:
    """A machine's clocks, and a ticker on it that serves at once.

    `rate`: by how much faster than the monotonic clock the wall clock runs.
    """

    interval_s: float = 5.0
    begins: datetime = NOON
    rate: float = 0.0
    monotonic_s: float = 1_000.0
    wall_s: float = field(init=False)
    slept_s: float = 0.0
    zone: ZoneInfo | None = None
    served: list[Served] = field(default_factory=list)
    taken: int = 0
    skips: list[Due] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wall_s = self.begins.timestamp()
        self.slots = Slots(self.interval_s, self.clocks())

    def clocks(self) -> Clocks:
        wall = datetime.fromtimestamp(self.wall_s, self.zone or UTC)
        return Clocks(wall, self.monotonic_s, self.slept_s)

    def pass_(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall_s += seconds * (1 + self.rate)

    def sleep(self, seconds: float) -> None:
        self.wall_s += seconds
        self.slept_s += seconds

    def look(self) -> Due:
        clocks = self.clocks()
        due = self.slots.look(clocks)
        if due.skipped:
            self.skips.append(due)
        if due.taken_until is not None:
            self.taken += 1
        elif due.slot is not None:
            late_s = (clocks.wall - due.slot).total_seconds()
            self.served.append((due.slot, late_s, self.monotonic_s))
        return due

    def run(self, seconds: float) -> None:
        """A ticker's loop, for so long."""
        end = self.monotonic_s + seconds
        while self.slots.due_s <= end:
            self.pass_(max(0.0, self.slots.due_s - self.monotonic_s))
            self.look()
        self.pass_(end - self.monotonic_s)

    @property
    def skipped(self) -> int:
        return sum(due.skipped for due in self.skips)

    @property
    def names(self) -> list[datetime]:
        return [slot for slot, _, _ in self.served]


@pytest.mark.parametrize(
    ("interval_s", "wall", "first"),
    [
        (5.0, "12:00:01.500000", "12:00:05"),
        (5.0, "12:00:05", "12:00:05"),
        (60.0, "12:00:05", "12:01:00"),
        (0.5, "12:00:05.125000", "12:00:05.500000"),
        (0.1, "12:00:05.125000", "12:00:05.200000"),
    ],
)
def test_slots_are_the_multiples_of_the_interval(interval_s: float, wall: str, first: str) -> None:
    machine = Machine(interval_s, datetime.fromisoformat(f"2026-01-15T{wall}+00:00"))
    step = timedelta(seconds=interval_s)
    start = datetime.fromisoformat(f"2026-01-15T{first}+00:00")
    machine.run((start + 9.5 * step - machine.begins).total_seconds())
    assert machine.names == [start + number * step for number in range(10)]
    assert all(abs(late_s) <= 1e-5 for _, late_s, _ in machine.served)
    assert machine.skips == []


@given(
    st.sampled_from([0.1, 0.25, 1 / 3, 5.0, 7.5, 60.0, 3600.0]) | st.floats(0.1, 1e4),
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),
    st.floats(0, 1e6),
)
def test_processes_that_began_at_different_times_agree_on_every_slot(
    interval_s: float, begins: datetime, uptime_s: float
) -> None:
    one = Machine(interval_s, begins)
    other = Machine(interval_s, begins + timedelta(seconds=2.3 * interval_s), monotonic_s=uptime_s)
    one.run(10 * interval_s)
    other.run(7 * interval_s)
    assert {*other.names} & {*one.names} >= {*one.names[4:9]}


@pytest.mark.parametrize("rate", [5e-5, -5e-5, 5e-4, -5e-4])
def test_a_drifting_clock_is_followed_slot_by_slot(rate: float) -> None:
    machine = Machine(rate=rate)
    machine.run(DAY_S)
    assert machine.skips == []
    assert len(machine.served) == pytest.approx(DAY_S / 5 * (1 + rate), abs=1)
    assert max(late_s for _, late_s, _ in machine.served) < 0.003
    assert min(late_s for _, late_s, _ in machine.served) >= -1e-5


@pytest.mark.parametrize("rate", [0.05, -0.05, 1 / 12, -1 / 12])
def test_a_hurried_correction_is_followed_slowly(rate: float) -> None:
    """chrony corrects 0.9 s within 11 s."""
    machine = Machine()
    machine.run(60)
    machine.rate = rate
    machine.run(0.9 / abs(rate))
    machine.rate = 0.0
    machine.run(600)
    assert machine.skips == []
    spacings = [later - earlier for (_, _, earlier), (_, _, later) in pairwise(machine.served)]
    assert all(abs(one / 5 - 1) <= 0.01 + 1e-6 for one in spacings)
    assert any(abs(late_s) > 0.3 for _, late_s, _ in machine.served)
    assert abs(machine.served[-1][1]) < 1e-5
    assert {later - earlier for earlier, later in pairwise(machine.names)} == {timedelta(seconds=5)}


@pytest.mark.parametrize(
    ("step_s", "skipped", "taken"), [(0.5, 0, 0), (-0.5, 0, 0), (3600, 720, 0), (-3600, 0, 720)]
)
def test_a_clock_that_was_set_has_its_slots_at_once(
    step_s: float, skipped: int, taken: int
) -> None:
    machine = Machine()
    machine.run(2 * 3600)
    before = len(machine.served)
    machine.wall_s += step_s
    machine.run(2 * 3600)
    assert (machine.skipped, machine.taken) == (skipped, taken)
    assert len(machine.served) - before == pytest.approx(1440 - taken, abs=1)
    assert len({*machine.names}) == len(machine.names)
    assert all(-1e-5 <= late_s <= TOLERANCE * 5 for _, late_s, _ in machine.served)
    assert all(late_s < 1e-5 for _, late_s, _ in machine.served[before + 1 :])


def test_times_without_a_row_are_there_for_a_clock_that_was_set_back() -> None:
    """It was wrong at the start of the machine, by an hour: its own time is still free."""
    machine = Machine()
    machine.run(600)
    machine.wall_s -= 3600
    machine.run(3600 + 60)
    assert machine.taken == 120  # the ten minutes recorded under the wrong time
    assert len(machine.served) == pytest.approx(120 + 720 - 120 + 12, abs=1)
    assert len({*machine.names}) == len(machine.names)


def test_a_clock_set_forward_and_back_again_leaves_no_hole_between() -> None:
    machine = Machine()
    machine.run(60)
    machine.wall_s += 3600
    machine.run(60)
    machine.wall_s -= 3600
    machine.run(3600 - 120)
    assert (machine.skipped, machine.taken) == (720, 0)
    machine.run(120)
    assert machine.taken == 12
    assert len({*machine.names}) == len(machine.names)


def test_a_clock_set_right_again_ends_the_wait_for_free_times() -> None:
    machine = Machine()
    machine.run(3600)
    machine.wall_s -= 3600
    machine.run(60)
    machine.wall_s += 3600
    before = len(machine.served)
    machine.run(60)
    assert machine.taken == 12
    assert machine.skipped == pytest.approx(720 - 12 + 12, abs=1)  # passed by the second step
    assert len(machine.served) - before == 12


@pytest.mark.parametrize("slept_s", [2.0, 8.0, 3600.0])
def test_slots_of_a_sleep_are_skipped_as_such(slept_s: float) -> None:
    machine = Machine()
    machine.run(61)
    machine.sleep(slept_s)
    machine.run(60)
    assert machine.taken == 0
    assert machine.skipped == pytest.approx(slept_s / 5, abs=1)
    for due in machine.skips:
        assert due.slept_s == slept_s
        assert due.set_s == pytest.approx(0, abs=1e-5)
    assert all(late_s <= TOLERANCE * 5 for _, late_s, _ in machine.served)


def test_a_process_that_did_not_run_skips_without_blaming_the_clocks() -> None:
    machine = Machine()
    machine.run(61)
    machine.pass_(17.0)
    assert machine.look() == Due(None, None, 3)
    machine.run(60)
    assert machine.skipped == 3


@pytest.mark.parametrize(
    ("late_s", "served", "skipped"),
    [(0.0, "12:00:05", 0), (2.5, "12:00:05", 0), (2.6, None, 1), (5.0, "12:00:10", 1)],
)
def test_a_slot_is_served_up_to_half_an_interval_late(
    late_s: float, served: str | None, skipped: int
) -> None:
    machine = Machine()
    machine.pass_(4.0 + late_s)
    due = machine.look()
    slot = None if served is None else datetime.fromisoformat(f"2026-03-02T{served}+00:00")
    assert (due.slot, due.skipped) == (slot, skipped)


def test_a_correction_that_ends_beyond_half_an_interval_is_caught_up_at_once() -> None:
    machine = Machine(0.1)
    machine.run(10)
    machine.wall_s += 0.3  # less than a step, on this clock
    machine.run(10)
    assert (machine.skipped, machine.taken) == (3, 0)
    machine.wall_s -= 0.3
    machine.run(10)
    assert (machine.skipped, machine.taken) == (3, 3)


@pytest.mark.parametrize("interval_s", [0.0, -5.0, float("inf"), float("nan"), 1e-7])
def test_what_has_no_slots_is_refused(interval_s: float) -> None:
    with pytest.raises(ValueError, match="no slots"):
        Slots(interval_s, Clocks(NOON, 0.0))


def test_an_interval_of_ages_is_waited_for() -> None:
    assert Slots(1e300, Clocks(NOON, 0.0)).due_s > 1e290


def steps_of_a_month(machine: Machine) -> list[tuple[float, Callable[[], None]]]:
    """What the clocks of `machine` go through, and on which day."""

    def set_by(seconds: float) -> Callable[[], None]:
        def do() -> None:
            machine.wall_s += seconds

        return do

    def run_at(rate: float) -> Callable[[], None]:
        def do() -> None:
            machine.rate = rate

        return do

    return [
        (1.01, set_by(0.5)),
        (2.02, set_by(-0.5)),
        (3.03, run_at(5e-4)),
        (3.53, run_at(-5e-5)),
        (5.05, set_by(3600.0)),
        (5.06, set_by(-3600.0)),
        (8.07, run_at(-1 / 12)),
        (8.0701, run_at(5e-5)),
        (11.11, set_by(-3600.0)),
        (14.5, set_by(3600.0)),
        (17.17, lambda: machine.sleep(7 * 3600.0)),
        (20.2, lambda: machine.pass_(47.0)),
        (23.3, run_at(-5e-5)),
        (26.6, set_by(-0.5)),
        (28.8, lambda: machine.sleep(3.0)),
    ]


@pytest.mark.parametrize("begins", [(2026, 3, 1), (2026, 10, 20)], ids=["spring", "autumn"])
def test_a_month_without_a_slot_twice_or_lost_uncounted(begins: tuple[int, int, int]) -> None:
    """Clocks change in New York on 8 March and on 1 November: slots don't notice."""
    machine = Machine(begins=datetime(*begins, tzinfo=NEW_YORK), rate=5e-5, zone=NEW_YORK)
    forward_s, steps = 0.0, steps_of_a_month(machine)
    for day, happens in [*steps, (30.0, lambda: None)]:
        before_s = machine.wall_s
        machine.run(1_000.0 + day * DAY_S - machine.monotonic_s)
        middle_s = machine.wall_s
        happens()
        forward_s += middle_s - before_s + max(0.0, machine.wall_s - middle_s)
    assert len({*machine.names}) == len(machine.names)
    assert all(slot.timestamp() % 5 == 0 for slot in machine.names)
    # Every slot that the wall clock has passed is served, taken or counted; of the one in which it
    # is set it may have passed a part only.
    passed = len(machine.served) + machine.taken + machine.skipped
    assert passed == pytest.approx(forward_s / 5, abs=len(steps))
    twice = 720 + 0.01 * DAY_S / 5  # an hour, and what was recorded under a time an hour ahead
    assert machine.taken == pytest.approx(twice, abs=len(steps))
    # A slot that is missing in the end has been counted.
    lacking = sum(
        round((later - earlier).total_seconds() / 5) - 1
        for earlier, later in pairwise(sorted(machine.names))
    )
    assert lacking <= machine.skipped
    assert max(late_s for _, late_s, _ in machine.served) <= TOLERANCE * 5
