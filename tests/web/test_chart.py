"""The coverage that a chart tells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from trio_bridge.stores.reading.buckets import Bucket, Window
from trio_bridge.stores.reading.gaps import Gap
from trio_bridge.stores.reading.history import Chart
from trio_bridge.web.chart import chart_json

START = datetime(2026, 1, 2, 14, 0, tzinfo=UTC)


def at(slot: float) -> datetime:
    return START + timedelta(seconds=5 * slot)


def bucket(first: int, last: int, rows: int, right_rows: int | None = None) -> Bucket:
    right = rows if right_rows is None else right_rows
    return Bucket(rows, right, 0, 0, at(first), at(last), (0.0,) * 5, (0.5,) * 5, (1.0,) * 5)


def coverage(buckets: list[Bucket], gaps: list[Gap], slots: int = 12) -> tuple[int, int]:
    chart = Chart(Window(at(0), at(slots), 30, 5), buckets, gaps, at(0))
    told = chart_json(chart)["coverage"]
    return told["rows"], told["slots"]


def test_a_gapless_time_is_covered() -> None:
    assert coverage([bucket(0, 5, 6), bucket(6, 11, 6)], []) == (12, 12)


def test_a_row_that_has_not_come_yet_is_not_missing() -> None:
    assert coverage([bucket(0, 5, 6), bucket(6, 10, 5)], []) == (11, 11)


@pytest.mark.parametrize(
    ("gap", "missing"),
    [
        (Gap(at(3), at(5), is_open=False, interval_s=5), 1),
        (Gap(at(3), at(5.4), is_open=False, interval_s=5), 1),
        (Gap(at(3.4), at(5), is_open=False, interval_s=5), 1),
        (Gap(at(3), at(10), is_open=False, interval_s=5), 6),
        (Gap(at(-100), at(3), is_open=False, interval_s=5), 3),
        (Gap(at(7), at(12), is_open=True, interval_s=5), 5),
        (Gap(at(-9), at(12), is_open=True, interval_s=5), 12),
    ],
)
def test_every_slot_of_a_gap_within_the_window_is_missing(gap: Gap, missing: int) -> None:
    assert coverage([bucket(0, 5, 6)], [gap]) == (6, 6 + missing)


def test_a_slot_whose_row_may_still_be_on_its_way_is_not_missing() -> None:
    """It may be taken half an interval late, and be safe three seconds later."""
    for late, missing in ((2.54, 0), (2.56, 1), (3.54, 1), (3.56, 2), (12.54, 10)):
        window = Window(at(-3), at(late), 30, 5, now=at(late))
        for start, more in ((0, 0), (-99, 3)):
            gap = Gap(at(start), at(late), is_open=True, interval_s=5)
            assert gap.slots_within(window) == missing + more


def test_nothing_is_missing_in_the_future() -> None:
    window = Window(at(0), at(100), 30, 5, now=at(6))
    assert Gap(at(3), at(100), is_open=True, interval_s=5).slots_within(window) == 1


def test_the_page_gets_the_slots_of_each_gap() -> None:
    gaps = [Gap(at(1), at(5), False, interval_s=5), Gap(at(9), at(12), True, interval_s=5)]
    chart = Chart(Window(at(0), at(12), 30, 5), [bucket(0, 9, 6)], gaps, at(0))
    told = chart_json(chart)
    assert [gap["slots"] for gap in told["gaps"]] == [3, 3]
    assert told["coverage"]["slots"] == 6 + 3 + 3


def test_at_a_longer_interval_fewer_slots_are_missing() -> None:
    assert coverage([bucket(0, 5, 6)], [Gap(at(-1), at(12), True, interval_s=15)]) == (6, 6 + 4)


def test_rows_without_greeks_are_slots_that_were_not_covered() -> None:
    assert coverage([bucket(0, 5, 6, right_rows=4)], []) == (4, 6)


def test_lowest_and_highest_are_told_where_a_bucket_may_hold_several_rows() -> None:
    single = Chart(Window(at(0), at(12), 5, 5), [bucket(0, 0, 1)], [], at(0))
    several = Chart(Window(at(0), at(12), 30, 5), [bucket(0, 5, 6)], [], at(0))

    assert chart_json(single)["series"]["delta"] == {"last": [1.0]}
    assert chart_json(several)["series"]["delta"] == {"last": [1.0], "min": [0.0], "max": [0.5]}


def test_rows_that_are_partial_or_stale_are_not_counted_as_complete() -> None:
    """A partial row may have unknown Greeks."""
    mixed = bucket(0, 5, 6, right_rows=4)._replace(partial_rows=3, stale_rows=1)
    chart = Chart(Window(at(0), at(12), 30, 5), [mixed, bucket(6, 11, 6)], [], at(0))
    told = chart_json(chart)["coverage"]
    assert (told["rows"], told["complete"], told["slots"]) == (10, 8, 12)
