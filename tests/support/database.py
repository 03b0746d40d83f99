"""Looks into a test's database, plainly and blocking: the queries take a millisecond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE_S = 30.0


def fetch(
    conninfo: str, query: LiteralString, arguments: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return connection.execute(query, arguments).fetchall()


def count_rows(conninfo: str) -> int:
    """Rows in portfolio_greeks; 0 while there is no such table, or no database."""
    try:
        return int(fetch(conninfo, "SELECT count(*) FROM portfolio_greeks")[0][0])
    except (psycopg.errors.UndefinedTable, psycopg.OperationalError):
        return 0


def messages(conninfo: str) -> list[str]:
    """The texts of api_logs in their order."""
    return [text for (text,) in fetch(conninfo, "SELECT message FROM api_logs ORDER BY id")]


async def wait_for_rows(conninfo: str, rows: int, timeout_s: float = PATIENCE_S) -> None:
    """Wait until at least so many rows have landed."""
    with trio.fail_after(timeout_s):
        while count_rows(conninfo) < rows:
            await trio.sleep(0.05)
