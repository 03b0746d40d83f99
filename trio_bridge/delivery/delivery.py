"""How rows become safe: the one place that decides between the database and the spool.

All rows of both tables wait in one line, the *queue*, until they are safe: committed, fsynced in
the spool, or fsynced in the quarantine. Three rules keep the order:

1. Rows leave the queue only at its head and only under `_head`, so one task at a time takes them.
   (The one exception is the rescue of a cancelled writer, which does not wait for the lock: it may
   append to the spool what another task is committing, and that is harmless.)
2. While the spool holds anything, the queue's head may only go behind it: into the spool, or into
   the database after the spool has been replayed to its end.
3. Only one task at a time uses the database. CLOSED: the one that holds `_head` (the writer,
   sometimes the flusher). HALF_OPEN: the flusher. OPEN: none.

Rows come through the outlet. Delivery's own events (a change of the breaker, quarantine, drops)
take the same way, so they stay behind the rows that came before them.

The queue is normally almost empty. It grows only while neither the database nor the disk takes
rows. At `QUEUE_LIMIT` new rows are dropped, so that the loss is one gap with a clear beginning and
end, and an event reports it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_bridge.delivery.batch_size import LARGEST_BATCH
from trio_bridge.delivery.breaker import BreakerState
from trio_bridge.delivery.commit import Committer
from trio_bridge.delivery.notices import DeliveryNotices
from trio_bridge.delivery.replay import Replay
from trio_bridge.errors import OutageError, SpoolError
from trio_bridge.events.rows import RowsSafe, SpoolTakenAway, SpoolUnwritable
from trio_bridge.logs import Log
from trio_bridge.stores.record import record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable
    from datetime import datetime

    from trio_bridge.delivery.breaker import DBCircuitBreaker
    from trio_bridge.delivery.outlet import Outlet
    from trio_bridge.model import Item
    from trio_bridge.stores.base import Store
    from trio_bridge.stores.record import Record
    from trio_bridge.stores.spool.spool import Spool

QUEUE_LIMIT = 10_000
"""Rows held in memory while neither the database nor the disk takes any: 14 hours at one row every
5 s."""

DISK_RETRY_S = 1.0
"""Pause between two attempts to spool while the disk refuses."""

WORTH_TRYING = 0.25
"""A row goes to the database only if at least this fraction of `db_timeout_s` is left for it, else
to the spool."""

QUICK_ENOUGH = 0.5
"""While rows come, the writer takes over from the flusher only if the last replay took less than
this fraction of `db_timeout_s`."""

RESCUE_TIMEOUT_S = 2.0
"""How long a cancelled writer may take to write the queue to disk."""

log = Log()


class Waiting(NamedTuple):
    """A row in the queue. `since`: when it was accepted, in seconds of `trio.current_time()`."""

    record: Record
    since: float
    timestamp: datetime


@dataclass
class DeliveryStatus:
    """How many rows went where, since the start; other tasks read it."""

    committed: int = 0
    spooled: int = 0
    quarantined: int = 0
    dropped: int = 0


class Delivery:
    """Takes rows from anyone (`accept`) and makes them safe (`deliver_all`, `flush`).

    The writer runs `deliver_all`, the flusher `flush`. When the spool holds rows of an earlier run,
    the circuit starts open, so that the flusher replays them before any row of this run.
    """

    def __init__(
        self,
        store: Store,
        spool: Spool,
        breaker: DBCircuitBreaker,
        outlet: Outlet,
        *,
        db_timeout_s: float,
        watch: Callable[[Item], None] = lambda item: None,
        safe: Callable[[Record, float], None] = lambda record, waited_s: None,
    ) -> None:
        """`watch` is called with every row and event, delivery's own too; `safe` with each that has
        become safe, and the seconds that took. Neither may wait or raise."""
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
        """Rows in the queue, which are not safe yet."""
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

    def accept(self, item: Item) -> None:
        """Put a row at the end of the queue; a full queue drops it and counts it."""
        self._watch(item)
        if len(self._queue) >= QUEUE_LIMIT:
            self.status.dropped += 1
            self._notices.dropped(item.timestamp)
            return
        self._queue.append(Waiting(record_of(item), trio.current_time(), item.timestamp))
        self._wake.set()

    def end(self) -> None:
        """No more rows will come: the writer ends when all are safe, and no flush begins or goes
        on."""
        self._ended = True
        self._outlet.end(self.accept)
        self._notices.end()
        self._wake.set()

    # The writer's side.

    async def deliver_all(self) -> None:
        """Make rows safe as they come, until `end` has been called and none is left."""
        while True:
            if self._queue:
                await self._deliver()
                self._say_what_vanished()
            elif self._ended:
                async with self._head:  # the flusher may still report something
                    if not self._queue:
                        return
            if self._disk_fails or (self._spool.unsettled and not self._queue):
                with trio.move_on_after(DISK_RETRY_S):
                    await self._news()
                await self._settle_spool()
            elif not self._queue and not self._ended:
                await self._news()

    async def rescue(self) -> None:
        """Write the queue to disk, whatever else goes on, within `RESCUE_TIMEOUT_S`: the last thing
        a writer does."""
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
                    deadline = now + self._db_timeout_s  # the disk takes none of them
                if deadline - now >= WORTH_TRYING * self._db_timeout_s and await self._to_database(
                    deadline
                ):
                    return
            await self._spool_queue()

    async def _news(self) -> None:
        self._wake = trio.Event()
        await self._wake.wait()

    async def _to_database(self, deadline: float) -> bool:
        """CLOSED: replay what little the spool holds, then write the queue's head.

        Returns whether the database took it; a failure is logged and counted here."""
        try:
            await self._replay_rest(deadline)
            await self._write_head(deadline)
        except (OutageError, SpoolError) as error:  # no row may overtake unreadable ones
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
        """Append the queue to the spool; what the disk refuses stays in the queue."""
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
            # A rescue may have taken the row out in the meantime.
            if self._queue and self._queue[0] is row:
                self._queue.popleft()
                if number not in rejected:
                    self._safe(row.record, trio.current_time() - row.since)
        if not self._queue:
            self._all_safe()

    # The flusher's side.

    async def flush(self) -> None:
        """Replay the spool in order until it is empty, then let the writer use the database again.

        Stops early when the database does not take rows, or when `end` was called.
        """
        self._notices.quarantined(0)
        if self._ended:
            return
        if self._breaker.state is BreakerState.CLOSED:
            await self._flush_leftovers()
        else:
            await self._replay_backlog()
        self._say_what_vanished()

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
        """Replay what one or two failures left in the spool, if no new row has taken it along."""
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
                    continue  # many rows may have come in the meantime
            # Under the lock no row is on its way into the spool, and nothing is awaited between the
            # check and the change: no row can be spooled once the circuit is closed.
            async with self._head:
                # If rows come faster than the database answers, the spool would never be empty. So
                # the last of it is replayed while new rows wait in memory.
                try:
                    await self._replay_rest(trio.current_time() + self._db_timeout_s)
                except OutageError:
                    continue  # too slow for that, or down: the next replay will show
                if self.status.committed > committed or not self._queue:
                    self._notices.changed(self._breaker.close("everything is replayed"))
                    return
                # The disk is full and the rows wait in memory: try the database with them.
                await self._write_head(trio.current_time() + self._db_timeout_s)

    # What is reported.

    def _disk_trouble(self, error: SpoolError) -> None:
        if not self._disk_fails:
            self._disk_fails = True
            self._notices.emit(SpoolUnwritable(QUEUE_LIMIT, str(error)))

    def _say_what_vanished(self) -> None:
        if self._spool.vanished:
            gone, self._spool.vanished = self._spool.vanished, 0
            self._notices.emit(SpoolTakenAway(gone, str(self._spool.path)))

    def _all_safe(self) -> None:
        if self._disk_fails:
            self._disk_fails = False
            self._notices.emit(RowsSafe())
        self._notices.gap_ended()

    def _count(self, answered: int, quarantined: int) -> None:
        """The database committed or rejected `answered` rows; `quarantined` were set aside."""
        if answered:
            self._breaker.record_success()
        self.status.committed = self._committer.committed
        self.status.quarantined += quarantined
        self._notices.quarantined(quarantined)
