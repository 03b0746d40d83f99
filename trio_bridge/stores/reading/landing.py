"""Reads rows and events back as they land in the database: for the demo and `tail`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_bridge.rows import API_LOGS, PORTFOLIO_GREEKS, EventRow, PortfolioRow
from trio_bridge.stores.database.reader import Reader
from trio_bridge.stores.database.schema import quoted

if TYPE_CHECKING:
    from trio_bridge.rows import Table
    from trio_bridge.stores.database.connection import TrioConnection


@dataclass(frozen=True, slots=True)
class LandedRow(PortfolioRow):
    """A row of `portfolio_greeks` with the number that the database gave it."""

    id: int


@dataclass(frozen=True, slots=True)
class LandedEvent(EventRow):
    """A row of `api_logs` with the number that the database gave it."""

    id: int


ROW_COLUMNS = quoted([*PORTFOLIO_GREEKS.shown, "id"])
"""For a SELECT that is read into a `LandedRow`."""

EVENT_COLUMNS = quoted([*API_LOGS.shown, "id"])
"""For a SELECT that is read into a `LandedEvent`."""

PAGE = 1_000


class Landing:
    """Follows both tables. Connects when first asked, and again after a failure."""

    def __init__(self, conninfo: str) -> None:
        self._reader = Reader(conninfo)
        self._row_id = 0
        self._event_id = 0

    async def skip_to_end(self, *, but: int = 0) -> None:
        """Skip the rows that are there now, except for the last `but` of each table.

        Raises:
            StoreError: the database or a table is not there (yet).
        """
        async with self._reader.connection() as connection:
            row_id = await _last_id(connection, PORTFOLIO_GREEKS, but)
            event_id = await _last_id(connection, API_LOGS, but)
        self._row_id, self._event_id = row_id, event_id

    async def look(self) -> tuple[list[LandedRow], list[LandedEvent]]:
        """What has landed in each table since the last look, oldest first.

        Raises:
            StoreError: the database or a table is not there (yet).
        """
        async with self._reader.connection() as connection:
            cursor = await connection.execute(_newer(PORTFOLIO_GREEKS), [self._row_id, PAGE])
            rows = [LandedRow(*row) for row in await cursor.fetchall()]
            cursor = await connection.execute(_newer(API_LOGS), [self._event_id, PAGE])
            events = [LandedEvent(*row) for row in await cursor.fetchall()]
        self._row_id = rows[-1].id if rows else self._row_id
        self._event_id = events[-1].id if events else self._event_id
        return rows, events

    def close(self) -> None:
        self._reader.close()


async def _last_id(connection: TrioConnection, table: Table, skipped: int) -> int:
    """The number of the last row but `skipped`; 0 when there are not that many."""
    query = f"SELECT id FROM {table.name} WHERE {table.ours} ORDER BY id DESC OFFSET %s LIMIT 1"
    found = await (await connection.execute(query, [skipped])).fetchone()
    return 0 if found is None else int(found[0])


def _newer(table: Table) -> str:
    columns = quoted([*table.shown, "id"])
    return f"SELECT {columns} FROM {table.name} WHERE id > %s AND {table.ours} ORDER BY id LIMIT %s"
