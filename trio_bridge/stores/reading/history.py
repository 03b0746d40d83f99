"""Reads long stretches of what has landed, for charts: the rows in buckets, the exact gaps between
them, and what `api_logs` says about each gap."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from trio_bridge.errors import OutageError, SchemaMissingError
from trio_bridge.rows import PORTFOLIO_GREEKS
from trio_bridge.stores.database.reader import Reader
from trio_bridge.stores.reading.buckets import read_buckets
from trio_bridge.stores.reading.gaps import find_gaps
from trio_bridge.stores.reading.summary import last_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from trio_bridge.stores.database.connection import TrioConnection
    from trio_bridge.stores.reading.buckets import Bucket, Window
    from trio_bridge.stores.reading.gaps import Gap
    from trio_bridge.stores.reading.landing import LandedEvent

CONNECTIONS = 2
"""Readers at a time: the machine's time is for the rows first."""

MOST_WAITING = 32
ANSWER_TIMEOUT_S = 15.0
STATEMENT_TIMEOUT_S = 10
"""In the server: a reader that has gone must not leave its query running."""

# Read only within the transaction: a setting of the session could outlive us on a pooler's
# connection. Compiling these queries would take longer than running them.
_BEGIN = f"""
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL jit = off;
    SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_S * 1000}
"""
_AROUND = f"""
    SELECT (SELECT min("timestamp") FROM portfolio_greeks WHERE {PORTFOLIO_GREEKS.ours}),
           (SELECT max("timestamp") FROM portfolio_greeks
            WHERE {PORTFOLIO_GREEKS.ours} AND "timestamp" < %s)
"""


@dataclass(frozen=True, slots=True)
class Chart:
    """A window's rows, and what is missing in it. `since` is where the window or, if that is later,
    the whole recording begins; None when there is no row at all."""

    window: Window
    buckets: Sequence[Bucket]
    gaps: Sequence[Gap]
    since: datetime | None


class History:
    """Answers from a few connections of its own, made when they are needed. `close` it at the end.

    Every method raises StoreError: the database does not answer in time, or too many readers wait.
    """

    def __init__(self, conninfo: str) -> None:
        self._reader = Reader(conninfo)
        self._turns = trio.CapacityLimiter(CONNECTIONS)

    async def chart(self, window: Window) -> Chart:
        """The rows of a window; an empty one while the tables are missing."""
        try:
            async with self._transaction() as connection:
                return await _read_chart(connection, window)
        except SchemaMissingError:
            return Chart(window, (), (), None)

    async def events(self, limit: int) -> list[LandedEvent]:
        """The latest events, oldest first."""
        try:
            async with self._transaction() as connection:
                return await last_events(connection, limit)
        except SchemaMissingError:
            return []

    def close(self) -> None:
        self._reader.close()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[TrioConnection]:
        if self._turns.statistics().tasks_waiting >= MOST_WAITING:
            raise OutageError("too many questions at once: try again in a few seconds")
        with trio.move_on_after(ANSWER_TIMEOUT_S):
            async with self._turns, self._reader.connection() as connection:
                await connection.execute(_BEGIN)
                yield connection
                await connection.execute("COMMIT")
            return
        raise OutageError(f"the database did not answer within {ANSWER_TIMEOUT_S:g} s")


async def _read_chart(connection: TrioConnection, window: Window) -> Chart:
    around = await (await connection.execute(_AROUND, [window.start])).fetchone()
    assert around is not None
    first, before = around
    buckets = await read_buckets(connection, window)
    gaps = await find_gaps(connection, window, buckets, before)
    since = None if first is None else max(first, window.start)
    return Chart(window, buckets, gaps, since)
