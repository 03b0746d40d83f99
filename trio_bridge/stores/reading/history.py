"""Reads back long stretches of what has landed, for charts: the rows in buckets, the gaps between
them found exactly, and what `api_logs` says about each gap."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

import trio

from trio_bridge.errors import OutageError, SchemaMissingError
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.postgres import TROUBLE
from trio_bridge.stores.database.sqlstate import store_error
from trio_bridge.stores.reading.buckets import read_buckets
from trio_bridge.stores.reading.gaps import find_gaps
from trio_bridge.stores.reading.landing import LandedEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from trio_bridge.stores.reading.buckets import Bucket, Window
    from trio_bridge.stores.reading.gaps import Gap

CONNECTIONS = 2
"""Readers at a time: what they take from the machine, the rows do not get."""

MOST_WAITING = 32
ANSWER_TIMEOUT_S = 15.0
STATEMENT_TIMEOUT_S = 10
"""The server's own: a reader that has gone away must not leave its query running."""

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
_EVENTS: LiteralString = """
    SELECT id, "timestamp", api_mode, message, status, kind
    FROM api_logs ORDER BY "timestamp" DESC, id DESC LIMIT %s
"""


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
    buckets = await read_buckets(connection, window)
    gaps, slowest_s = await find_gaps(connection, window, buckets, before)
    since = None if first is None else max(first, window.start)
    return Chart(window, buckets, gaps, since, slowest_s)


async def _fetch_one(
    connection: TrioConnection, query: LiteralString, parameters: Sequence[Any]
) -> Any:
    cursor = await connection.execute(query, parameters)
    return await cursor.fetchone()
