"""Reads back what has landed: for the demo, `tail` and `export`. Never writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.postgres import TROUBLE
from trio_bridge.stores.database.sqlstate import store_error

if TYPE_CHECKING:
    from datetime import datetime


class LandedRow(NamedTuple):
    """A row of `portfolio_greeks` as the database has it; see `model.Snapshot` for the meaning."""

    id: int
    timestamp: datetime
    account: str | None
    delta: float | None
    gamma: float | None
    vega: float | None
    theta: float | None
    underlying_price: float | None
    positions: int | None
    priced: int | None
    greeks_age_s: float | None
    data_type: str | None


class LandedEvent(NamedTuple):
    """A row of `api_logs`."""

    id: int
    timestamp: datetime
    api_mode: str | None
    message: str | None
    status: str | None
    kind: str | None = None


PAGE = 1_000

_LAST_ROW: LiteralString = """
    SELECT coalesce((SELECT id FROM portfolio_greeks WHERE contract = 'PORTFOLIO'
                     ORDER BY id DESC OFFSET %s LIMIT 1), 0)
"""
_LAST_EVENT: LiteralString = """
    SELECT coalesce((SELECT id FROM api_logs ORDER BY id DESC OFFSET %s LIMIT 1), 0)
"""
_ROWS: LiteralString = """
    SELECT id, timestamp, account, delta, gamma, vega, theta, underlying_price,
           positions, priced, greeks_age_s, data_type
    FROM portfolio_greeks WHERE id > %s AND contract = 'PORTFOLIO' ORDER BY id LIMIT %s
"""
_EVENTS: LiteralString = """
    SELECT id, timestamp, api_mode, message, status, kind
    FROM api_logs WHERE id > %s ORDER BY id LIMIT %s
"""


class Landing:
    """Follows both tables. Connects when first asked, and again after a failure."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: TrioConnection | None = None
        self._row_id = 0
        self._event_id = 0

    async def skip_to_end(self, *, but: int = 0) -> None:
        """Begin after what is there now, except for the last ones of each table.

        Raises:
            StoreError: the database or a table is not there (yet).
        """
        self._row_id = (await self._fetch(_LAST_ROW, but))[0][0]
        self._event_id = (await self._fetch(_LAST_EVENT, but))[0][0]

    async def look(self) -> tuple[list[LandedRow], list[LandedEvent]]:
        """What has landed in each table since the last look, oldest first.

        Raises:
            StoreError: the database or a table is not there (yet).
        """
        rows = [LandedRow(*row) for row in await self._fetch(_ROWS, self._row_id, PAGE)]
        events = [LandedEvent(*row) for row in await self._fetch(_EVENTS, self._event_id, PAGE)]
        self._row_id = rows[-1].id if rows else self._row_id
        self._event_id = events[-1].id if events else self._event_id
        return rows, events

    def close(self) -> None:
        if self._connection is not None:
            self._connection.drop()
            self._connection = None

    async def _fetch(self, query: LiteralString, *arguments: int) -> list[Any]:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = await TrioConnection.connect(self._conninfo, autocommit=True)
            cursor = await self._connection.execute(query, arguments)
            return await cursor.fetchall()
        except TROUBLE as error:
            raise store_error(error) from error
