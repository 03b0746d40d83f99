"""Commits rows in order, and isolates the ones that the database will never take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import structlog
import trio

from trio_bridge.delivery.batch_size import BatchSize
from trio_bridge.errors import (
    OutageError,
    RowRejectedError,
    SchemaMissingError,
    UnreachableError,
)
from trio_bridge.stores.record import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_bridge.stores.base import Store
    from trio_bridge.stores.record import Record

SCHEMA_TIMEOUT_S = 600.0
"""The time limit for completing the tables while no row waits for it. A unique key over ten million
rows takes longer than any batch. The server undoes what its client gives up half-way, so a shorter
limit would start again from the beginning, for ever."""

TOO_NARROW = frozenset({"22001", "22003"})
"""SQLSTATEs of a value too long or too large for its column. The column may be too narrow, so
the first one makes us check the tables; tables that look complete are not checked otherwise."""

log = structlog.get_logger()


class Outcome(NamedTuple):
    """The result of `commit`: the first `done` records are committed or rejected.

    `outage` is why the others are not; the database may have taken some of them all the same.
    """

    done: int
    rejected: list[Rejected]
    outage: OutageError | None

    def raise_outage(self) -> None:
        if self.outage is not None:
            raise self.outage


class Committer:
    """Remembers the batch size, so that the search for a bad row goes on after a deadline."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._batch = BatchSize()
        self._widened = False
        self.committed = 0

    async def commit(
        self,
        records: Sequence[Record],
        *,
        batch_timeout_s: float,
        deadline: float = math.inf,
        schema_timeout_s: float = 0.0,
    ) -> Outcome:
        """Write records in order, leaving out those that the database rejects.

        Each transaction may take `batch_timeout_s`, all of them until `deadline`, an instant of
        `trio.current_time()`. Completing the tables may take `schema_timeout_s` even if that is
        longer. Only a bug raises.
        """
        done = 0
        rejected: list[Rejected] = []
        while done < len(records):
            batch = records[done : done + self._batch.rows]
            try:
                await self._write(
                    batch,
                    min(deadline, trio.current_time() + batch_timeout_s),
                    schema_timeout_s,
                )
            except OutageError as error:
                if not isinstance(error, UnreachableError):
                    self._batch.failed(len(batch))
                return Outcome(done, rejected, error)
            except RowRejectedError as error:
                if self._batch.refused(len(batch)):
                    rejected.append(Rejected(done, error.sqlstate, str(error)))
                    done += 1
            else:
                self._batch.taken(len(batch))
                self.committed += len(batch)
                done += len(batch)
        return Outcome(done, rejected, None)

    async def _write(
        self, batch: Sequence[Record], deadline: float, schema_timeout_s: float
    ) -> None:
        with trio.move_on_at(deadline) as scope:
            try:
                await self._store.write(batch)
            except SchemaMissingError as error:
                self._say_missing(str(error))
                scope.deadline = max(deadline, trio.current_time() + schema_timeout_s)
                await self._write_into_new_schema(batch)
            except RowRejectedError as error:
                if len(batch) > 1 or error.sqlstate not in TOO_NARROW or self._widened:
                    raise
                self._widened = True
                log.warning("a column may be too narrow: looking at the tables", reason=str(error))
                scope.deadline = max(deadline, trio.current_time() + schema_timeout_s)
                await self._write_into_new_schema(batch)
            return
        raise OutageError("no answer in time")

    def _say_missing(self, reason: str) -> None:
        """Before the first row this is a new database; later it means that a table was dropped."""
        if self.committed == 0:
            log.info("completing the tables", reason=reason)
        else:
            log.warning("table or column missing: making it", reason=reason)

    async def _write_into_new_schema(self, batch: Sequence[Record]) -> None:
        await self._store.ensure_schema()
        try:
            await self._store.write(batch)
        except SchemaMissingError as error:
            raise OutageError(f"still missing after it was made: {error}") from error
