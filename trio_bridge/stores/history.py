"""Reads back long stretches of what has landed, thinned out by the database: for charts.

A month is half a million rows and a chart has some hundred pixels, so the rows are gathered in
buckets of equal time, and of each bucket the lowest, the highest and the last value are kept: a
spike of one row is still seen. Where rows are missing is found exactly, whatever the bucket, and
what `api_logs` has to say about it comes along.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

import trio

from trio_bridge.errors import OutageError, SchemaMissingError
from trio_bridge.stores.connection import TrioConnection
from trio_bridge.stores.gaps import find_gaps
from trio_bridge.stores.postgres import TROUBLE
from trio_bridge.stores.reader import LandedEvent
from trio_bridge.stores.sqlstate import store_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from trio_bridge.stores.gaps import Gap

CONNECTIONS = 2
"""Readers at a time: what they take from the machine, the rows do not get."""

MOST_WAITING = 32
ANSWER_TIMEOUT_S = 15.0
STATEMENT_TIMEOUT_S = 10
"""The server's own: a reader that has gone away must not leave its query running."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Read only within the transaction: a setting of the session could outlive us on a pooler's
# connection. Compiling these queries would take longer than running them.
_BEGIN: LiteralString = f"""
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL jit = off;
    SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_S * 1000}
"""
_AROUND: LiteralString = """
    SELECT (SELECT min("timestamp") FROM portfolio_greeks WHERE contract = 'PORTFOLIO'),
           (SELECT max("timestamp") FROM portfolio_greeks
            WHERE contract = 'PORTFOLIO' AND "timestamp" < %s)
"""
_BUCKETS: LiteralString = """
    WITH bucket AS MATERIALIZED (
        SELECT count(*) AS rows, count(delta) AS right_rows,
               min("timestamp") AS first, max("timestamp") AS last,
               min(delta), max(delta), min(gamma), max(gamma), min(vega), max(vega),
               min(theta), max(theta), min(underlying_price), max(underlying_price)
        FROM portfolio_greeks
        WHERE contract = 'PORTFOLIO' AND "timestamp" >= %(start)s AND "timestamp" < %(end)s
        GROUP BY date_bin(%(width)s, "timestamp", %(epoch)s)
    )
    SELECT bucket.*, delta, gamma, vega, theta, underlying_price
    FROM bucket CROSS JOIN LATERAL (
        SELECT * FROM portfolio_greeks AS row
        WHERE contract = 'PORTFOLIO' AND row."timestamp" = bucket.last ORDER BY id DESC LIMIT 1
    ) AS final
    ORDER BY bucket.last
"""
_EVENTS: LiteralString = """
    SELECT id, "timestamp", api_mode, message, status
    FROM api_logs ORDER BY "timestamp" DESC, id DESC LIMIT %s
"""


class Window(NamedTuple):
    """What to read: from `start` to before `end`, in buckets of `bucket_s`. `interval_s` is the
    grid of the rows; a bucket as wide as that (or less) holds single rows. `now` is when it is
    asked: by default long after."""

    start: datetime
    end: datetime
    bucket_s: float
    interval_s: float
    now: datetime = datetime.max.replace(tzinfo=UTC)


class Bucket(NamedTuple):
    """The rows of one stretch of time; the order is the query's. `right_rows` have known Greeks."""

    rows: int
    right_rows: int
    first: datetime
    last: datetime
    delta_min: float | None
    delta_max: float | None
    gamma_min: float | None
    gamma_max: float | None
    vega_min: float | None
    vega_max: float | None
    theta_min: float | None
    theta_max: float | None
    underlying_price_min: float | None
    underlying_price_max: float | None
    delta: float | None
    gamma: float | None
    vega: float | None
    theta: float | None
    underlying_price: float | None


@dataclass(frozen=True, slots=True)
class Chart:
    """A window's rows, and what is missing in it. `since` is where the window or, if that is later,
    the whole recording begins; None when there is no row at all. `slowest_s`: rows that were so far
    apart, more than the window's interval, came regularly and are taken for no gaps."""

    window: Window
    buckets: Sequence[Bucket]
    gaps: Sequence[Gap]
    since: datetime | None
    slowest_s: float


class History:
    """Answers from a few connections of its own, made when they are needed. `close` it at the end.

    Every method raises StoreError: the database does not answer (in time), or too many ask.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._turns = trio.CapacityLimiter(CONNECTIONS)
        self._idle: list[TrioConnection] = []

    async def chart(self, window: Window) -> Chart:
        """The rows of a window; an empty one while the tables are missing."""
        try:
            async with self._reading() as connection:
                return await _read_chart(connection, window)
        except SchemaMissingError:
            return Chart(window, (), (), None, window.interval_s)

    async def events(self, limit: int) -> list[LandedEvent]:
        """The latest events, oldest first."""
        try:
            async with self._reading() as connection:
                cursor = await connection.execute(_EVENTS, [limit])
                return [LandedEvent(*row) for row in reversed(await cursor.fetchall())]
        except SchemaMissingError:
            return []

    def close(self) -> None:
        while self._idle:
            self._idle.pop().drop()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[TrioConnection]:
        if self._turns.statistics().tasks_waiting >= MOST_WAITING:
            raise OutageError("too many questions at once: ask again in some seconds")
        connection = None
        with trio.move_on_after(ANSWER_TIMEOUT_S):
            async with self._turns:
                try:
                    connection = await self._connected()
                    await connection.execute(_BEGIN)
                    yield connection
                    await connection.execute("COMMIT")
                except TROUBLE as error:
                    raise store_error(error) from error
                else:
                    self._idle.append(connection)
                    connection = None
                finally:
                    if connection is not None:  # whatever interrupted it: it may be in mid-query
                        connection.drop()
            return
        raise OutageError(f"the database did not answer within {ANSWER_TIMEOUT_S:g} s")

    async def _connected(self) -> TrioConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.looks_usable():
                return connection
            connection.drop()
        return await TrioConnection.connect(self._conninfo, autocommit=True)


async def _read_chart(connection: TrioConnection, window: Window) -> Chart:
    first, before = await _fetch_one(connection, _AROUND, [window.start])
    parameters = {
        "start": window.start,
        "end": window.end,
        "width": timedelta(seconds=window.bucket_s),
        "epoch": EPOCH,
    }
    cursor = await connection.execute(_BUCKETS, parameters)
    buckets = [Bucket(*row) for row in await cursor.fetchall()]
    gaps, slowest_s = await find_gaps(connection, window, buckets, before)
    since = None if first is None else max(first, window.start)
    return Chart(window, buckets, gaps, since, slowest_s)


async def _fetch_one(
    connection: TrioConnection, query: LiteralString, parameters: Sequence[Any]
) -> Any:
    cursor = await connection.execute(query, parameters)
    return await cursor.fetchone()
