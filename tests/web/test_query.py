"""What may be asked, and what bad questions are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.web.query import (
    MOST_EVENTS,
    MOST_POINTS,
    BadQueryError,
    events_wanted,
    window_of,
)

NOW = datetime(2026, 1, 2, 14, 30, tzinfo=UTC)


def test_the_last_quarter_of_an_hour_is_what_nothing_asks_for() -> None:
    window = window_of({}, now=NOW, interval_s=5)

    assert (window.start, window.end) == (NOW - timedelta(minutes=15), NOW)
    assert window.bucket_s == 5


@pytest.mark.parametrize(
    "text",
    ["2026-01-02T12:00:00Z", "2026-01-02T13:00:00+01:00", "1767355200", "1767355200.0"],
)
def test_a_time_may_be_written_in_several_ways(text: str) -> None:
    window = window_of({"from": text}, now=NOW, interval_s=5)

    assert window.start == datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_a_month_in_so_many_points_has_buckets_of_whole_intervals() -> None:
    query = {"from": "2025-12-03T14:30:00Z", "points": "601"}

    window = window_of(query, now=NOW, interval_s=5)

    assert window.bucket_s == 4_320
    assert window.bucket_s % 5 == 0


@given(
    span_s=st.floats(1, 3_700 * 86_400),
    points=st.integers(1, MOST_POINTS),
    interval_s=st.sampled_from([0.1, 0.25, 1.0, 5.0, 60.0]),
)
def test_there_are_never_more_buckets_than_points(
    span_s: float, points: int, interval_s: float
) -> None:
    query = {"from": f"{NOW.timestamp() - span_s:.3f}", "points": str(points)}

    window = window_of(query, now=NOW, interval_s=interval_s)

    # Laid over the clock, buckets may begin before the window and end behind it.
    touched = (window.end - window.start).total_seconds() / window.bucket_s + 1
    assert touched <= max(points, 2) + 1e-6
    assert window.bucket_s >= interval_s


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"from": "yesterday"}, "from must be a time"),
        ({"to": ""}, "to must be a time"),
        ({"from": "2026-01-02T12:00:00"}, "must say its offset"),
        ({"from": "2026-01-02T15:00:00Z"}, "from must be before to"),
        ({"from": "2026-01-02T14:30:00Z"}, "from must be before to"),
        ({"from": "2010-01-01T00:00:00Z"}, "at most 3700 days"),
        ({"from": "1900-01-01T00:00:00Z"}, "between 1990 and 2200"),
        ({"to": "99999999999"}, "between 1990 and 2200"),
        ({"to": "999999999999999999"}, "to must be a time"),
        ({"from": "nan"}, "from must be a time"),
        ({"from": "1e9"}, "from must be a time"),
        ({"from": "'; DROP TABLE portfolio_greeks; --"}, "from must be a time"),
        ({"points": "0"}, "points must be a whole number from 1 to 2000"),
        ({"points": "2001"}, "points must be"),
        ({"points": "-5"}, "points must be"),
        ({"points": "6e2"}, "points must be"),
        ({"points": "٦"}, "points must be"),
        ({"points": "9" * 5_000}, "points must be"),
        ({"form": "2026-01-02T12:00:00Z"}, "unknown parameter: 'form'"),
    ],
)
def test_a_bad_question_is_told_what_is_allowed(query: dict[str, str], told: str) -> None:
    with pytest.raises(BadQueryError, match=told):
        window_of(query, now=NOW, interval_s=5)


def test_so_many_events_and_no_more() -> None:
    assert events_wanted({}) == 50
    assert events_wanted({"limit": "7"}) == 7
    for bad in ("0", str(MOST_EVENTS + 1), "many"):
        with pytest.raises(BadQueryError, match="limit must be"):
            events_wanted({"limit": bad})
