"""Streams rows and events of a time range: as CSV from PostgreSQL's own COPY, or as values in
batches. Memory does not grow with the range.

In the CSV times are UTC in ISO 8601 with microseconds; a missing number is an empty field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import pq, sql
from psycopg.generators import copy_from

from trio_bridge.stores.database.reader import reading

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from psycopg.abc import PQGen

    from trio_bridge.rows import Table

_RANGE = """
    SELECT {columns}
    FROM {table} AS source
    WHERE source.timestamp >= {since} AND source.timestamp < {until} AND {ours}
    ORDER BY source.timestamp, source.id
"""
_COPY = sql.SQL(f"COPY ({_RANGE}) TO STDOUT WITH (FORMAT csv, HEADER)")
_CURSOR = sql.SQL(f"DECLARE range NO SCROLL CURSOR FOR {_RANGE}")
_TIME_AS_TEXT = sql.SQL(
    """to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS {name}"""
)

BATCH_ROWS = 20_000
PIECE_BYTES = 64 * 1024


async def export_batches(
    conninfo: str, table: Table, *, since: datetime, until: datetime
) -> AsyncGenerator[Sequence[Sequence[Any]], None]:
    """The rows in batches, each row's values in the order of `table.shown`; see `export_csv`."""
    columns = [sql.Identifier(name) for name in table.shown]
    async with reading(conninfo) as connection:
        await connection.execute("BEGIN READ ONLY")
        await connection.execute(_complete(_CURSOR, table, columns, since, until))
        while True:
            cursor = await connection.execute(f"FETCH {BATCH_ROWS} FROM range")
            batch = await cursor.fetchall()
            if not batch:
                return
            yield batch


async def export_csv(
    conninfo: str, table: Table, *, since: datetime, until: datetime
) -> AsyncGenerator[Sequence[bytes], None]:
    """The CSV in pieces of some hundred records; the very first record is the header. `since`
    belongs to the range, `until` doesn't.

    Close it when you stop early (`contextlib.aclosing`).

    Raises:
        StoreError: the database can't be read, or was lost on the way.
    """
    columns = [
        _TIME_AS_TEXT.format(name=sql.Identifier(name))
        if table.columns[name].type == "timestamptz"
        else sql.Identifier(name)
        for name in table.shown
    ]
    statement = _complete(_COPY, table, columns, since, until)
    async with reading(conninfo) as connection, connection.cursor().copy(statement):
        try:
            is_whole = False
            while not is_whole:
                piece, is_whole = await connection.wait(_next_piece(connection.pgconn))
                yield piece
        except BaseException:
            # psycopg would ask the server to stop, and by asyncio's means.
            connection.drop()
            raise


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


def _complete(
    template: sql.SQL,
    table: Table,
    columns: Sequence[sql.Composable],
    since: datetime,
    until: datetime,
) -> sql.Composed:
    return template.format(
        columns=sql.SQL(", ").join(columns),
        table=sql.Identifier(table.name),
        since=sql.Literal(since),
        until=sql.Literal(until),
        ours=sql.SQL(table.ours),
    )
