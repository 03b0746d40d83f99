"""A look at a database before the bridge records into it: reachable, usable, and with which rights.

Nothing is left behind: tables are judged from the catalog, and the rows that prove the rights are
rolled back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

import trio

from trio_bridge.model import ApiEvent, ApiMode, Snapshot
from trio_bridge.stores.database.catalog import read_table
from trio_bridge.stores.database.connection import TrioConnection, safe_target
from trio_bridge.stores.database.postgres import TROUBLE, insert_statement
from trio_bridge.stores.database.schema import OWN_COLUMNS, TABLES, plan
from trio_bridge.stores.database.sqlstate import store_error
from trio_bridge.stores.reading.recent import read_recent
from trio_bridge.stores.record import GREEKS_TABLE, record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from trio_bridge.stores.record import Record

PATIENCE = "3s"
"""How long the trial may wait for somebody else's lock."""

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
class Table:
    """`missing`: it has to be made. `statements`: so many would complete it; `owned`: and this user
    may run them."""

    name: str
    missing: bool
    owned: bool
    statements: int


class Inspection:
    """One connection to look through; close it with `close`. Bound every wait from outside."""

    def __init__(self, connection: TrioConnection, target: str) -> None:
        self._connection = connection
        self._target = target

    @classmethod
    async def open(cls, conninfo: str) -> Inspection:
        """Raises StoreError: nobody took us; the text says why and what to do."""
        try:
            return cls(
                await TrioConnection.connect(conninfo, autocommit=True), safe_target(conninfo)
            )
        except TROUBLE as error:
            raise store_error(error) from error

    def close(self) -> None:
        self._connection.drop()

    async def server(self, now: Callable[[], datetime]) -> ServerFacts:
        """Who answers there. Raises StoreError."""
        try:
            began, began_s = now(), trio.current_time()
            cursor = await self._connection.execute(_ABOUT)
            row = await cursor.fetchone()
            took_s = trio.current_time() - began_s
        except TROUBLE as error:
            raise store_error(error) from error
        assert row is not None
        version, is_standby, clock, user, schema, may_create = row
        # Read somewhere between question and answer: the middle is off by half of it at most.
        ahead_s = (clock - began).total_seconds() - took_s / 2
        return ServerFacts(
            self._target, version.split()[0], is_standby, ahead_s, took_s, user, schema, may_create
        )

    async def tables(self) -> Mapping[str, Table]:
        """What `ensure_bridge_schema` would find.

        Raises:
            StoreError: a table is there that can't be used; the text says what its owner can do.
        """
        found = {}
        try:
            for name in TABLES:
                facts = await read_table(self._connection, name)
                needed = plan(name, facts).needed
                owned = facts is not None and facts.owned
                found[name] = Table(name, facts is None, owned, len(needed))
        except TROUBLE as error:
            raise store_error(error) from error
        return found

    async def recent_rows(
        self, since: datetime, until: datetime
    ) -> list[tuple[datetime, str | None]]:
        """Time and accounts of each row between two instants. Raises StoreError."""
        return await read_recent(self._connection, since, until)

    async def try_to_write(self, table: str, now: datetime) -> None:
        """Insert a row as the bridge would, and take it back.

        Raises:
            StoreError: the bridge could not; the text says why and what to do.
        """
        record = _sample(table, now)
        try:
            async with self._connection.transaction(force_rollback=True):
                await self._connection.execute(f"SET LOCAL lock_timeout = '{PATIENCE}'")
                await self._connection.execute(
                    insert_statement(table), [f"[{record.row.decode()}]"]
                )
        except TROUBLE as error:
            raise store_error(error, own_columns=OWN_COLUMNS) from error


def _sample(table: str, now: datetime) -> Record:
    if table == GREEKS_TABLE:
        return record_of(Snapshot(now, "check", 0.0, 0.0, 0.0, 0.0, None, 0, 0))
    return record_of(ApiEvent(now, ApiMode.SOCKET, "check"))
