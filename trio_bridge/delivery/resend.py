"""Sends again what a failover took away.

A standby that lags lacks the last rows when it takes over, although they were acknowledged; so does
a data directory that was rolled back. What goes is the end of what was committed: of the rows that
are kept (`stores.spool.sent`), everything behind the last one that is there is sent before any new
row. What is missing further back was deleted, and stays so.

It is asked for when another server answers, or the same one was started again, but not when rows
are missing on the same one: then somebody has deleted them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import orjson

from trio_bridge.delivery.batch_size import LARGEST_BATCH
from trio_bridge.errors import SpoolError
from trio_bridge.events.rows import RowsSentAgain
from trio_bridge.logs import Log
from trio_bridge.stores.base import Presence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trio_bridge.delivery.outcome import Outcome
    from trio_bridge.events.event import Event
    from trio_bridge.stores.base import Server, Store
    from trio_bridge.stores.record import Record
    from trio_bridge.stores.spool.spool import Spool

log = Log()


class Commit(Protocol):
    """`Committer.commit`."""

    async def __call__(self, records: Sequence[Record], *, batch_timeout_s: float) -> Outcome: ...


class Resend:
    """Knows which server has all rows that are kept.

    A look that is cut short begins again with the next one; what it has sent is then found there.
    """

    def __init__(self, store: Store, spool: Spool, emit: Callable[[Event], None]) -> None:
        self._store = store
        self._spool = spool
        self._emit = emit
        self._server: Server | None = None
        self._looked = not spool.sent.keeps
        self._missing: dict[Record, None] = {}
        """What was found missing since the last event, in order."""

    def look_again(self) -> None:
        """Another server answers."""
        self._looked = False

    async def server(self, commit: Commit) -> Server | None:
        """The server that new rows may go to; None where servers do not tell who they are.

        `commit` is used for rows that it lacks.

        Raises: as `Store.write`.
        """
        if not self._looked:
            server = await self._store.server()
            self._looked, self._server = True, server
            try:
                if server is not None:
                    await self._look(server, commit)
            except BaseException:
                self._looked = False
                raise
        return self._server

    async def _look(self, server: Server, commit: Commit) -> None:
        sent = self._spool.sent
        try:
            # Behind the acknowledgements that are on their way to the disk.
            before, newest = await self._spool.on_disk(lambda: (sent.server, sent.newest))
            if before is None or newest is None or before == server:
                pass
            elif before.data != server.data:
                log.info("another database: what the one before has taken is not sent again")
            elif await self._store.find([newest]) != [Presence.OURS]:
                await self._send_again(commit)
                self._report()
            await self._spool.on_disk(lambda: sent.taken_by(server))
        except SpoolError as error:
            log.error("what a failover may have taken can't be sent again", reason=str(error))

    async def _send_again(self, commit: Commit) -> None:
        """What is missing behind the last row of ours."""
        sent = self._spool.sent
        segments = await self._spool.on_disk(sent.segments)
        first, there = len(segments), 0
        while first and not there:
            first -= 1
            found = await self._store.find(await self._records(segments[first]))
            there = max((n for n, one in enumerate(found, 1) if one is Presence.OURS), default=0)
        for segment in segments[first:]:
            records = await self._records(segment)
            for start in range(there, len(records), LARGEST_BATCH):
                await self._send(records[start : start + LARGEST_BATCH], commit)
            there = 0

    async def _records(self, segment: Path) -> list[Record]:
        return await self._spool.on_disk(lambda: self._spool.sent.records(segment))

    async def _send(self, records: Sequence[Record], commit: Commit) -> None:
        found = zip(records, await self._store.find(records), strict=True)
        missing = [record for record, one in found if one is Presence.MISSING]
        self._missing |= dict.fromkeys(missing)
        outcome = await commit(missing, batch_timeout_s=math.inf)
        for number, sqlstate, reason in outcome.rejected:
            await self._spool.quarantine(missing[number], sqlstate=sqlstate, reason=reason)
            del self._missing[missing[number]]
        outcome.raise_outage()

    def _report(self) -> None:
        if self._missing:
            first, last = (next(order(self._missing)) for order in (iter, reversed))
            self._emit(RowsSentAgain(len(self._missing), _timestamp(first), _timestamp(last)))
        self._missing = {}


def _timestamp(record: Record) -> str:
    return str(orjson.loads(record.row)["timestamp"])
