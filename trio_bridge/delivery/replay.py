"""Replays the spool into the database, in order, chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import inf
from typing import TYPE_CHECKING

import trio

from trio_bridge.delivery.commit import SCHEMA_TIMEOUT_S
from trio_bridge.errors import SpoolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_bridge.delivery.commit import Committer
    from trio_bridge.delivery.outcome import Outcome
    from trio_bridge.stores.spool.chunk import Chunk
    from trio_bridge.stores.spool.spool import Spool

REPLAY_TIMEOUT_S = 10.0
"""The time limit of one replayed batch while no new row waits for it (new rows are spooled)."""

DURABLE_EVERY = 30
"""In a long replay this many chunks share one durable acknowledgement: the database may need the
same disk. After a crash some rows are sent again; their `event_id` keeps them single."""


@dataclass
class _DiskTurn:
    """The disk's work while the database takes a chunk, and its results."""

    durably: bool
    ahead: Chunk | None = None
    trouble: SpoolError | None = None


class Replay:
    """`taken` is called when rows are committed; `done` after every chunk: how many of its rows
    were committed or rejected, and how many lines went to the quarantine."""

    def __init__(
        self,
        spool: Spool,
        committer: Committer,
        done: Callable[[int, int], None],
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._committer = committer
        self._done = done
        self._taken = taken

    async def one_chunk(self, *, batch_timeout_s: float, deadline: float) -> None:
        """Replay the next lines until `deadline`, an instant of `trio.current_time()`.

        Raises:
            OutageError: the database did not take all of them.
            SpoolError: the spool can't be read or acknowledged.
        """
        chunk = await self._spool.read()
        outcome = await self._commit(chunk, batch_timeout_s=batch_timeout_s, deadline=deadline)
        # While the database is well, the file is emptied a moment later: noting a place costs more.
        await self._acknowledge(chunk, outcome, durably=outcome.outage is not None)
        outcome.raise_outage()

    async def everything(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Replay what the spool holds now.

        While the database takes a chunk, the disk acknowledges the one before and reads the next.
        `until` ends it between two chunks.

        Raises:
            OutageError: the database did not take all of it.
            SpoolError: the spool can't be read or acknowledged.
        """
        end = self._spool.end  # rows may come faster than they are replayed: those are left
        chunk = await self._spool.read()
        before: tuple[Chunk, Outcome] | None = None
        for number in count(1):
            if not chunk or until():
                break
            turn = _DiskTurn(durably=number % DURABLE_EVERY == 0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._take_turn, turn, before, chunk)
                outcome = await self._commit(
                    chunk, batch_timeout_s=REPLAY_TIMEOUT_S, schema_timeout_s=SCHEMA_TIMEOUT_S
                )
            before = (chunk, outcome)
            if turn.trouble is not None:
                raise turn.trouble
            if turn.ahead is None or outcome.outage is not None or chunk.end >= end:
                break
            chunk = turn.ahead
        if before is not None:
            await self._acknowledge(*before)
            before[1].raise_outage()

    async def _take_turn(
        self, turn: _DiskTurn, before: tuple[Chunk, Outcome] | None, chunk: Chunk
    ) -> None:
        try:
            if before is not None:
                await self._acknowledge(*before, durably=turn.durably)
            turn.ahead = await self._spool.read(after=chunk)
        except SpoolError as error:
            turn.trouble = error

    async def _commit(
        self,
        chunk: Chunk,
        *,
        batch_timeout_s: float,
        deadline: float = inf,
        schema_timeout_s: float = 0.0,
    ) -> Outcome:
        outcome = await self._committer.commit(
            [line.record for line in chunk.lines],
            batch_timeout_s=batch_timeout_s,
            deadline=deadline,
            schema_timeout_s=schema_timeout_s,
        )
        if not outcome.rejected:
            self._spool.note_taken(chunk, outcome.done)
            self._taken()
        return outcome

    async def _acknowledge(self, chunk: Chunk, outcome: Outcome, *, durably: bool = True) -> None:
        quarantined = await self._spool.acknowledge(
            chunk, outcome.done, outcome.rejected, durably=durably
        )
        self._taken()
        self._done(outcome.done, quarantined)
