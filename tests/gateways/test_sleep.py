"""Three clocks tell a machine that slept from a wall clock that was set."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from trio_bridge.events.service import ClockStepped
from trio_bridge.gateways.readiness import Blocked, Reason
from trio_bridge.gateways.sleep import SleepWatch, slept_s
from trio_bridge.policy.clocks import Clocks

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_bridge.events.event import Event

START = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Machine:
    """Its clocks, and what the watch makes of them."""

    def __init__(self) -> None:
        self.wall, self.monotonic_s, self.slept_s = START, 100.0, 7.0
        self.events: list[Event] = []
        self.watch = SleepWatch(self.events.append, slept=lambda: self.slept_s)
        self.restart()

    def restart(self) -> None:
        self.watch.restart(self.clocks())

    def clocks(self) -> Clocks:
        return Clocks(self.wall, self.monotonic_s, self.slept_s)

    def after(self, wall_s: float, monotonic_s: float, slept_s: float = 0.0) -> Blocked | None:
        self.wall += timedelta(seconds=wall_s)
        self.monotonic_s += monotonic_s
        self.slept_s += slept_s
        return self.watch.look(self.clocks())


@pytest.mark.parametrize(
    ("wall_s", "monotonic_s", "slept_s", "found", "stepped_s"),
    [
        (5.0, 5.0, 0.0, None, None),
        (3605.0, 5.0, 3600.0, Blocked(Reason.ASLEEP, "3600 s"), None),
        (14.9, 5.0, 9.9, None, None),  # a nap
        (3600.0, 3600.0, 0.0, None, None),  # stopped, but the clocks went on: timers tell that
        (3605.0, 5.0, 0.0, Blocked(Reason.CLOCK_SET, "3600 s"), 3600.0),  # set, or paused
        (14.9, 5.0, 0.0, None, 9.9),
        (5.5, 5.0, 0.0, None, 0.5),
        (5.42, 5.0, 0.0, None, None),  # as fast as clocks are corrected without a step
        (3601.8, 3600.0, 0.0, None, None),  # at the rate of a steady correction
        (-3595.0, 5.0, 0.0, None, -3600.0),
        (4.5, 5.0, 0.0, None, -0.5),
        (65.0, 5.0, 3600.0, Blocked(Reason.ASLEEP, "3600 s"), -3540.0),  # both
    ],
)
def test_a_sleep_and_a_step_of_the_clock_are_two_things(
    wall_s: float,
    monotonic_s: float,
    slept_s: float,
    found: Blocked | None,
    stepped_s: float | None,
) -> None:
    machine = Machine()
    assert machine.after(wall_s, monotonic_s, slept_s) == found
    if stepped_s is None:
        assert machine.events == []
    else:
        after = START + timedelta(seconds=wall_s)
        (step,) = machine.events
        assert isinstance(step, ClockStepped)
        assert step.step_s == pytest.approx(stepped_s)
        assert (step.before, step.after) == (START, after)


def test_each_is_told_once() -> None:
    machine = Machine()
    assert machine.after(3600, 0, 3600) == Blocked(Reason.ASLEEP, "3600 s")
    assert machine.after(5, 5) is None
    machine.after(-3600, 0)
    machine.after(5, 5)
    assert len(machine.events) == 1


def test_a_sleep_between_two_connections_is_none_but_a_step_is() -> None:
    machine = Machine()
    machine.wall += timedelta(hours=1)
    machine.slept_s += 3600
    machine.restart()
    assert machine.events == []
    machine.wall += timedelta(hours=1)
    machine.restart()
    assert machine.after(5, 5) is None
    assert [type(event) for event in machine.events] == [ClockStepped]


async def test_a_pause_between_two_clocks_is_no_step(mock_clock: MockClock) -> None:
    watch = SleepWatch(lambda event: None, slept=lambda: 7.0)
    pauses = iter([3.0, 0.2, 0.0])

    def now() -> datetime:
        wall = START + timedelta(seconds=trio.current_time())
        mock_clock.jump(next(pauses))
        return wall

    clocks = watch.read(now)
    assert clocks == Clocks(START + timedelta(seconds=3.2), 3.2, 7.0)
    assert [*pauses] == []


def test_the_real_clock_of_sleep_does_not_run_while_awake() -> None:
    before = slept_s()
    time.sleep(0.2)
    assert before >= -0.01
    assert slept_s() - before < 0.1
