"""Whether two services record the same account into one database: its slots then have two rows.

That is seen by its effect, not prevented by a lock: a pooler's connections share their locks, and a
service that stands still would keep the one that is to take over from recording.
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
"""So many are looked at, of a slow grid too."""

LONGEST_LOOK_BACK_S = 7 * 86_400.0

FEWEST_DOUBLED = 2
"""One alone is what a service leaves behind that another took over from."""

SMALLEST_PART = 1 / 8
"""Of an account's rows: a busy machine may bring two rows a little too close, now and then."""


SHORTER = 0.51
"""Of two services' spacings every other one is half an interval or more. When not even the widest
quarter is, the rows are of a time when the interval was a shorter one."""


class Doubled(NamedTuple):
    """So many slots hold two rows of each of these accounts, or of the worst of them."""

    accounts: tuple[str, ...]
    slots: int


def look_back_s(interval_s: float) -> float:
    """How many seconds of rows are enough to judge by."""
    return min(max(LOOK_BACK_S, FEWEST_SLOTS * interval_s), LONGEST_LOOK_BACK_S)


def doubled_slots(
    rows: Iterable[tuple[datetime, str | None]],
    interval_s: float,
    *,
    ours: Container[str] | None = None,
) -> Doubled | None:
    """Judge some rows in the order of their time; None: each slot has one row of an account.

    Two rows of one service are at least half an interval apart (`policy/schedule.py`); of two
    services', every other row is closer to the one before, wherever their grids lie.

    Args:
        rows: the time of each and its accounts, joined by commas; None where nobody knows them.
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
    """How many come too soon after the one before."""
    spacings = sorted((after - before).total_seconds() for before, after in pairwise(times))
    if not spacings:
        return 0
    wide_s = spacings[len(spacings) * 3 // 4]
    if wide_s < SHORTER * interval_s:
        interval_s = wide_s
    return sum(spacing < TOLERANCE * interval_s for spacing in spacings)
