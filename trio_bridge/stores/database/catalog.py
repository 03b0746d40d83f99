"""What the database has under a table's name, read from its catalog without a lock that matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg import AsyncConnection

TABLE_KINDS = {"r": "table", "p": "partitioned table"}
"""pg_class.relkind of what rows can be inserted into and indexes made on."""


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """`limited`: a length or precision is part of the type. `pinned`: a view depends on it."""

    type: str
    limited: bool
    required: bool
    has_default: bool
    pinned: bool


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """`unique`: usable for ON CONFLICT, so valid, immediate, without expressions or conditions."""

    columns: Sequence[str]
    unique: bool


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as it is. `sequence_behind` is the OID of the sequence of `id`, when that would give
    out numbers that rows have already."""

    kind: str
    owned: bool
    columns: Mapping[str, ColumnFacts]
    indexes: Sequence[IndexFacts]
    sequence_behind: int | None = None


_TABLE = """
    SELECT relkind::text AS kind, pg_has_role(relowner, 'USAGE') AS owned,
           has_table_privilege(oid, 'SELECT') AS readable
    FROM pg_class WHERE oid = to_regclass(%s)
"""
_COLUMNS = """
    SELECT attname::text AS name, format_type(atttypid, NULL) AS type, atttypmod >= 0 AS limited,
           attnotnull AS required, atthasdef OR attidentity <> '' AS has_default,
           EXISTS (SELECT FROM pg_depend
                   WHERE classid = 'pg_rewrite'::regclass AND refclassid = 'pg_class'::regclass
                     AND refobjid = attrelid AND refobjsubid = attnum) AS pinned
    FROM pg_attribute
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""
_INDEXES = """
    SELECT indisunique AND indisvalid AND indimmediate
               AND indpred IS NULL AND indexprs IS NULL AS unique,
           ARRAY(SELECT coalesce(attname::text, '')
                 FROM generate_series(0, indnkeyatts - 1) AS place
                 LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[place]
                 ORDER BY place) AS columns
    FROM pg_index WHERE indrelid = to_regclass(%s)
"""
_SEQUENCE = """
    WITH sequence AS (
        SELECT coalesce(
            pg_get_serial_sequence(attrelid::regclass::text, 'id')::regclass::oid,
            (SELECT refobjid FROM pg_depend JOIN pg_class ON oid = refobjid AND relkind = 'S'
             WHERE classid = 'pg_attrdef'::regclass AND refclassid = 'pg_class'::regclass
               AND objid = (SELECT oid FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum)
             LIMIT 1)) AS oid
        FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = 'id'
    )
    SELECT oid::bigint AS oid, coalesce(pg_sequence_last_value(oid), 0) AS last_value
    FROM sequence WHERE has_sequence_privilege(oid, 'SELECT, USAGE')
"""


async def read_table(connection: AsyncConnection[Any], name: str) -> TableFacts | None:
    """None when there is no such table in the search path.

    Reads the catalog; of the table itself only its highest id, through its index.
    """
    found = await _rows(connection, _TABLE, name)
    if not found:
        return None
    table = found[0]
    columns = {
        row.pop("name"): ColumnFacts(**row) for row in await _rows(connection, _COLUMNS, name)
    }
    indexes = [IndexFacts(**row) for row in await _rows(connection, _INDEXES, name)]
    behind = None
    # Without a unique index on it, two equal ids collide with nothing (and to find the highest
    # one would mean to read the whole table).
    if table["readable"] and any(index.unique and index.columns[0] == "id" for index in indexes):
        behind = await _sequence_behind(connection, name)
    return TableFacts(table["kind"], table["owned"], columns, indexes, behind)


async def _sequence_behind(connection: AsyncConnection[Any], name: str) -> int | None:
    sequences = await _rows(connection, _SEQUENCE, name)
    if not sequences:
        return None
    sequence = sequences[0]
    [highest] = await _rows(connection, f"SELECT max(id) AS id FROM {name}")
    is_behind = highest["id"] is not None and highest["id"] > sequence["last_value"]
    return int(sequence["oid"]) if is_behind else None


async def _rows(
    connection: AsyncConnection[Any], query: str, *parameters: str
) -> list[dict[str, Any]]:
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(query, parameters)
    return await cursor.fetchall()
