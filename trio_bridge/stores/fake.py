"""A database in memory that fails on demand, in every way a real one does."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import orjson
import trio

from trio_bridge.errors import (
    OutageError,
    RowRejectedError,
    SchemaMissingError,
    ServerChangedError,
    UnclearError,
    UnreachableError,
)
from trio_bridge.rows import TABLES
from trio_bridge.stores.base import Presence, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_bridge.stores.record import Record


class Mishap(Enum):
    """What happens to a write."""

    NONE = auto()
    """Nothing: in a list it lets one write pass."""
    REFUSED = auto()
    """The connection is refused; nothing is committed."""
    LOST_AFTER_COMMIT = auto()
    """Everything is committed, but the answer never comes: the connection breaks."""
    SILENT = auto()
    """No answer, ever; nothing is committed."""
    SILENT_AFTER_COMMIT = auto()
    """No answer, ever; everything is committed."""
    SCHEMA_MISSING = auto()
    """A table is missing until `ensure_schema` was called."""


def rejects_nul(record: Record) -> str | None:
    """PostgreSQL's text holds no NUL: SQLSTATE 22P05."""
    return "22P05" if rb"\u0000" in record.row else None


class FakeStore:
    """Implements `stores.base.Store`.

    Each of `next_troubles` applies to one write, in order; after them `trouble` while it is set.
    `freeze` stops the whole server as SIGSTOP does: a statement in progress may still commit when
    it thaws, long after its client has given up.
    """

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        self.trouble: Mishap | None = None
        self.next_troubles: deque[Mishap] = deque()
        self.latency_s = 0.0
        self.rejects: Callable[[Record], str | None] = rejects_nul
        self.unclear: Callable[[Record], bool] = lambda record: False
        """Which records a trigger of the user's refuses."""
        self.ensure_schema_helps = True
        self.schema_calls = 0
        self.batches: list[list[Record]] = []
        """The records of each write, committed or not; none for a question without an answer."""
        self.in_use = False
        self._ids: set[tuple[str, str]] = set()
        self._order: list[tuple[str, dict[str, Any]]] = []
        """All rows as they were committed."""
        self.data = "fake"
        """Of which data it is a server."""
        self._starts = 1
        self._schema_missing = False
        self._thawed: trio.Event | None = None
        self._under_way: list[Record] = []

    async def write(self, records: Sequence[Record], *, to: Server | None = None) -> int:
        assert not self.in_use, "two tasks write at the same time"
        self.in_use = True
        try:
            return await self._write(records, to)
        finally:
            self.in_use = False

    async def server(self) -> Server:
        await self._answer()
        return self._server

    async def find(self, records: Sequence[Record]) -> list[Presence]:
        await self._answer()
        there = {_key(name, row): row for name, rows in self.tables.items() for row in rows}
        return [_presence(record, there) for record in records]

    async def try_out(self, record: Record) -> bool:
        await self._answer_time()
        if self.trouble is not None:
            raise UnreachableError("connection refused")
        self._raise_if_refused([record])
        return True

    async def ensure_schema(self) -> None:
        await self._answer_time()
        self.schema_calls += 1
        if self.ensure_schema_helps:
            self._schema_missing = False

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def drop_schema(self) -> None:
        """A table is dropped; to keep tests simple its rows come back with it."""
        self._schema_missing = True

    def freeze(self) -> None:
        """Stop answering, also in the middle of a statement."""
        if self._thawed is None:
            self._thawed = trio.Event()

    def thaw(self, *, commit_late: bool) -> None:
        """Go on; `commit_late`: the statement in progress had arrived completely."""
        if self._thawed is None:
            return
        if commit_late:
            self._commit(self._under_way)
        self._under_way = []
        self._thawed.set()
        self._thawed = None

    def restart(self, *, losing: int = 0) -> None:
        """Another server takes over, which lacks the last `losing` rows, or the same one starts."""
        self._starts += 1
        self.lose(losing)

    def lose(self, rows: int) -> None:
        """The last ones are no longer there."""
        self._remove(self._order[max(0, len(self._order) - rows) :])

    def lose_oldest(self, rows: int) -> None:
        """The first ones are no longer there."""
        self._remove(self._order[:rows])

    def _remove(self, rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
        for table, row in list(rows):
            self._order.remove((table, row))
            self.tables[table].remove(row)
            self._ids.discard(_key(table, row))

    @property
    def _server(self) -> Server:
        return Server(str(self._starts), self.data)

    async def _write(self, records: Sequence[Record], to: Server | None) -> int:
        self.batches.append(list(records))
        trouble = self.next_troubles.popleft() if self.next_troubles else self.trouble
        await self._answer_time(records)
        if trouble is Mishap.REFUSED:
            raise UnreachableError("connection refused")
        if trouble is Mishap.SILENT:
            await trio.sleep_forever()
        if trouble is Mishap.SCHEMA_MISSING:
            self._schema_missing = True
        if self._schema_missing:
            raise SchemaMissingError("42P01: relation does not exist")
        if to not in (None, self._server):
            raise ServerChangedError("another server")
        self._raise_if_refused(records)
        new = self._commit(records)
        if trouble is Mishap.LOST_AFTER_COMMIT:
            raise OutageError("server closed the connection unexpectedly")
        if trouble is Mishap.SILENT_AFTER_COMMIT:
            await trio.sleep_forever()
        return new

    def _raise_if_refused(self, records: Sequence[Record]) -> None:
        for record in records:
            assert record.table in self.tables, "an unknown table must never get here"
            if sqlstate := self.rejects(record):
                raise RowRejectedError("a row was rejected", sqlstate=sqlstate)
            if self.unclear(record):
                raise UnclearError("not on a Sunday", sqlstate="P0001")

    async def _answer(self) -> None:
        """To a question, which no commit's mishap can befall."""
        if self.trouble in (Mishap.REFUSED, Mishap.SILENT, Mishap.SILENT_AFTER_COMMIT):
            self.batches.append([])
        await self._answer_time()
        if self.trouble is Mishap.REFUSED:
            raise UnreachableError("connection refused")
        if self.trouble in (Mishap.SILENT, Mishap.SILENT_AFTER_COMMIT):
            await trio.sleep_forever()

    async def _answer_time(self, records: Sequence[Record] = ()) -> None:
        if self._thawed is None:
            await trio.sleep(self.latency_s)
        if self._thawed is not None:
            # Only the first statement got through; later ones do not even connect.
            if not self._under_way:
                self._under_way = list(records)
            await self._thawed.wait()

    def _commit(self, records: Sequence[Record]) -> int:
        if any(self.rejects(record) or self.unclear(record) for record in records):
            return 0
        new = 0
        for record in records:
            row = orjson.loads(record.row)
            key = _key(record.table, row)
            if key not in self._ids:
                self._ids.add(key)
                self.tables[record.table].append(row)
                self._order.append((record.table, row))
                new += 1
        return new


def _key(table: str, row: dict[str, Any]) -> tuple[str, str]:
    return table, row["event_id"]


def _presence(record: Record, there: dict[tuple[str, str], dict[str, Any]]) -> Presence:
    row = orjson.loads(record.row)
    found = there.get(_key(record.table, row))
    if found is None:
        return Presence.MISSING
    return Presence.OURS if found.get("recorder") == row.get("recorder") else Presence.ANOTHERS
