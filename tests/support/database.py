"""A test's database, queried with plain blocking calls: each takes a millisecond."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import trio

from tests.support.process import PATIENCE_S
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.postgres import insert
from trio_bridge.stores.database.schema import ensure_bridge_schema
from trio_bridge.stores.record import record_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trio_bridge.model import Item


def fetch(
    conninfo: str, query: LiteralString, arguments: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return connection.execute(query, arguments).fetchall()


def count_rows(conninfo: str) -> int:
    """Rows in portfolio_greeks; 0 while the table or the database does not exist."""
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            return _count(connection)
    except psycopg.OperationalError:
        return 0


def _count(connection: psycopg.Connection) -> int:
    try:
        found = connection.execute("SELECT count(*) FROM portfolio_greeks").fetchone()
    except psycopg.errors.UndefinedTable:
        return 0
    assert found is not None
    return int(found[0])


def kinds(conninfo: str) -> list[str | None]:
    """The kinds of the events in api_logs in their order."""
    return [kind for (kind,) in fetch(conninfo, "SELECT kind FROM api_logs ORDER BY id")]


def messages(conninfo: str) -> list[str]:
    """The texts of api_logs, in order; prefer `kinds`, which survive a better text."""
    return [text for (text,) in fetch(conninfo, "SELECT message FROM api_logs ORDER BY id")]


async def wait_for_rows(conninfo: str, rows: int, timeout_s: float = PATIENCE_S) -> None:
    """Wait until at least this many rows have arrived, through any outage."""
    with ExitStack() as stack, trio.fail_after(timeout_s):
        # Kept while it lives: a query over a new connection costs ten times as much.
        connection: psycopg.Connection | None = None
        while True:
            try:
                if connection is None:
                    connection = psycopg.connect(conninfo, autocommit=True)
                    stack.callback(connection.close)
                if _count(connection) >= rows:
                    return
            except psycopg.OperationalError:
                connection = None
            await trio.sleep(0.05)


async def store(conninfo: str, items: Iterable[Item] = ()) -> None:
    """Create the tables and insert the items."""
    connection = await TrioConnection.connect(conninfo, autocommit=True)
    await ensure_bridge_schema(connection)
    records = [record_of(item) for item in items]
    if records:
        await insert(connection, records)
    connection.drop()
