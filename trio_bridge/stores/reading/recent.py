"""Who has recorded what lately: the times and accounts of the last rows, whoever wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING, LiteralString

from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.postgres import TROUBLE
from trio_bridge.stores.database.sqlstate import store_error

if TYPE_CHECKING:
    from datetime import datetime

_RECENT: LiteralString = """
    SELECT "timestamp", account::text FROM portfolio_greeks
    WHERE contract = 'PORTFOLIO' AND "timestamp" BETWEEN %s AND %s ORDER BY "timestamp", id
"""


async def recent_rows(
    conninfo: str, since: datetime, until: datetime
) -> list[tuple[datetime, str | None]]:
    """Time and accounts (as the column has them) of each row, over a connection of its own. Bound
    it from outside.

    Raises:
        StoreError: the database or the table is not there (yet).
    """
    try:
        connection = await TrioConnection.connect(conninfo, autocommit=True)
    except TROUBLE as error:
        raise store_error(error) from error
    try:
        return await read_recent(connection, since, until)
    finally:
        connection.drop()


async def read_recent(
    connection: TrioConnection, since: datetime, until: datetime
) -> list[tuple[datetime, str | None]]:
    """As `recent_rows`."""
    try:
        cursor = await connection.execute(_RECENT, [since, until])
        return [(at, accounts) for at, accounts in await cursor.fetchall()]
    except TROUBLE as error:
        raise store_error(error) from error
