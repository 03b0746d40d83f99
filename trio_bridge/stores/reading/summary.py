"""What the database knows about the recent past: the last row, the coverage, the latest events, and
whose rows there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_bridge.identity import is_key
from trio_bridge.model import RecentRow
from trio_bridge.rows import PORTFOLIO_GREEKS
from trio_bridge.stores.database.reader import Reader, reading
from trio_bridge.stores.reading.buckets import PARTIAL
from trio_bridge.stores.reading.landing import EVENT_COLUMNS, ROW_COLUMNS, LandedEvent, LandedRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from trio_bridge.stores.database.connection import TrioConnection

_LAST_ROW = f"""
    SELECT {ROW_COLUMNS} FROM portfolio_greeks
    WHERE {PORTFOLIO_GREEKS.ours} ORDER BY timestamp DESC LIMIT 1
"""
_COVERED = f"""
    SELECT count(*), count(delta), count(*) FILTER (WHERE NOT {PARTIAL}), min(timestamp),
           EXISTS (SELECT FROM portfolio_greeks
                   WHERE {PORTFOLIO_GREEKS.ours} AND timestamp < %(since)s)
    FROM portfolio_greeks WHERE {PORTFOLIO_GREEKS.ours} AND timestamp >= %(since)s
"""
_NEWEST = f"SELECT max(timestamp) FROM portfolio_greeks WHERE {PORTFOLIO_GREEKS.ours}"
_LAST_EVENTS = f"""
    SELECT {EVENT_COLUMNS} FROM api_logs ORDER BY timestamp DESC, id DESC LIMIT %s
"""
_RECENT = f"""
    SELECT timestamp, account::text, recorder::text FROM portfolio_greeks
    WHERE {PORTFOLIO_GREEKS.ours} AND timestamp BETWEEN %s AND %s ORDER BY timestamp, id
"""
_NAMES = "SELECT key, accounts FROM account_sets WHERE key = ANY (%s)"


@dataclass(frozen=True, slots=True)
class Summary:
    """`rows` since `since`: of these `right` have Greeks, `complete` cover every position.

    `first_at` is the first of them, or `since` when there are earlier ones: a gap at the beginning
    counts. `events` come oldest first.
    """

    since: datetime
    last: LandedRow | None
    rows: int
    right: int
    complete: int
    first_at: datetime | None
    events: Sequence[LandedEvent]

    def coverage(self, now: datetime, interval_s: float) -> float | None:
        """The part of the slots since `first_at` that has a row with Greeks; None: there is no
        row."""
        if self.first_at is None:
            return None
        slots = (now - self.first_at).total_seconds() / interval_s
        return min(1.0, self.right / max(slots, 1.0))


async def read_summary(conninfo: str, *, since: datetime, events: int) -> Summary:
    """Ask the database. Bound it from outside.

    Raises:
        StoreError: the database or a table is not there (yet).
    """
    async with reading(conninfo) as connection:
        last = await (await connection.execute(_LAST_ROW)).fetchone()
        covered = await (await connection.execute(_COVERED, {"since": since})).fetchone()
        happened = await last_events(connection, events)
    assert covered is not None
    rows, right, complete, first_at, recorded_before = covered
    return Summary(
        since=since,
        last=None if last is None else LandedRow(*last),
        rows=rows,
        right=right,
        complete=complete,
        first_at=since if rows and recorded_before else first_at,
        events=happened,
    )


async def last_events(connection: TrioConnection, limit: int) -> list[LandedEvent]:
    """The latest events, oldest first. Raises psycopg's errors."""
    cursor = await connection.execute(_LAST_EVENTS, [limit])
    return [LandedEvent(*row) for row in reversed(await cursor.fetchall())]


async def newest_row(reader: Reader) -> datetime | None:
    """The time that the last row bears. Bound it from outside.

    Raises:
        StoreError: the database or the table is not there (yet).
    """
    async with reader.connection() as connection:
        found = await (await connection.execute(_NEWEST)).fetchone()
    return None if found is None else found[0]


async def recent_rows(reader: Reader, since: datetime, until: datetime) -> list[RecentRow]:
    """The rows between two instants, in their order, whoever recorded them. Bound it from outside.

    Raises:
        StoreError: the database or the table is not there (yet).
    """
    async with reader.connection() as connection:
        cursor = await connection.execute(_RECENT, [since, until])
        rows = [RecentRow(*row) for row in await cursor.fetchall()]
        keys = sorted({row.accounts for row in rows if row.accounts and is_key(row.accounts)})
        names: dict[str | None, str] = {}
        if keys:
            names = dict(await (await connection.execute(_NAMES, [keys])).fetchall())
    return [row._replace(accounts=names.get(row.accounts, row.accounts)) for row in rows]
