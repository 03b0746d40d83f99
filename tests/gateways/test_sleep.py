"""A machine that slept is told by its two clocks, and a corrected clock is no sleep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from trio_bridge.gateways.sleep import SleepWatch

START = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("wall_s", "monotonic_s", "slept_s"),
    [
        (5.0, 5.0, 0.0),
        (3605.0, 5.0, 3600.0),  # suspended
        (15.1, 5.0, 10.1),
        (14.9, 5.0, 0.0),  # corrected
        (-3595.0, 5.0, 0.0),
        (3600.0, 3600.0, 0.0),  # stopped, but the clocks went on: timers tell that
    ],
)
def test_a_sleep_is_what_only_the_wall_clock_counts(
    wall_s: float, monotonic_s: float, slept_s: float
) -> None:
    watch = SleepWatch()
    assert watch.slept_s(START, 100.0) == 0.0
    found = watch.slept_s(START + timedelta(seconds=wall_s), 100.0 + monotonic_s)
    assert found == pytest.approx(slept_s, abs=1e-3)


def test_each_sleep_is_told_once() -> None:
    watch = SleepWatch()
    watch.slept_s(START, 0.0)
    assert watch.slept_s(START + timedelta(hours=1), 0.0) == 3600.0
    assert watch.slept_s(START + timedelta(hours=1, seconds=5), 5.0) == 0.0
