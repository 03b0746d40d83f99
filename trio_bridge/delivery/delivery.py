"""How rows become safe: the one place that decides between the database and the spool.

All rows of both tables wait in one line, the *queue*, until they are safe: committed, fsynced in
the spool, or fsynced in the quarantine. Three rules keep the order:

1. Rows leave the queue at its head only, and only under `_head`, so by one task at a time. (The
   one exception is the rescue of a cancelled writer, which waits for nobody: it appends to the
   spool what another task may be committing, and that is harmless.)
2. While the spool holds anything, the queue's head may only go behind it: into the spool, or into
   the database after the spool was replayed to its end.
3. The database belongs to one task at a time. CLOSED: to whoever holds `_head` (the writer, now and
   then the flusher). HALF_OPEN: to the flusher. OPEN: to nobody.

Rows come through the outlet. Delivery's own events (a change of the breaker, quarantine, drops)
take the same way, so they stay behind the rows that came before them.

The queue is short-lived in normal life. It grows only while neither database nor disk takes rows;
at `QUEUE_LIMIT` the newest rows are dropped, so that what is lost is one gap with a clear beginning
and end, which an event then states.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import structlog
import trio

from trio_bridge.delivery.batch_size import LARGEST_BATCH
from trio_bridge.delivery.breaker import BreakerState
from trio_bridge.delivery.commit import Committer
from trio_bridge.delivery.notices import DeliveryNotices
from trio_bridge.delivery.replay import Replay
from trio_bridge.errors import OutageError, SpoolError
from trio_bridge.model import Severity
from trio_bridge.stores.record import record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable
    from datetime import datetime

    from trio_bridge.delivery.breaker import DBCircuitBreaker
    from trio_bridge.delivery.outlet import Outlet
    from trio_bridge.model import ApiEvent, Snapshot
    from trio_bridge.stores.base import Store
    from trio_bridge.stores.record import Record
    from trio_bridge.stores.spool.spool import Spool

QUEUE_LIMIT = 10_000
"""Rows held in memory while neither the database nor the disk takes any: 14 hours of ticks."""

DISK_RETRY_S = 1.0
"""Pause between two tries to spool while the disk refuses."""

WORTH_TRYING = 0.25
"""The part of the database's time that must be left of a row's, else it goes to the spool."""

QUICK_ENOUGH = 0.5
"""The part of the database's time for a row within which a replay has to end for the writer to take
over while rows come."""

RESCUE_TIMEOUT_S = 2.0
"""For bringing the queue to disk when the writer is cancelled."""

log = structlog.get_logger()


class Waiting(NamedTuple):
    """A row in the queue; `since` is when it came, on the monotonic clock, in seconds."""

    record: Record
    since: float
    timestamp: datetime


@dataclass
class DeliveryStatus:
    """What happened to rows so far, for other tasks to read."""

    committed: int = 0
    spooled: int = 0
    quarantined: int = 0
    dropped: int = 0


class Delivery:
    """Takes rows from anyone (`accept`) and makes them safe (`deliver_all`, `flush`).

    `deliver_all` is the writer's, `flush` the flusher's. When the spool holds rows of an earlier
    run, the database is left to the flusher until they are in, before any row of this run.
    """

    def __init__(
        self,
        store: Store,
        spool: Spool,
        breaker: DBCircuitBreaker,
        outlet: Outlet,
        *,
        db_timeout_s: float,
        watch: Callable[[Snapshot | ApiEvent], None] = lambda item: None,
        safe: Callable[[Record, float], None] = lambda record, waited_s: None,
    ) -> None:
        """`watch` is told of every row and event, delivery's own too, and `safe` of each that has
        become safe, with the seconds it took; they never wait and never raise."""
        self._watch = watch
        self._safe = safe
        self._spool = spool
        self._breaker = breaker
        self._db_timeout_s = db_timeout_s
        self._queue: deque[Waiting] = deque()
        self._head = trio.Lock()
        self._wake = trio.Event()
        self._committer = Committer(store)
        self._replay = Replay(spool, self._committer, self._count)
        self._outlet = outlet
        self._notices = DeliveryNotices(outlet.emit, quarantine_path=spool.quarantine_path)
        self._ended = False
        self._disk_fails = False
        self.status = DeliveryStatus()
        if spool.backlog_bytes:
            reason = f"{spool.backlog_bytes} bytes of an earlier run wait in the spool"
            self._notices.changed(breaker.hold_back(reason))
            outlet.receive_pending(self.accept)  # before anybody watches: it is worth no alert

    @property
    def waiting(self) -> int:
        """Rows that are not safe yet."""
        return len(self._queue)

    @property
    def breaker_state(self) -> BreakerState:
        return self._breaker.state

    @property
    def backlog_bytes(self) -> int:
        return self._spool.backlog_bytes

    # The way in.

    async def receive_all(self) -> None:
        """Accept everything that comes out of the outlet, until it is closed and empty."""
        await self._outlet.receive_all(self.accept)
        self.end()

    def accept(self, item: Snapshot | ApiEvent) -> None:
        """Put a row at the end of the queue; at the limit it is dropped and counted."""
        self._watch(item)
        if len(self._queue) >= QUEUE_LIMIT:
            self.status.dropped += 1
            self._notices.dropped(item.timestamp)
            return
        self._queue.append(Waiting(record_of(item), trio.current_time(), item.timestamp))
        self._wake.set()

    def end(self) -> None:
        """No more rows will come: the writer ends when all is safe, no flush begins or goes on."""
        self._ended = True
        self._outlet.end(self.accept)
        self._notices.end()
        self._wake.set()

    # The writer's side.

    async def deliver_all(self) -> None:
        """Make rows safe as they come, until `end` was called and none is left."""
        while True:
            if self._queue:
                await self._deliver()
            elif self._ended:
                async with self._head:  # the flusher's last word may still become a row
                    if not self._queue:
                        return
            if self._disk_fails or (self._spool.unsettled and not self._queue):
                with trio.move_on_after(DISK_RETRY_S):
                    await self._news()
                await self._settle_spool()
            elif not self._queue and not self._ended:
                await self._news()

    async def rescue(self) -> None:
        """Bring the queue to disk whatever else goes on; bounded, for the writer's last moment."""
        with trio.move_on_after(RESCUE_TIMEOUT_S, shield=True):
            await self._spool_queue()
            await self._settle_spool()
        if self._queue:
            log.error(
                "rows lost: neither the database nor the disk took them",
                rows=len(self._queue),
                first=self._queue[0].timestamp.isoformat(),
                last=self._queue[-1].timestamp.isoformat(),
            )

    async def _deliver(self) -> None:
        async with self._head:
            if not self._queue:
                return
            if self._breaker.state is BreakerState.CLOSED:
                now = trio.current_time()
                deadline = self._queue[0].since + self._db_timeout_s
                if self._disk_fails:
                    deadline = now + self._db_timeout_s  # there is no other way for these rows
                if deadline - now >= WORTH_TRYING * self._db_timeout_s and await self._to_database(
                    deadline
                ):
                    return
            await self._spool_queue()

    async def _news(self) -> None:
        self._wake = trio.Event()
        await self._wake.wait()

    async def _to_database(self, deadline: float) -> bool:
        """CLOSED: replay what little the spool holds, then write the queue's head. True: it is in;
        False: the database did not take it, which is counted and logged."""
        try:
            await self._replay_rest(deadline)
            await self._write_head(deadline)
        except (OutageError, SpoolError) as error:  # nothing gets past rows that can't be read
            log.warning("database does not take rows", reason=str(error))
            self._notices.changed(self._breaker.record_failure(str(error)))
            return False
        return True

    async def _replay_rest(self, deadline: float) -> None:
        """Empty the spool while new rows wait in memory, so only as long as they may wait."""
        while self._spool.holds_rows():
            await self._replay.one_chunk(batch_timeout_s=self._db_timeout_s, deadline=deadline)

    async def _write_head(self, deadline: float) -> None:
        """Commit up to one batch of the queue."""
        head = list(islice(self._queue, LARGEST_BATCH))
        outcome = await self._committer.commit(
            [row.record for row in head], batch_timeout_s=self._db_timeout_s, deadline=deadline
        )
        for number, sqlstate, reason in outcome.rejected:
            await self._spool.quarantine(head[number].record, sqlstate=sqlstate, reason=reason)
        rejected = {number for number, *_ in outcome.rejected}
        self._leave_queue(head[: outcome.done], rejected)
        self._count(outcome.done, len(rejected))
        outcome.raise_outage()

    async def _spool_queue(self) -> None:
        """Append everything that waits; what the disk refuses goes on waiting."""
        while self._queue:
            head = list(islice(self._queue, LARGEST_BATCH))
            try:
                await self._spool.append([row.record for row in head])
            except SpoolError as error:
                self._disk_trouble(error)
                return
            self.status.spooled += len(head)
            self._leave_queue(head)

    async def _settle_spool(self) -> None:
        if self._spool.unsettled:
            try:
                await self._spool.settle()
            except SpoolError as error:
                self._disk_trouble(error)

    def _leave_queue(self, safe: Iterable[Waiting], rejected: Container[int] = ()) -> None:
        for number, row in enumerate(safe):
            # A rescue may have taken the row out meanwhile.
            if self._queue and self._queue[0] is row:
                self._queue.popleft()
                if number not in rejected:
                    self._safe(row.record, trio.current_time() - row.since)
        if not self._queue:
            self._all_safe()

    # The flusher's side.

    async def flush(self) -> None:
        """Replay the spool in order until it is empty, then give the database to the writer.

        Ends early when the database does not take rows, or when `end` was called.
        """
        self._notices.quarantined(0)
        if self._ended:
            return
        if self._breaker.state is BreakerState.CLOSED:
            await self._flush_leftovers()
        else:
            await self._replay_backlog()

    async def _replay_backlog(self) -> None:
        self._notices.changed(self._breaker.probe(f"{self._spool.backlog_bytes} bytes to replay"))
        try:
            await self._replay_all()
        except (OutageError, SpoolError) as error:
            if isinstance(error, SpoolError):
                log.error("spool can't be replayed", reason=str(error))
            if not self._ended:
                log.warning("replay stopped", reason=str(error))
                self._notices.changed(self._breaker.record_failure(str(error)))

    async def _flush_leftovers(self) -> None:
        """One or two failures left rows in the spool, and no row came since to take them along."""
        async with self._head:
            if self._breaker.state is BreakerState.CLOSED and self._spool.holds_rows():
                await self._to_database(trio.current_time() + self._db_timeout_s)

    async def _replay_all(self) -> None:
        committed = self.status.committed
        while not self._ended:
            began = trio.current_time()
            if self._spool.holds_rows():
                await self._replay.everything(until=lambda: self._ended)
                if trio.current_time() - began >= QUICK_ENOUGH * self._db_timeout_s:
                    continue  # many rows may have come meanwhile
            # Under the lock no row is on its way into the spool, and nothing is awaited between the
            # check and the change: no row can slip behind a closed circuit.
            async with self._head:
                # Rows that come faster than the database answers would keep the spool from ever
                # being empty: those that came since are replayed while new ones wait in memory.
                try:
                    await self._replay_rest(trio.current_time() + self._db_timeout_s)
                except OutageError:
                    continue  # too slow for that, or gone: the next replay shows which
                if self.status.committed > committed or not self._queue:
                    self._notices.changed(self._breaker.close("everything is replayed"))
                    return
                # The disk is full and the rows wait in memory: they are the probe.
                await self._write_head(trio.current_time() + self._db_timeout_s)

    # What there is to tell.

    def _disk_trouble(self, error: SpoolError) -> None:
        if not self._disk_fails:
            self._disk_fails = True
            self._notices.say(
                f"spool can't be written, up to {QUEUE_LIMIT} rows wait in memory: {error}",
                Severity.ERROR,
            )

    def _all_safe(self) -> None:
        if self._disk_fails:
            self._disk_fails = False
            self._notices.say("all rows are safe again")
        self._notices.gap_ended()

    def _count(self, answered: int, quarantined: int) -> None:
        """The database has answered to so many rows, or lines went to the quarantine."""
        if answered:
            self._breaker.record_success()
        self.status.committed = self._committer.committed
        self.status.quarantined += quarantined
        self._notices.quarantined(quarantined)
