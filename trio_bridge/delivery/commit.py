"""Commits rows in order, and isolates the ones that the database will never take."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_bridge.delivery.batch_size import BatchSize
from trio_bridge.delivery.outcome import Outcome
from trio_bridge.errors import (
    OutageError,
    RowRejectedError,
    SchemaMissingError,
    ServerChangedError,
    StoreError,
    UnclearError,
    UnreachableError,
)
from trio_bridge.logs import Log
from trio_bridge.stores.record import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_bridge.delivery.resend import Resend
    from trio_bridge.stores.base import Store
    from trio_bridge.stores.record import Record

SCHEMA_TIMEOUT_S = 600.0
"""The time limit for completing the tables while no row waits for it. A unique key over ten million
rows takes longer than any batch. The server undoes what its client gives up half-way, so a shorter
limit would start again from the beginning, for ever."""

REFUSALS = 3
"""So many commits in a row end at the same row, refused for an unclear reason, before it may be
called the row's fault."""

TOO_NARROW = frozenset({"22001", "22003"})
"""SQLSTATEs of a value too long or too large for its column. The column may be too narrow, so
the first one makes us check the tables; tables that look complete are not checked otherwise."""

log = Log()


class Committer:
    """Remembers the batch size, so that the search for a bad row goes on after a deadline."""

    def __init__(
        self, store: Store, resend: Resend | None = None, *, refusals: int = REFUSALS
    ) -> None:
        """`resend`: what makes up for a failover before anything new is written."""
        self._store = store
        self._resend = resend
        self._batch = BatchSize()
        self._refusals_needed = refusals
        self._suspect: Record | None = None
        self._refusals = 0
        """How many commits in a row ended at the suspect."""
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
        proven = False
        while done < len(records):
            batch = records[done : done + self._batch.rows]
            try:
                await self._write(
                    batch,
                    min(deadline, trio.current_time() + batch_timeout_s),
                    schema_timeout_s,
                )
            except UnclearError as error:
                if not self._batch.refused(len(batch)):
                    continue
                limit = min(deadline, trio.current_time() + batch_timeout_s)
                proven = await self._is_to_blame(batch[0], records[done + 1 :], limit, proven)
                if not proven:
                    return Outcome(done, rejected, error)
                rejected.append(Rejected(done, error.sqlstate, str(error)))
                done += 1
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

    async def send_again(self) -> None:
        """What the database had acknowledged and lacks, without waiting for a new row.

        Raises:
            OutageError: it did not take all of it.
        """
        await self._write([], trio.current_time() + SCHEMA_TIMEOUT_S, SCHEMA_TIMEOUT_S)

    async def _is_to_blame(
        self, suspect: Record, later: Sequence[Record], deadline: float, proven: bool
    ) -> bool:
        """Whether a row refused for an unclear reason is itself the reason.

        It is when it was refused again and again (or `proven`: another one just now turned out to
        be), the newest row of its table would be taken, and it is refused once more after that. A
        database that refuses everything, or all of a table, never gets here.
        """
        self._refusals = self._refusals + 1 if suspect == self._suspect else 1
        self._suspect = suspect
        newest = next((one for one in reversed(later) if one.table == suspect.table), None)
        if newest is None or (self._refusals < self._refusals_needed and not proven):
            return False
        with trio.move_on_at(deadline), suppress(StoreError):
            if await self._store.try_out(newest):
                try:
                    await self._put([suspect])
                except UnclearError:
                    return True
        return False

    async def _write(
        self, batch: Sequence[Record], deadline: float, schema_timeout_s: float
    ) -> None:
        write_s = deadline - trio.current_time()
        with trio.move_on_at(deadline) as scope:
            try:
                await self._put(batch)
            except SchemaMissingError as error:
                self._say_missing(str(error))
                await self._complete_tables(scope, schema_timeout_s, write_s)
                await self._write_into_new_schema(batch)
            except RowRejectedError as error:
                if len(batch) > 1 or error.sqlstate not in TOO_NARROW or self._widened:
                    raise
                self._widened = True
                log.warning("a column may be too narrow: looking at the tables", reason=str(error))
                await self._complete_tables(scope, schema_timeout_s, write_s)
                await self._write_into_new_schema(batch)
            return
        raise OutageError("no answer in time")

    async def _put(self, batch: Sequence[Record]) -> None:
        """To a server that has every row of before."""
        if self._resend is None:
            await self._store.write(batch)
            return
        while True:
            server = await self._resend.server(self.commit)
            try:
                await self._store.write(batch, to=server)
            except ServerChangedError:
                self._resend.look_again()
            else:
                return

    def _say_missing(self, reason: str) -> None:
        """Before the first row this is a new database; later it means that a table was dropped."""
        if self.committed == 0:
            log.info("making the tables ready")  # the server's words would sound like an error
        else:
            log.warning("table or column missing: making it", reason=reason)

    async def _complete_tables(
        self, scope: trio.CancelScope, schema_timeout_s: float, write_s: float
    ) -> None:
        """Only this may take long; a write into the tables then has its own time again."""
        deadline = scope.deadline
        scope.deadline = max(deadline, trio.current_time() + schema_timeout_s)
        await self._store.ensure_schema()
        if schema_timeout_s:
            deadline = max(deadline, trio.current_time() + write_s)
        scope.deadline = deadline

    async def _write_into_new_schema(self, batch: Sequence[Record]) -> None:
        try:
            await self._put(batch)
        except SchemaMissingError as error:
            raise OutageError(f"still missing after it was made: {error}") from error
