"""What a row is worth, in one word. Pure.

========  ==================================================================================
complete  every position counts in each sum, and no Greeks in them are old
stale     every position counts, but some with Greeks older than `stale_after_s`
partial   some position does not count (`priced` < `positions`), or an exchange rate is missing
standby   there is no row, because another records, and this bridge could take over
blind     there is no row: not one within `INTERVALS_ALLOWED` intervals
========  ==================================================================================

It is computed once, with the row, and stored in it. The page, `/readyz`, `/metrics`, `status`,
events and alerts say this word; none of them judges a row by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_bridge.model import Verdict

if TYPE_CHECKING:
    from trio_bridge.rows import PortfolioRow

RENEWAL_S = 60.0
"""A market-data line that has said nothing for this long is asked whether it still lives: a quiet
option has nothing to say, so until then its silence means nothing."""


def stale_after_s(interval_s: float) -> float:
    """The age in seconds from which something in a row of this interval is old."""
    return 2 * interval_s + RENEWAL_S


def suffices(verdict: Verdict, delta: float | None, ready: Verdict) -> bool:
    """Whether the last row is as good as BRIDGE_READY demands; one without numbers never is."""
    return verdict.rank <= ready.rank and delta is not None


def verdict_of(row: PortfolioRow) -> Verdict:
    """The verdict on a stored row. Rows of older versions have none: what they know decides."""
    if row.verdict is not None:
        return Verdict(row.verdict)
    incomplete = row.priced is not None and row.priced != row.positions
    return Verdict.PARTIAL if row.delta is None or incomplete else Verdict.COMPLETE


def judge(*, complete: bool, age_s: float, interval_s: float) -> Verdict:
    """The verdict on a row.

    Args:
        complete: whether every position counts in each of its sums.
        age_s: the age of the oldest Greeks in them; 0 if there are none. That of the positions does
            not count here: a gateway that polls them has a bound of its own, beyond which there
            is no row.
        interval_s: how far apart rows are.
    """
    if not complete:
        return Verdict.PARTIAL
    return Verdict.STALE if age_s > stale_after_s(interval_s) else Verdict.COMPLETE
