"""What the database says about the last day: the last row, how much of the time is covered, and
what happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.postgres import TROUBLE
from trio_bridge.stores.database.sqlstate import store_error
from trio_bridge.stores.reading.landing import LandedEvent, LandedRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_LAST_ROWS: LiteralString = """
    SELECT id, timestamp, account, delta, gamma, vega, theta, underlying_price,
           positions, priced, greeks_age_s, data_type
    FROM portfolio_greeks WHERE contract = 'PORTFOLIO' ORDER BY timestamp DESC LIMIT 1
"""
_COVERED: LiteralString = """
    SELECT count(*), count(delta), count(*) FILTER (WHERE priced = positions), min(timestamp),
           max(timestamp) FILTER (WHERE delta IS NOT NULL),
           EXISTS (SELECT FROM portfolio_greeks
                   WHERE contract = 'PORTFOLIO' AND timestamp < %(since)s)
    FROM portfolio_greeks WHERE contract = 'PORTFOLIO' AND timestamp >= %(since)s
"""
_LAST_EVENTS: LiteralString = """
    SELECT id, timestamp, api_mode, message, status, kind
    FROM api_logs ORDER BY timestamp DESC, id DESC LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Summary:
    """`rows` since `since`: of these `right` have Greeks, `complete` cover every position.

    `first_at` is the first of them, or `since` when there are earlier ones: a gap at the beginning
    counts. `right_at` is the last right one. `events` come oldest first.
    """

    since: datetime
    last: LandedRow | None
    rows: int
    right: int
    complete: int
    first_at: datetime | None
    right_at: datetime | None
    events: Sequence[LandedEvent]

    def coverage(self, now: datetime, interval_s: float) -> float | None:
        """The part of the slots since `first_at` that has a right row; None: there is no row."""
        if self.first_at is None:
            return None
        slots = (now - self.first_at).total_seconds() / interval_s
        return min(1.0, self.right / max(slots, 1.0))


async def read_summary(conninfo: str, *, since: datetime, events: int) -> Summary:
    """Ask the database. Bound it from outside.

    Raises:
        StoreError: the database or a table is not there (yet).
    """
    try:
        connection = await TrioConnection.connect(conninfo, autocommit=True)
        try:
            last = await (await connection.execute(_LAST_ROWS)).fetchone()
            covered = await (await connection.execute(_COVERED, {"since": since})).fetchone()
            happened = await (await connection.execute(_LAST_EVENTS, [events])).fetchall()
        finally:
            connection.drop()
    except TROUBLE as error:
        raise store_error(error) from error
    assert covered is not None
    rows, right, complete, first_at, right_at, recorded_before = covered
    return Summary(
        since=since,
        last=None if last is None else LandedRow(*last),
        rows=rows,
        right=right,
        complete=complete,
        first_at=since if rows and recorded_before else first_at,
        right_at=right_at,
        events=[LandedEvent(*row) for row in reversed(happened)],
    )
