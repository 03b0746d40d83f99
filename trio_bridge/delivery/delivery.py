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

Delivery's own events (a change of the breaker, quarantine, drops) are put at the queue's end like
any other row; nothing is ever sent back through the channel, so nothing can wait for itself.

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
from trio_bridge.errors import SpoolError
from trio_bridge.events.rows import RowsSafe, SpoolUnwritable
from trio_bridge.model import ApiEvent, ApiMode, Snapshot, utc_now
from trio_bridge.stores.record import record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable
    from datetime import datetime

    from trio_bridge.delivery.breaker import DBCircuitBreaker
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
        *,
        db_timeout_s: float,
        api_mode: ApiMode = ApiMode.SOCKET,
        now: Callable[[], datetime] = utc_now,
        watch: Callable[[Snapshot | ApiEvent], None] | None = None,
        safe: Callable[[Record, float], None] | None = None,
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
        self._notices = DeliveryNotices(
            self.accept, api_mode=api_mode, quarantine_path=spool.quarantine_path, now=now
        )
        self._ended = False
        self._disk_fails = False
        self.status = DeliveryStatus()
        if spool.backlog_bytes:
            reason = f"{spool.backlog_bytes} bytes of an earlier run wait in the spool"
            self._notices.changed(breaker.hold_back(reason))

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

    # The way in. Nothing here waits or raises.

    def follow(self, receive: trio.MemoryReceiveChannel[Snapshot | ApiEvent]) -> None:
        """Keep delivery's own events behind the rows that are still in this channel."""
        self._notices.follow(receive)

    def accept_own(self) -> None:
        """The receiver of that channel has caught up: delivery's own events may follow."""
        self._notices.pass_on()

    def accept(self, item: Snapshot | ApiEvent) -> None:
        """Put a row at the end of the queue; at the limit it is dropped and counted."""
        if self._watch is not None:
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
        """CLOSED: replay what little the spool holds, then write the queue's head."""
        try:
            outage = None
            while outage is None and self._spool.holds_rows():
                outage = await self._replay.one_chunk(
                    batch_timeout_s=self._db_timeout_s, deadline=deadline
                )
            if outage is None:
                outage = await self._write_head(deadline)
        except SpoolError as error:
            outage = str(error)  # nothing gets past rows that can't be read
        if outage is None:
            return True
        log.warning("database does not take rows", reason=outage)
        self._notices.changed(self._breaker.record_failure(outage))
        return False

    async def _write_head(self, deadline: float) -> str | None:
        """Commit up to one batch of the queue; None, or why the database did not take it."""
        head = list(islice(self._queue, LARGEST_BATCH))
        outcome = await self._committer.commit(
            [row.record for row in head], batch_timeout_s=self._db_timeout_s, deadline=deadline
        )
        for number, sqlstate, reason in outcome.rejected:
            await self._spool.quarantine(head[number].record, sqlstate=sqlstate, reason=reason)
        rejected = {number for number, *_ in outcome.rejected}
        self._leave_queue(head[: outcome.done], rejected)
        self._count(outcome.done, len(rejected))
        return outcome.outage

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
                if self._safe is not None and number not in rejected:
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
            outage = await self._replay_all()
        except SpoolError as error:
            log.error("spool can't be replayed", reason=str(error))
            outage = str(error)
        if outage is not None and not self._ended:
            log.warning("replay stopped", reason=outage)
            self._notices.changed(self._breaker.record_failure(outage))

    async def _flush_leftovers(self) -> None:
        """One or two failures left rows in the spool, and no row came since to take them along."""
        async with self._head:
            if self._breaker.state is BreakerState.CLOSED and self._spool.holds_rows():
                await self._to_database(trio.current_time() + self._db_timeout_s)

    async def _replay_all(self) -> str | None:
        committed = self.status.committed
        outage = None
        while outage is None and not self._ended:
            began = trio.current_time()
            if self._spool.holds_rows():
                outage = await self._replay.everything(until=lambda: self._ended)
                took_s = trio.current_time() - began
                if outage is not None or took_s >= QUICK_ENOUGH * self._db_timeout_s:
                    continue  # many rows may have come meanwhile
            # Under the lock no row is on its way into the spool, and nothing is awaited between the
            # check and the change: no row can slip behind a closed circuit.
            async with self._head:
                if not await self._replay_last():
                    continue
                if self.status.committed > committed or not self._queue:
                    self._notices.changed(self._breaker.close("everything is replayed"))
                    return None
                # The disk is full and the rows wait in memory: they are the probe.
                outage = await self._write_head(trio.current_time() + self._db_timeout_s)
        return outage

    async def _replay_last(self) -> bool:
        """Under the lock, while new rows wait in memory: replay what came since the last look.

        Else rows that come faster than the database answers would keep the spool from ever being
        empty. False: the database is too slow for that, or gone, which the next replay tells.
        """
        deadline = trio.current_time() + self._db_timeout_s
        while self._spool.holds_rows():
            outage = await self._replay.one_chunk(
                batch_timeout_s=self._db_timeout_s, deadline=deadline
            )
            if outage is not None:
                return False
        return True

    # What there is to tell.

    def _disk_trouble(self, error: SpoolError) -> None:
        if not self._disk_fails:
            self._disk_fails = True
            self._notices.say(SpoolUnwritable(QUEUE_LIMIT, str(error)))

    def _all_safe(self) -> None:
        if self._disk_fails:
            self._disk_fails = False
            self._notices.say(RowsSafe())
        self._notices.gap_ended()

    def _count(self, answered: int, quarantined: int) -> None:
        """The database has answered to so many rows, or lines went to the quarantine."""
        if answered:
            self._breaker.record_success()
        self.status.committed = self._committer.committed
        self.status.quarantined += quarantined
        self._notices.quarantined(quarantined)
