"""Makes and completes the tables of `rows.py`, whatever a database holds already.

Tables of an earlier system are adopted with their rows: what is missing is added beside what is
there, and nothing is removed. Older rows have NULL in the added columns, because what would be true
there is not known.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import trio

from trio_bridge.errors import OutageError
from trio_bridge.rows import TABLES
from trio_bridge.stores.database.catalog import TABLE_KINDS, read_table
from trio_bridge.stores.database.sqlstate import store_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from psycopg import AsyncConnection

    from trio_bridge.stores.database.catalog import TableFacts


OWN_COLUMNS = frozenset(column for table in TABLES.values() for column in table.columns)

EVENT_KEY = ("event_id", "timestamp")
"""What makes a row unique. `event_id` alone would do, but hypertables and distributed tables want
their time column in every unique key; an event_id always comes with the same timestamp."""

ADVISORY_LOCK = int.from_bytes(b"triobrdg")
"""Held while the tables are changed: the second of two processes that start at once then finds them
complete."""

LOCK_TIMEOUT = "3s"
"""A change of a table waits for its readers, and new readers wait behind it: not for longer."""

INTEGER_TYPES = frozenset({"smallint", "integer", "bigint"})
WIDER = {"character varying": "text", "character": "text", "numeric": "numeric"}
"""Types whose limit would refuse or round a value → the same without one. PostgreSQL changes the
catalog only (for `character` it rewrites the table), and readers see no other type of value."""


DECLINED = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.ObjectNotInPrerequisiteState,
)
"""Errors that mean: this optional change is declined."""


class Plan(NamedTuple):
    """Statements that complete a table. Without the needed ones no row can be inserted; the wished
    ones are optional improvements, which only the table's owner can make."""

    needed: Sequence[str]
    wished: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.needed or self.wished)


async def ensure_bridge_schema(connection: AsyncConnection[Any]) -> None:
    """Make or complete `portfolio_greeks` and `api_logs`; harmless when they are complete.

    A complete schema is only looked at: that takes no lock which any reader or writer could
    notice, and no more rights than INSERT and SELECT. Two processes may run it at once. The
    connection must be a Trio one (`TrioConnection`) and not in a transaction.

    Raises:
        OutageError: not now, or not with this user's rights; the text says which, and the remedy.
    """
    try:
        async with connection.transaction():
            complete = [not await _plan_for(connection, table) for table in TABLES]
        if not all(complete):
            await _complete(connection)
    except (psycopg.Error, OSError, trio.ClosedResourceError) as error:
        found = store_error(error, connection)
        text = f"cannot make the tables ready: {found.text}"
        raise OutageError(text, remedy=found.remedy) from error


async def _complete(connection: AsyncConnection[Any]) -> None:
    async with connection.transaction():
        # What another process did while we waited for the lock must be visible after it.
        await connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        await connection.execute("SET LOCAL statement_timeout = 0")  # an index takes its time
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [ADVISORY_LOCK])
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        for table in TABLES:
            plan = await _plan_for(connection, table)
            for statement in plan.needed:
                await connection.execute(statement)
            for statement in plan.wished:
                with suppress(*DECLINED):
                    async with connection.transaction():
                        await connection.execute(statement)


async def _plan_for(connection: AsyncConnection[Any], table: str) -> Plan:
    facts = await read_table(connection, table)
    return plan(table, facts)


def plan(table: str, facts: TableFacts | None) -> Plan:
    """What completes a table with these `facts`; None: the table is missing.

    Raises:
        OutageError: what is there cannot be completed; the text says what the owner can do.
    """
    if facts is None:
        return Plan([_create_table(table), _create_unique_key(table), _create_time_index(table)])
    _refuse_unusable(table, facts)
    needed = [*_add_columns(table, facts), *_give_ids(table, facts)]
    if not any(index.unique and {*index.columns} == {*EVENT_KEY} for index in facts.indexes):
        needed.append(_create_unique_key(table))
    if facts.sequence_behind is not None:
        needed.append(f"SELECT setval({facts.sequence_behind}, (SELECT max(id) FROM {table}))")
    if not facts.owned:
        return Plan(needed)
    wished = [*_widen(table, facts)]
    indexed = {index.columns[0] for index in facts.indexes}
    if "timestamp" not in indexed:
        wished.append(_create_time_index(table))
    if "id" not in indexed:
        wished.append(f"CREATE INDEX ON {table} (id)")
    return Plan(needed, wished)


def _refuse_unusable(table: str, facts: TableFacts) -> None:
    if facts.kind not in TABLE_KINDS:
        raise OutageError(f"{table} is there, but it is not a table", remedy="rename it")
    numbers = facts.columns.get("id")
    if numbers is not None and not numbers.has_default and numbers.type not in INTEGER_TYPES:
        raise OutageError(f"{table}.id is a {numbers.type} without a default", remedy="give it one")
    for name, column in facts.columns.items():
        ours = name == "id" or name in TABLES[table].columns
        if column.required and not column.has_default and not ours:
            raise OutageError(
                f"{table}.{name} may not be empty, but the bridge does not know it",
                remedy="give it a default or let it be empty",
            )


def _create_table(table: str) -> str:
    definitions = ["id bigserial PRIMARY KEY"]
    for name, column in TABLES[table].columns.items():
        required = " NOT NULL" if column.required else ""
        default = f" DEFAULT {column.default}" if column.default else ""
        definitions.append(f'"{name}" {column.type}{required}{default}')
    return f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(definitions)})"


def _create_unique_key(table: str) -> str:
    return f"CREATE UNIQUE INDEX ON {table} ({quoted(EVENT_KEY)})"


def _create_time_index(table: str) -> str:
    return f'CREATE INDEX ON {table} ("timestamp" DESC)'


def _add_columns(table: str, facts: TableFacts) -> Iterator[str]:
    missing = {
        name: one for name, one in TABLES[table].columns.items() if name not in facts.columns
    }
    if missing:
        additions = (
            f'ADD COLUMN IF NOT EXISTS "{name}" {one.type}' for name, one in missing.items()
        )
        yield f"ALTER TABLE {table} {', '.join(additions)}"
    for name, one in missing.items():
        if one.default:
            # Second, so that it is for rows to come: the ones from before keep NULL.
            yield f'ALTER TABLE {table} ALTER COLUMN "{name}" SET DEFAULT {one.default}'


def _give_ids(table: str, facts: TableFacts) -> Iterator[str]:
    """Let the database number the rows, also where the earlier system did that itself."""
    if "id" not in facts.columns:
        # No primary key: partitions and hypertables would want the time in it.
        yield f"ALTER TABLE {table} ADD COLUMN id bigserial"
    elif not facts.columns["id"].has_default:
        sequence = f"{table}_bridge_id_seq"
        yield f"CREATE SEQUENCE IF NOT EXISTS {sequence} OWNED BY {table}.id"
        yield f"SELECT setval('{sequence}', coalesce(max(id), 0) + 1, false) FROM {table}"
        yield f"ALTER TABLE {table} ALTER COLUMN id SET DEFAULT nextval('{sequence}')"


def _widen(table: str, facts: TableFacts) -> Iterator[str]:
    """A message of 300 characters is not to be refused by an old varchar(255), nor a delta rounded
    by a numeric(10,2). A column that a view shows can't be changed: it stays as it is."""
    for name in TABLES[table].columns:
        column = facts.columns.get(name)
        if column and column.limited and not column.pinned and column.type in WIDER:
            yield f'ALTER TABLE {table} ALTER COLUMN "{name}" TYPE {WIDER[column.type]}'


def quoted(columns: Iterable[str]) -> str:
    """A list of columns for SQL: `timestamp` is also the name of a type."""
    return ", ".join(f'"{column}"' for column in columns)
