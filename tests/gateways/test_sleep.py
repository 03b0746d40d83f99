"""A machine that slept is told by its two clocks, and a corrected clock is no sleep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from trio_bridge.gateways.readiness import Blocked, Reason
from trio_bridge.gateways.sleep import SleepWatch

START = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("wall_s", "monotonic_s", "slept"),
    [
        (5.0, 5.0, None),
        (3605.0, 5.0, "3600 s"),  # suspended
        (15.1, 5.0, "10 s"),
        (14.9, 5.0, None),  # corrected
        (-3595.0, 5.0, None),
        (3600.0, 3600.0, None),  # stopped, but the clocks went on: timers tell that
    ],
)
def test_a_sleep_is_what_only_the_wall_clock_counts(
    wall_s: float, monotonic_s: float, slept: str | None
) -> None:
    watch = SleepWatch()
    watch.restart(START, 100.0)
    found = watch.look(START + timedelta(seconds=wall_s), 100.0 + monotonic_s)
    assert found == (None if slept is None else Blocked(Reason.ASLEEP, slept))


def test_each_sleep_is_told_once() -> None:
    watch = SleepWatch()
    watch.restart(START, 0.0)
    assert watch.look(START + timedelta(hours=1), 0.0) == Blocked(Reason.ASLEEP, "3600 s")
    assert watch.look(START + timedelta(hours=1, seconds=5), 5.0) is None


def test_a_sleep_between_two_connections_is_none() -> None:
    watch = SleepWatch()
    watch.restart(START, 0.0)
    watch.restart(START + timedelta(hours=1), 0.0)
    assert watch.look(START + timedelta(hours=1, seconds=5), 5.0) is None
