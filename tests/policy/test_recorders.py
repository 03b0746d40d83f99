"""When a standby takes over and steps back, and how soon rows are handed over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from trio_bridge.events.service import SteppedBack, TookOver
from trio_bridge.identity import as_standby
from trio_bridge.model import Verdict
from trio_bridge.policy.recorders import (
    FIRST_YIELDED,
    LONGEST_LOOK_S,
    LONGEST_PAUSE_S,
    PATIENCE,
    YIELDED_EVERY,
    Recorders,
)

INTERVAL_S = 5.0
START = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
PRIMARY = "nas:12-ab34"
LOOK_S = 0.5


class Bench:
    """A recorder that looks at the table every `LOOK_S`, and one or more others that write to it.

    Times are seconds since START on the recorder's own clock.
    """

    def __init__(self, *, name: str = "pi:7-cd56", stands_by: bool = True) -> None:
        self.recorders = Recorders(name, INTERVAL_S, stands_by=stands_by)
        self.is_able = True
        self.trouble = ""
        self.table: list[tuple[float, float, str]] = []
        """When it is there, its slot, and whose it is."""
        self.events: list[tuple[float, TookOver | SteppedBack]] = []
        self._now = 0.0

    def writes(self, name: str, slots: range, *, late_s: float = 0.0) -> None:
        self.table += [(slot + late_s, float(slot), name) for slot in slots]

    def run(self, until: float) -> None:
        while self._now < until:
            self._now += LOOK_S
            self.look()

    def look(self) -> None:
        now, wall = self._now, START + timedelta(seconds=self._now)
        if self.trouble:
            self.recorders.failed(self.trouble)
        else:
            rows = [
                (START + timedelta(seconds=slot), name)
                for there_at, slot, name in self.table
                if there_at <= now and abs(slot - now) <= 12 * INTERVAL_S
            ]
            self.recorders.saw(rows, now, wall)
        event = self.recorders.decide(now, is_able=self.is_able)
        if event is not None:
            assert isinstance(event, TookOver | SteppedBack)
            self.events.append((now, event))

    @property
    def kinds(self) -> list[str]:
        return [event.kind for _, event in self.events]


# Taking over


def test_a_standby_rests_while_another_records() -> None:
    bench = Bench()
    bench.writes(PRIMARY, range(0, 3600, 5))
    bench.run(3600)
    assert bench.events == []
    assert bench.recorders.is_resting
    assert bench.recorders.other(3600) == PRIMARY
    assert bench.recorders.rests_because(3600) == f"{PRIMARY} records"


def test_it_takes_over_within_two_intervals_of_the_last_row() -> None:
    bench = Bench()
    bench.writes(PRIMARY, range(0, 105, 5), late_s=0.01)
    bench.run(200)
    [(at, event)] = bench.events
    assert isinstance(event, TookOver)
    assert PATIENCE * INTERVAL_S <= at - 100 <= 2 * INTERVAL_S - LOOK_S
    assert event.reason.startswith(f"no row from {PRIMARY} since ")
    assert not bench.recorders.is_resting
    assert bench.recorders.takeovers == 1


@pytest.mark.parametrize("skew_s", [-55.0, -2.0, 2.0, 55.0])
def test_the_other_machines_clock_does_not_matter(skew_s: float) -> None:
    bench = Bench()
    bench.table = [(at, at + skew_s, PRIMARY) for at in map(float, range(0, 105, 5))]
    bench.run(200)
    [(at, _)] = bench.events
    assert PATIENCE * INTERVAL_S <= at - 100 <= 2 * INTERVAL_S


def test_a_row_that_is_half_an_interval_late_is_waited_for() -> None:
    bench = Bench()
    bench.writes(PRIMARY, range(0, 105, 5))
    bench.writes(PRIMARY, range(105, 200, 5), late_s=2.5)
    bench.run(200)
    assert bench.events == []


def test_it_takes_over_when_the_database_cannot_be_asked() -> None:
    bench = Bench()
    bench.writes(PRIMARY, range(0, 3600, 5))
    bench.run(100)
    bench.trouble = "connection refused"
    bench.run(105)
    assert bench.events == [], "one failure is no reason yet"
    bench.run(110)
    [(at, event)] = bench.events
    assert at <= 100 + 2 * INTERVAL_S
    assert event == TookOver("the database can't be asked: connection refused")


def test_with_nobody_there_it_takes_over_from_the_start() -> None:
    bench = Bench()
    bench.run(10)
    assert bench.kinds == [TookOver.kind]


def test_it_takes_over_only_when_it_could_give_rows() -> None:
    """In a reset window, say, when both have lost their gateway; then the other gets its time."""
    bench = Bench()
    bench.is_able = False
    bench.run(1000)
    assert bench.events == []
    bench.is_able = True
    bench.run(1000 + PATIENCE * INTERVAL_S)
    assert bench.events == []
    bench.run(1000 + PATIENCE * INTERVAL_S + 2 * LOOK_S)
    assert bench.kinds == [TookOver.kind]


def test_what_the_process_before_has_left_is_nobody_who_records() -> None:
    """It has another name, and is dead."""
    bench = Bench(stands_by=False)
    bench.writes("pi:6-ab12", range(0, 10, 5))
    bench._now = 10.0
    bench.look()
    assert bench.recorders.other(10) is None
    bench.writes(PRIMARY, range(15, 30, 5))
    bench.run(30)
    assert bench.recorders.other(30) == PRIMARY


def test_its_own_rows_are_no_reason_to_rest() -> None:
    bench = Bench()
    bench.run(10)
    bench.writes(bench.recorders.name, range(10, 1000, 5))
    bench.run(1000)
    assert bench.kinds == [TookOver.kind]
    assert bench.recorders.other(1000) is None


# Stepping back


def test_it_steps_back_when_the_other_is_there_again() -> None:
    bench = Bench()
    bench.writes(PRIMARY, range(0, 50, 5))
    bench.run(100)
    bench.writes("nas:99-ffff", range(100, 200, 5))
    bench.run(200)
    assert [event for _, event in bench.events][1] == SteppedBack("nas:99-ffff")
    assert bench.kinds == [TookOver.kind, SteppedBack.kind]
    assert bench.events[1][0] <= 100 + 2 * INTERVAL_S


def test_a_single_row_does_not_bring_it_back() -> None:
    """The other's last one may be stored late; without a second one there would be a hole."""
    bench = Bench()
    bench.writes(PRIMARY, range(0, 50, 5))
    bench.run(60)
    bench.writes(PRIMARY, range(55, 60, 5))
    bench.run(100)
    bench.writes(PRIMARY, range(100, 105, 5))
    bench.run(200)
    assert bench.kinds == [TookOver.kind]


def test_old_rows_out_of_a_spool_do_not_bring_it_back() -> None:
    bench = Bench()
    bench.writes(PRIMARY, range(0, 50, 5))
    bench.run(100)
    for number, slot in enumerate(range(50, 80, 5)):
        bench.table.append((101.0 + number, float(slot), PRIMARY))
    bench.run(200)
    assert bench.kinds == [TookOver.kind]


def test_of_two_standbys_one_goes_on() -> None:
    first, second = Bench(name="a:1-0000"), Bench(name="b:1-0000")
    shared: list[tuple[float, float, str]] = []
    first.table = second.table = shared
    for now in range(0, 300, 5):
        for bench in (first, second):
            bench.run(now)
        awake = [one for one in (first, second) if not one.recorders.is_resting]
        if awake:
            # Mostly the one that has to step back is first.
            writer = awake[0] if now % 15 == 0 else awake[-1]
            shared.append((now + 2.5, float(now), writer.recorders.name))
    assert first.kinds == [TookOver.kind]
    assert second.kinds == [TookOver.kind, SteppedBack.kind]


def test_a_standby_makes_way_for_a_recorder_of_any_name() -> None:
    assert as_standby("a:1-0000") < "nas"
    bench = Bench(name="a:1-0000")
    bench.run(20)
    bench.writes("zzz:1-0000", range(20, 60, 5))
    bench.run(60)
    assert bench.kinds == [TookOver.kind, SteppedBack.kind]


def test_a_row_without_a_recorder_is_another_ones() -> None:
    bench = Bench()
    bench.writes("", range(0, 100, 5))
    bench.run(95)
    assert bench.events == []
    assert bench.recorders.rests_because(95) == "a service of an older version records"


# Handing over


def test_a_complete_row_is_handed_over_at_once() -> None:
    alone = Bench(stands_by=False)
    alone.writes(PRIMARY, range(0, 50, 5))
    alone.run(50)
    assert alone.recorders.hand_over_after_s(Verdict.COMPLETE, 50.0) == 0.0
    assert alone.events == []


@pytest.mark.parametrize("verdict", [Verdict.PARTIAL, Verdict.STALE])
def test_beside_another_a_row_that_lacks_something_waits(verdict: Verdict) -> None:
    beside = Bench(stands_by=False)
    beside.writes(PRIMARY, range(0, 500, 5))
    beside.run(499)
    waits = [beside.recorders.hand_over_after_s(verdict, 499.0) for _ in range(100)]
    assert waits == [INTERVAL_S / 5] * 100


def test_one_that_is_always_first_lets_others_go_first_now_and_then() -> None:
    """It can't know of them otherwise: their rows would never be stored."""
    alone = Recorders("pi:7-cd56", INTERVAL_S, stands_by=False)
    waits = [alone.hand_over_after_s(Verdict.PARTIAL, 0.0) > 0 for _ in range(100)]
    assert waits[:FIRST_YIELDED] == [True] * FIRST_YIELDED
    assert sum(waits) == FIRST_YIELDED + 100 // YIELDED_EVERY
    alone.hand_over_after_s(Verdict.COMPLETE, 0.0)
    assert alone.hand_over_after_s(Verdict.STALE, 0.0) > 0


def test_a_standby_hands_every_row_over_half_an_interval_late() -> None:
    standby = Recorders("pi:7-cd56", INTERVAL_S, stands_by=True)
    assert {standby.hand_over_after_s(one, 0.0) for one in Verdict} == {INTERVAL_S / 2}


@pytest.mark.parametrize("stands_by", [True, False])
def test_with_a_long_interval_no_row_is_unsafe_for_long(stands_by: bool) -> None:
    slow = Recorders("pi:7-cd56", 3600.0, stands_by=stands_by)
    assert 0 < slow.hand_over_after_s(Verdict.PARTIAL, 0.0) <= 2.5


# Looking


@pytest.mark.parametrize("interval_s", [0.1, 0.5, 5.0, 3600.0])
@pytest.mark.parametrize("stands_by", [True, False])
def test_every_look_is_bounded_and_the_next_one_is_later(
    interval_s: float, stands_by: bool
) -> None:
    recorders = Recorders("pi:7-cd56", interval_s, stands_by=stands_by)
    now = 0.0
    for number in range(50):
        if number % 3 == 0:
            recorders.failed("no answer")
        else:
            slot = START + timedelta(seconds=now)
            recorders.saw([(slot, PRIMARY)], now, slot)
        recorders.decide(now, is_able=True)
        assert 0 < recorders.look_limit_s(now) <= LONGEST_LOOK_S
        later = recorders.next_look_s(now, took_s=1.0)
        assert 0.099 <= later - now <= max(LONGEST_PAUSE_S, 0.9 * interval_s)
        now = later


def test_a_resting_standby_looks_little_more_than_once_for_each_row() -> None:
    recorders = Recorders("pi:7-cd56", INTERVAL_S, stands_by=True)
    now, looks = 0.0, 0
    while now < 1000:
        slot = START + timedelta(seconds=now // 5 * 5)
        recorders.saw([(slot, PRIMARY)], now, slot)
        assert recorders.decide(now, is_able=True) is None
        now = recorders.next_look_s(now, took_s=0.001)
        looks += 1
    assert looks <= 2.5 * 1000 / INTERVAL_S
