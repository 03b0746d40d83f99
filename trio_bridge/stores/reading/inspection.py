"""Inspects a database before the bridge records into it: can it be reached, and what is allowed?

Nothing is left behind: tables are judged from the catalog, and the rows that prove the rights are
rolled back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

import trio

from trio_bridge.model import AccountSet, ApiEvent, ApiMode, Snapshot
from trio_bridge.rows import ACCOUNT_SETS, PORTFOLIO_GREEKS, TABLES
from trio_bridge.stores.database.catalog import read_table
from trio_bridge.stores.database.conninfo import safe_target
from trio_bridge.stores.database.postgres import insert_statement
from trio_bridge.stores.database.reader import Reader
from trio_bridge.stores.database.schema import OWN_COLUMNS, plan
from trio_bridge.stores.database.sqlstate import store_errors
from trio_bridge.stores.record import record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from trio_bridge.stores.record import Record

PATIENCE = "3s"
"""How long the trial may wait for another's lock."""

_ABOUT: LiteralString = """
    SELECT current_setting('server_version'), pg_is_in_recovery(), clock_timestamp(),
           current_user::text, current_schema()::text,
           coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)
"""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The server and what the user may do there. `clock_ahead_s`: its clock against ours;
    `may_create`: whether tables can be made in `schema`, which is None when the search path has
    none."""

    target: str
    version: str
    is_standby: bool
    clock_ahead_s: float
    round_trip_s: float
    user: str
    schema: str | None
    may_create: bool


@dataclass(frozen=True, slots=True)
class TableState:
    """`missing`: it has to be made. `statements`: how many would complete it. `owned`: this user
    may run them."""

    name: str
    missing: bool
    owned: bool
    statements: int


class Inspection:
    """Reads over one connection; close it with `close`. Bound every wait from outside.

    Every method raises StoreError: the database does not answer; the text says what to do.
    """

    def __init__(self, conninfo: str) -> None:
        self._target = safe_target(conninfo)
        self._reader = Reader(conninfo)

    async def connect(self) -> None:
        async with self._reader.connection():
            pass

    def close(self) -> None:
        self._reader.close()

    async def server(self, now: Callable[[], datetime]) -> ServerFacts:
        """Facts about the server that answers."""
        async with self._reader.connection() as connection:
            began, began_s = now(), trio.current_time()
            row = await (await connection.execute(_ABOUT)).fetchone()
            took_s = trio.current_time() - began_s
        assert row is not None
        version, is_standby, clock, user, schema, may_create = row
        # Read somewhere between question and answer: the middle is off by half of it at most.
        ahead_s = (clock - began).total_seconds() - took_s / 2
        return ServerFacts(
            self._target, version.split()[0], is_standby, ahead_s, took_s, user, schema, may_create
        )

    async def tables(self) -> Mapping[str, TableState]:
        """What `ensure_bridge_schema` would find.

        Raises:
            StoreError: also when a table can't be used; the text says what its owner can do.
        """
        found = {}
        async with self._reader.connection() as connection:
            for name in TABLES:
                facts = await read_table(connection, name)
                needed = plan(name, facts).needed
                owned = facts is not None and facts.owned
                found[name] = TableState(name, facts is None, owned, len(needed))
        return found

    async def try_to_write(self, table: str, now: datetime) -> None:
        """Insert a row as the bridge would, and roll it back.

        Raises:
            StoreError: the bridge could not; the text says why and what to do.
        """
        rows = [f"[{_sample(table, now).row.decode()}]"]
        async with self._reader.connection() as connection:
            with store_errors(connection, own_columns=OWN_COLUMNS):
                async with connection.transaction(force_rollback=True):
                    await connection.execute(f"SET LOCAL lock_timeout = '{PATIENCE}'")
                    await connection.execute(insert_statement(table), rows)


def _sample(table: str, now: datetime) -> Record:
    match table:
        case PORTFOLIO_GREEKS.name:
            return record_of(Snapshot(now, "check", 0.0, 0.0, 0.0, 0.0, None, 0, 0))
        case ACCOUNT_SETS.name:
            return record_of(AccountSet(now, "check", "check"))
        case _:
            return record_of(ApiEvent(now, ApiMode.SOCKET, "check"))
