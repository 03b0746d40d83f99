"""The database as the tasks see it: records go in, exactly once, in their order."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import psycopg
import trio
from psycopg.types.json import Json

from trio_bridge.errors import (
    RowRejectedError,
    SchemaMissingError,
    ServerChangedError,
    UnreachableError,
)
from trio_bridge.rows import TABLES
from trio_bridge.stores.base import Presence, Server
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.conninfo import safe_target
from trio_bridge.stores.database.schema import (
    EVENT_KEY,
    OWN_COLUMNS,
    ensure_bridge_schema,
    quoted,
)
from trio_bridge.stores.database.sqlstate import TROUBLE, store_error, store_errors
from trio_bridge.stores.record import record_of, time_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from trio_bridge.model import ApiEvent, Snapshot
    from trio_bridge.stores.base import Store
    from trio_bridge.stores.record import Record

FAST_PATH_ROWS = 100
"""From this many rows on, `fast_insert_statement` is tried first: usually all of them are new."""

NOT_TOLD = (
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.FeatureNotSupported,
)
"""What other engines say to a question about their server."""

FALL_BACK_ON = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InternalError_,  # a unique violation on a worker, in Citus' words
)
"""Errors after which `insert_statement` is used: it says what is really wrong, if anything is."""


AS_GOOD_AS_BEFORE = (RowRejectedError, SchemaMissingError, ServerChangedError)
"""The connection is, after these errors."""

STARTED = "extract(epoch FROM pg_postmaster_start_time())::text"
"""When the server started; behind a pooler a statement alone tells which one runs it."""

ANOTHER_SERVER = "another server, started at "

ONLY_ON = f"""
    WHERE CASE WHEN {STARTED} = %s THEN true ELSE ('{ANOTHER_SERVER}' || {STARTED})::boolean END
"""
"""Raises an error on any other server than the one that started at that time, so that the statement
does nothing there. (It is not constant, so the planner does not evaluate it beforehand.)"""


LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)

NOBODY = "nobody"
"""As the recorder of rows in a table that does not tell it."""


@cache
def insert_statement(table: str, condition: str = "") -> str:
    """Takes a JSON array of rows, the same for one row and for a thousand.

    The rows get their ids in the order of the array. One whose event is there already is left out.
    The conflict is named, so that any other one is an error and never a silent loss.
    """
    return f"{_plain_insert(table, condition)} {_leaving_out_known_events()}"


@cache
def fast_insert_statement(table: str, condition: str = "") -> str:
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
        {_plain_insert(table, condition)}
    """


def _leaving_out_known_events() -> str:
    return f"ON CONFLICT ({quoted(EVENT_KEY)}) DO NOTHING"


def _plain_insert(table: str, condition: str) -> str:
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
        {condition}
        ORDER BY ordinality
    """


async def insert(
    connection: TrioConnection, records: Sequence[Record], *, to: Server | None = None
) -> int:
    """Commit all records in one transaction, in order; return how many were new.

    The connection must be in autocommit mode. After a RowRejectedError or SchemaMissingError it is
    as good as before; after anything else it may hold an open transaction: drop it.

    Raises: as `Store.write`.
    """
    if not connection.autocommit:
        raise ValueError("the connection must be in autocommit mode: nothing would be committed")
    batches = _by_table(records)
    with store_errors(connection, own_columns=OWN_COLUMNS):
        try:
            if len(records) >= FAST_PATH_ROWS:
                with suppress(*FALL_BACK_ON):
                    return await _insert_together(connection, batches, fast_insert_statement, to)
            return await _insert_together(connection, batches, insert_statement, to)
        except psycopg.errors.InvalidTextRepresentation as error:
            if ANOTHER_SERVER in (error.diag.message_primary or ""):
                raise ServerChangedError(str(error)) from None
            raise


async def server_of(connection: TrioConnection) -> Server | None:
    """See `Store.server`."""
    try:
        cursor = await connection.execute(
            f"SELECT {STARTED}, system_identifier || '/' || current_database() "
            "FROM pg_control_system()"
        )
        found = await cursor.fetchone()
    except NOT_TOLD:
        return None
    return Server(*found) if found else None


async def find(connection: TrioConnection, records: Sequence[Record]) -> list[Presence]:
    """See `Store.find`."""
    rows = [orjson.loads(record.row) for record in records]
    keys = [
        (record.table, UUID(row["event_id"])) for record, row in zip(records, rows, strict=True)
    ]
    since = min((time_of(record) or LONG_AGO for record in records), default=LONG_AGO)
    recorders: dict[tuple[str, UUID], Any] = {}
    for table in {record.table for record in records}:
        recorder = "recorder" if "recorder" in TABLES[table].columns else f"'{NOBODY}'"
        statement = f"""
            SELECT event_id, {recorder} FROM {table}
            WHERE event_id = ANY(%s) AND "timestamp" >= %s
        """
        ids = [event_id for of, event_id in keys if of == table]
        with store_errors(connection, own_columns=OWN_COLUMNS):
            cursor = await connection.execute(statement, [ids, since])
            recorders |= {(table, event_id): name async for event_id, name in cursor}
    return [
        Presence.MISSING
        if key not in recorders
        else Presence.OURS
        if recorders[key] == row.get("recorder")
        else Presence.ANOTHERS
        for key, row in zip(keys, rows, strict=True)
    ]


async def try_out(connection: TrioConnection, record: Record) -> bool:
    """See `Store.try_out`. The connection must be in autocommit mode; after any error drop it."""
    # One query, see `_insert_together`. What is checked at the commit is checked now.
    trial = f"BEGIN; {insert_statement(record.table)}; SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK"
    with store_errors(connection, own_columns=OWN_COLUMNS):
        array = _array([record.row])
        cursor = _filling_in(connection, [array])
        await cursor.execute(trial, [Json(array, dumps=bytes)])
        cursor.nextset()  # behind BEGIN's result
        return cursor.rowcount == 1


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

    async def write(self, records: Sequence[Record], *, to: Server | None = None) -> int:
        """See `Store.write`."""
        if not records:
            return 0
        async with self._using(keep_after=AS_GOOD_AS_BEFORE) as connection:
            return await insert(connection, records, to=to)

    async def server(self) -> Server | None:
        """See `Store.server`."""
        async with self._using() as connection:
            with store_errors(connection):
                return await server_of(connection)

    async def find(self, records: Sequence[Record]) -> list[Presence]:
        """See `Store.find`."""
        async with self._using(keep_after=AS_GOOD_AS_BEFORE) as connection:
            return await find(connection, records)

    async def try_out(self, record: Record) -> bool:
        """See `Store.try_out`."""
        async with self._using() as connection:
            return await try_out(connection, record)

    async def ensure_schema(self) -> None:
        """See `Store.ensure_schema`."""
        async with self._using() as connection:
            await ensure_bridge_schema(connection)

    async def aclose(self) -> None:
        """See `Store.aclose`."""
        if self._connection is not None:
            self._connection.drop()
            self._connection = None

    @asynccontextmanager
    async def _using(
        self, keep_after: tuple[type[Exception], ...] = ()
    ) -> AsyncIterator[TrioConnection]:
        """The connection, which is dropped after any other failure: an outage, a cancellation. Even
        if it lives on, a new one may find a server that is well, and has no transaction open."""
        async with self._turn:
            connection = await self._connected()
            try:
                yield connection
            except keep_after:
                raise
            except BaseException:
                connection.drop()
                raise

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
    statement: Callable[[str, str], str],
    to: Server | None,
) -> int:
    """One round trip. Several statements in one query are one transaction, also for a pooler that
    shares its connections by the statement and refuses BEGIN."""
    arrays = [_array(rows) for rows in batches.values()]
    cursor = connection.cursor() if len(batches) == 1 else _filling_in(connection, arrays)
    condition, time = (ONLY_ON, [to.started]) if to is not None else ("", [])
    values = [value for array in arrays for value in (Json(array, dumps=bytes), *time)]
    await cursor.execute(";".join(statement(table, condition) for table in batches), values)
    new = cursor.rowcount
    while cursor.nextset():
        new += cursor.rowcount
    return new


def _array(rows: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(rows) + b"]"


def _filling_in(connection: TrioConnection, arrays: Iterable[bytes]) -> psycopg.AsyncCursor[Any]:
    """A cursor that puts values into the statements itself, as several in one query need it.

    It can't say which value is no text, so that is found out here.
    """
    for array in arrays:
        try:
            array.decode()
        except UnicodeDecodeError as error:
            raise psycopg.errors.CharacterNotInRepertoire(error.reason) from error
    return psycopg.AsyncClientCursor(connection)
