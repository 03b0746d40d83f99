"""The database as the tasks see it: records go in, exactly once, in their order."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import psycopg
import trio
from psycopg.types.json import Json

from trio_bridge.errors import RowRejectedError, SchemaMissingError, UnreachableError
from trio_bridge.rows import TABLES
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.conninfo import safe_target
from trio_bridge.stores.database.schema import (
    EVENT_KEY,
    OWN_COLUMNS,
    ensure_bridge_schema,
    quoted,
)
from trio_bridge.stores.database.sqlstate import TROUBLE, store_error, store_errors
from trio_bridge.stores.record import record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trio_bridge.model import ApiEvent, Snapshot
    from trio_bridge.stores.base import Store
    from trio_bridge.stores.record import Record

FAST_PATH_ROWS = 100
"""From this many rows on, `fast_insert_statement` is tried first: usually all of them are new."""

FALL_BACK_ON = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InternalError_,  # a unique violation on a worker, in Citus' words
)
"""Errors after which `insert_statement` is used: it says what is really wrong, if anything is."""


@cache
def insert_statement(table: str) -> str:
    """Takes a JSON array of rows, the same for one row and for a thousand.

    The rows get their ids in the order of the array. One whose event is there already is left out.
    The conflict is named, so that any other one is an error and never a silent loss.
    """
    return f"{_plain_insert(table)} {_leaving_out_known_events()}"


@cache
def fast_insert_statement(table: str) -> str:
    """As `insert_statement`, but a fifth cheaper; fails when any of the rows is there already.

    The guard inserts nothing. Because of it, the server refuses the statement when the unique key
    is missing that keeps rows from being stored twice.
    """
    return f"""
        WITH guard AS (
            INSERT INTO {table} ({quoted(EVENT_KEY)})
            SELECT {", ".join("NULL" for _ in EVENT_KEY)} WHERE false
            {_leaving_out_known_events()}
        )
        {_plain_insert(table)}
    """


def _leaving_out_known_events() -> str:
    return f"ON CONFLICT ({quoted(EVENT_KEY)}) DO NOTHING"


def _plain_insert(table: str) -> str:
    columns = TABLES[table].columns
    definitions = ", ".join(f'"{name}" {column.type}' for name, column in columns.items())
    values = ", ".join(
        # A row without a time is refused, not given one: it would not be true.
        f'coalesce("{name}", {column.default})'
        if column.default and name not in EVENT_KEY
        else f'"{name}"'
        for name, column in columns.items()
    )
    return f"""
        INSERT INTO {table} ({quoted(columns)})
        SELECT {values}
        FROM ROWS FROM (json_to_recordset(%s) AS ({definitions})) WITH ORDINALITY
        ORDER BY ordinality
    """


async def insert(connection: TrioConnection, records: Sequence[Record]) -> int:
    """Commit all records in one transaction, in order; return how many were new.

    The connection must be in autocommit mode. After a RowRejectedError or SchemaMissingError it is
    as good as before; after anything else it may hold an open transaction: drop it.

    Raises: as `Store.write`.
    """
    if not connection.autocommit:
        raise ValueError("the connection must be in autocommit mode: nothing would be committed")
    batches = _by_table(records)
    with store_errors(own_columns=OWN_COLUMNS):
        if len(records) >= FAST_PATH_ROWS:
            with suppress(*FALL_BACK_ON):
                return await _insert_together(connection, batches, fast_insert_statement)
        return await _insert_together(connection, batches, insert_statement)


class PostgresStore:
    """PostgreSQL behind the `Store` contract: one connection, made when it is first needed and
    again after every outage.

    Several tasks may use it; they take turns.
    """

    def __init__(self, conninfo: str) -> None:
        """`conninfo`: a libpq URL or key=value text, see `parse_conninfo`.

        Raises:
            ConfigError: it is malformed.
        """
        self.target = safe_target(conninfo)
        """`host:port/database`, for messages."""
        self._conninfo = conninfo
        self._connection: TrioConnection | None = None
        self._turn = trio.Lock()

    async def write(self, records: Sequence[Record]) -> int:
        """See `Store.write`."""
        if not records:
            return 0
        async with self._turn:
            connection = await self._connected()
            try:
                return await insert(connection, records)
            except (RowRejectedError, SchemaMissingError):
                raise
            except BaseException:
                # An outage, a cancellation: also when the connection itself lives on, a new one
                # may find a server that is well, and has no transaction open.
                connection.drop()
                raise

    async def ensure_schema(self) -> None:
        """See `Store.ensure_schema`."""
        async with self._turn:
            connection = await self._connected()
            try:
                await ensure_bridge_schema(connection)
            except BaseException:
                connection.drop()
                raise

    async def aclose(self) -> None:
        """See `Store.aclose`."""
        if self._connection is not None:
            self._connection.drop()
            self._connection = None

    async def _connected(self) -> TrioConnection:
        if self._connection is not None:
            if self._connection.looks_usable():
                return self._connection
            await self.aclose()
        try:
            self._connection = await TrioConnection.connect(self._conninfo, autocommit=True)
        except TROUBLE as error:
            found = store_error(error)
            text = f"{self.target}: {found.text}"
            raise UnreachableError(text, remedy=found.remedy) from error
        return self._connection


async def write_portfolio_snapshot(database: Store | TrioConnection, snapshot: Snapshot) -> bool:
    """Commit one row of `portfolio_greeks`; False when it was there already.

    Raises: as `Store.write`.
    """
    return await _write_one(database, record_of(snapshot))


async def log_api_event(database: Store | TrioConnection, event: ApiEvent) -> bool:
    """Commit one row of `api_logs`; False when it was there already.

    Raises: as `Store.write`.
    """
    return await _write_one(database, record_of(event))


async def _write_one(database: Store | TrioConnection, record: Record) -> bool:
    if isinstance(database, TrioConnection):
        return await insert(database, [record]) == 1
    return await database.write([record]) == 1


def _by_table(records: Sequence[Record]) -> Mapping[str, list[bytes]]:
    tables = dict.fromkeys([record.table for record in records])
    for table in tables:
        if table not in TABLES:
            raise RowRejectedError(f"there is no table {table[:60]!r}", sqlstate="42P01")
    return {table: [record.row for record in records if record.table == table] for table in tables}


async def _insert_together(
    connection: TrioConnection,
    batches: Mapping[str, list[bytes]],
    statement: Callable[[str], str],
) -> int:
    if len(batches) == 1:  # a statement alone is a transaction, and one round trip
        return await _insert_batches(connection, batches, statement)
    # Spelled out: psycopg's transaction() says nothing when it finds the connection closed
    # at its end, and then nothing is committed.
    await connection.execute("BEGIN")
    try:
        new = await _insert_batches(connection, batches, statement)
        await connection.execute("COMMIT")
    except psycopg.Error:
        await connection.rollback()
        raise
    return new


async def _insert_batches(
    connection: TrioConnection,
    batches: Mapping[str, list[bytes]],
    statement: Callable[[str], str],
) -> int:
    new = 0
    for table, rows in batches.items():
        array = Json(b"[" + b",".join(rows) + b"]", dumps=bytes)
        cursor = await connection.execute(statement(table), [array])
        new += cursor.rowcount
    return new
