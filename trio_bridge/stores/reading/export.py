"""Rows and events of a time range, streamed: as CSV from PostgreSQL's own COPY, or as values in
batches. Memory does not grow with the range.

In the CSV times are UTC in ISO 8601 with microseconds; a missing number is an empty field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import pq, sql
from psycopg.generators import copy_from

from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.postgres import TROUBLE
from trio_bridge.stores.database.sqlstate import store_error
from trio_bridge.stores.record import EVENTS_TABLE, GREEKS_TABLE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from datetime import datetime

    from psycopg.abc import PQGen

COLUMNS: Mapping[str, Sequence[str]] = {
    GREEKS_TABLE: (
        "timestamp",
        "account",
        "delta",
        "gamma",
        "vega",
        "theta",
        "underlying_price",
        "positions",
        "priced",
        "greeks_age_s",
        "data_type",
    ),
    EVENTS_TABLE: ("timestamp", "api_mode", "status", "message"),
}
ONLY = {GREEKS_TABLE: sql.SQL("AND contract = 'PORTFOLIO'"), EVENTS_TABLE: sql.SQL("")}

_COPY = sql.SQL("""
    COPY (
        SELECT to_char(timestamp AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS timestamp,
               {columns}
        FROM {table} AS source
        WHERE source.timestamp >= {since} AND source.timestamp < {until} {only}
        ORDER BY source.timestamp, source.id
    ) TO STDOUT WITH (FORMAT csv, HEADER)
""")

_CURSOR = sql.SQL("""
    DECLARE range NO SCROLL CURSOR FOR
    SELECT source.timestamp, {columns}
    FROM {table} AS source
    WHERE source.timestamp >= {since} AND source.timestamp < {until} {only}
    ORDER BY source.timestamp, source.id
""")

BATCH_ROWS = 20_000
PIECE_BYTES = 64 * 1024


async def export_batches(
    conninfo: str, table: str, *, since: datetime, until: datetime
) -> AsyncGenerator[Sequence[Sequence[Any]], None]:
    """The rows in batches, each row's values in the order of `COLUMNS`; see `export_csv`."""
    statement = _complete(_CURSOR, table, since, until)
    try:
        connection = await TrioConnection.connect(conninfo, autocommit=True)
        try:
            await connection.execute("BEGIN READ ONLY")
            await connection.execute(statement)
            while True:
                cursor = await connection.execute(f"FETCH {BATCH_ROWS} FROM range")
                batch = await cursor.fetchall()
                if not batch:
                    return
                yield batch
        finally:
            connection.drop()
    except TROUBLE as error:
        raise store_error(error) from error


async def export_csv(
    conninfo: str, table: str, *, since: datetime, until: datetime
) -> AsyncGenerator[Sequence[bytes], None]:
    """The CSV in pieces of some hundred records; the very first record is the header. `since`
    belongs to the range, `until` doesn't.

    Close it when you stop early (`contextlib.aclosing`).

    Raises:
        StoreError: the database can't be read, or was lost on the way.
    """
    statement = _complete(_COPY, table, since, until)
    try:
        connection = await TrioConnection.connect(conninfo, autocommit=True)
        try:
            async with connection.cursor().copy(statement):
                try:
                    is_whole = False
                    while not is_whole:
                        piece, is_whole = await connection.wait(_next_piece(connection.pgconn))
                        yield piece
                except BaseException:
                    # psycopg would ask the server to stop, and by asyncio's means.
                    connection.drop()
                    raise
        finally:
            connection.drop()
    except TROUBLE as error:
        raise store_error(error) from error


def _next_piece(connection: pq.abc.PGconn) -> PQGen[tuple[list[bytes], bool]]:
    """Some records, and whether these were the last. (Waiting for each of them, as psycopg's own
    `read` does, makes an export take four times as long.)"""
    records: list[bytes] = []
    size = 0
    while size < PIECE_BYTES:
        record = yield from copy_from(connection)
        if not isinstance(record, memoryview):
            return records, True
        records.append(bytes(record))
        size += len(record)
    return records, False


def _complete(template: sql.SQL, table: str, since: datetime, until: datetime) -> sql.Composed:
    return template.format(
        columns=sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table][1:])),
        table=sql.Identifier(table),
        since=sql.Literal(since),
        until=sql.Literal(until),
        only=ONLY[table],
    )
