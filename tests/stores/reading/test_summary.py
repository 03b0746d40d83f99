"""The part of a day that has rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from trio_bridge.stores.reading.summary import Summary

NOW = datetime(2026, 1, 2, 14, 30, tzinfo=UTC)
EMPTY = Summary(NOW - timedelta(days=1), None, 0, 0, 0, None, ())


def test_without_a_row_nothing_can_be_said() -> None:
    assert EMPTY.coverage(NOW, 5.0) is None


@pytest.mark.parametrize(
    ("ago_s", "right", "coverage"),
    [
        (100, 20, 1.0),
        (100, 10, 0.5),
        (100, 0, 0.0),
        (100, 21, 1.0),  # the row of this very moment is there already
        (1, 1, 1.0),  # the first row has just come
        (1, 0, 0.0),
        (0, 1, 1.0),
    ],
)
def test_slots_count_from_the_first_row_on(ago_s: float, right: int, coverage: float) -> None:
    first = NOW - timedelta(seconds=ago_s)
    summary = replace(EMPTY, rows=21, right=right, first_at=first)
    assert summary.coverage(NOW, 5.0) == coverage
