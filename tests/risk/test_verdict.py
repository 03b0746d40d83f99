"""What a row is worth, in one word."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from trio_bridge.model import Verdict
from trio_bridge.risk.verdict import judge, stale_after_s, suffices, verdict_of
from trio_bridge.rows import PortfolioRow


@pytest.mark.parametrize(
    ("complete", "age_s", "verdict"),
    [
        (True, 0.0, Verdict.COMPLETE),
        (True, 70.0, Verdict.COMPLETE),
        (True, 70.1, Verdict.STALE),
        (False, 0.0, Verdict.PARTIAL),
        (False, 70.1, Verdict.PARTIAL),
    ],
)
def test_the_verdict(complete: bool, age_s: float, verdict: Verdict) -> None:
    found = judge(complete=complete, age_s=age_s, interval_s=5.0)

    assert found is verdict


def test_old_means_two_intervals_more_than_a_silent_line_may_take_to_be_renewed() -> None:
    assert stale_after_s(0.1) == pytest.approx(60.2)
    assert stale_after_s(60.0) == 180.0


@pytest.mark.parametrize(
    ("ready", "enough"),
    [
        (Verdict.COMPLETE, {Verdict.COMPLETE}),
        (Verdict.STALE, {Verdict.COMPLETE, Verdict.STALE}),
        (Verdict.PARTIAL, {Verdict.COMPLETE, Verdict.STALE, Verdict.PARTIAL}),
    ],
)
def test_a_row_is_enough_if_it_has_numbers_and_is_as_good_as_the_user_demands(
    ready: Verdict, enough: set[Verdict]
) -> None:
    assert {one for one in Verdict if suffices(one, 1.0, ready)} == enough
    assert not any(suffices(one, None, ready) for one in Verdict)


@pytest.mark.parametrize(
    ("stored", "delta", "positions", "priced", "verdict"),
    [
        ("stale", 1.0, 2, 2, Verdict.STALE),
        ("partial", 1.0, 2, 1, Verdict.PARTIAL),
        (None, 1.0, 2, 2, Verdict.COMPLETE),
        (None, 1.0, 2, 1, Verdict.PARTIAL),
        (None, None, 2, 0, Verdict.PARTIAL),
        (None, 1.0, None, None, Verdict.COMPLETE),
    ],
)
def test_rows_of_older_versions_are_judged_by_what_they_know(
    stored: str | None,
    delta: float | None,
    positions: int | None,
    priced: int | None,
    verdict: Verdict,
) -> None:
    values: dict[str, Any] = dict.fromkeys(PortfolioRow.__dataclass_fields__)
    values |= {"delta": delta, "positions": positions, "priced": priced, "verdict": stored}
    row = PortfolioRow(**values | {"timestamp": datetime(2026, 1, 2, tzinfo=UTC)})

    assert verdict_of(row) is verdict
