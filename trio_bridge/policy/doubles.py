"""Whether two services record the same account into one database, so that slots have two rows.

Rows of the same slot and the same accounts have one id, so there are two only where ids differ: of
an older version, of other sets of accounts that overlap, or at other intervals.

This is detected by its effect, not prevented by a lock: connections of a pooler share their locks,
and a frozen service would keep its replacement from recording.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from trio_bridge.policy.schedule import TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from datetime import datetime

LOOK_BACK_S = 60.0
FEWEST_SLOTS = 4
"""At least this many slots are judged, even of a slow grid."""

LONGEST_LOOK_BACK_S = 7 * 86_400.0

FEWEST_DOUBLED = 2
"""One service taking over from another leaves a single doubled slot."""

SMALLEST_PART = 1 / 8
"""The least share of an account's rows: on a busy machine two rows may sometimes come a little too
close."""

SHORTER = 0.51
"""Two services that record every 5 s have spacings like 1, 4, 1, 4 s: every other one is at least
half the interval. So if even their 75th percentile is below 0.51 intervals, the rows were recorded
at a shorter interval, and that percentile is taken as the interval."""


class Doubled(NamedTuple):
    """The accounts recorded twice, and the number of doubled slots of the worst of them."""

    accounts: tuple[str, ...]
    slots: int


def look_back_s(interval_s: float) -> float:
    """How many seconds of rows are enough for a verdict."""
    return min(max(LOOK_BACK_S, FEWEST_SLOTS * interval_s), LONGEST_LOOK_BACK_S)


def doubled_slots(
    rows: Iterable[tuple[datetime, str | None]],
    interval_s: float,
    *,
    ours: Container[str] | None = None,
) -> Doubled | None:
    """Judge rows in order of time; None: each slot has one row per account.

    Two rows of one service are an interval apart, of an older version at least half of one. With
    two services, every other row is closer than that to the previous one, wherever their grids lie.

    Args:
        rows: each row's time and its accounts, joined by commas; None where they are unknown.
        interval_s: between the slots of the grid, in seconds.
        ours: the accounts to judge; None for all.
    """
    taken: dict[str, list[datetime]] = defaultdict(list)
    for at, accounts in rows:
        for account in {*(accounts or "").split(",")} - {""}:
            if ours is None or account in ours:
                taken[account].append(at)
    doubled = {
        account: slots
        for account, times in taken.items()
        if (slots := _close(times, interval_s)) >= max(FEWEST_DOUBLED, SMALLEST_PART * len(times))
    }
    return Doubled(tuple(sorted(doubled)), max(doubled.values())) if doubled else None


def _close(times: Sequence[datetime], interval_s: float) -> int:
    """How many rows come too soon after the previous one."""
    spacings = sorted((after - before).total_seconds() for before, after in pairwise(times))
    if not spacings:
        return 0
    wide_s = spacings[len(spacings) * 3 // 4]
    if wide_s < SHORTER * interval_s:
        interval_s = wide_s
    return sum(spacing < TOLERANCE * interval_s for spacing in spacings)
