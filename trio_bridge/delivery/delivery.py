"""How rows become safe: accept → append → ship → acknowledge.

Every row of both tables takes one way. It is appended to the spool, the log of what the database
has not acknowledged; it is shipped from there, in order; the acknowledgement takes it out. Two
tasks do that side by side, so that a database which does not answer keeps no row out of the log.

- The writer appends. While the database is well it does not fsync: a row outlives this process, and
  is in the database a moment later. A row that is not by the end of `db_timeout_s`, and every row
  while the database is not well, is fsynced.
- The shipper commits: as rows come while the circuit is CLOSED. After three failures in a row it
  is OPEN, and the database is only tried every `flush_interval_s` (HALF_OPEN), until everything is
  shipped.

A row is *safe* when it is committed, fsynced or in the quarantine; until then it is in the queue,
too, in memory. While the disk refuses rows, they are shipped from there, behind what the log holds.
At `QUEUE_LIMIT` new rows are dropped, so that the loss is one gap with a clear beginning and end,
and an event reports it.

Rows come through the outlet. Delivery's own events (a change of the breaker, quarantine, drops)
take the same way, so they stay behind the rows that came before them.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import trio

from trio_bridge.delivery.batch_size import LARGEST_BATCH
from trio_bridge.delivery.breaker import BreakerState
from trio_bridge.delivery.commit import Committer
from trio_bridge.delivery.notices import DeliveryNotices
from trio_bridge.delivery.replay import Replay
from trio_bridge.delivery.resend import Resend
from trio_bridge.errors import OutageError, SpoolError
from trio_bridge.events.rows import RowsSafe, SpoolTakenAway, SpoolUnwritable
from trio_bridge.logs import Log
from trio_bridge.stores.record import record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
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
"""Pause between two attempts to append while the disk refuses."""

RESCUE_TIMEOUT_S = 2.0
"""How long a cancelled writer may take to fsync the queue."""

log = Log()


@dataclass(slots=True, eq=False)
class Waiting:
    """A row in the queue.

    Attributes:
        since: when it was accepted, in seconds of `trio.current_time()`.
        end: the position behind it in the log; None while it is not there.
        safe: whether it may leave the queue.
    """

    record: Record
    since: float
    timestamp: datetime
    end: int | None = None
    safe: bool = False


@dataclass
class DeliveryStatus:
    """How many rows went where, since the start; other tasks read it."""

    committed: int = 0
    spooled: int = 0
    """Fsynced because the database had not taken them."""
    quarantined: int = 0
    dropped: int = 0


class Delivery:
    """Takes rows from anyone (`accept`) and makes them safe.

    The writer runs `append_all` and `ship_all`, the flusher `flush`. When the spool holds rows of
    an earlier run, the circuit starts open, so that the flusher replays them first.
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
        self._generation = spool.generation
        self._to_append, self._to_ship = trio.Event(), trio.Event()
        self._shipping = trio.Lock()
        """One task at a time uses the database."""
        self._committer = Committer(store, Resend(store, spool, outlet.emit))
        self._replay = Replay(spool, self._committer, self._count, self._acknowledged)
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
        """Of rows that a failure keeps in the spool: not of those on their way to the database."""
        return 0 if self._is_well() else self._spool.backlog_bytes

    def _is_well(self) -> bool:
        """Whether the database took what it was last given."""
        return self._breaker.state is BreakerState.CLOSED and not self._breaker.failures

    # Accept.

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
        self._to_append.set()

    def end(self) -> None:
        """No more rows will come: the writer ends when all are safe, and no flush begins or goes
        on."""
        self._ended = True
        self._outlet.end(self.accept)
        self._notices.end()
        self._to_append.set()

    # Append: the writer.

    async def append_all(self) -> None:
        """Append rows as they come, and make safe in time what the database does not take, until
        `end` has been called and all are safe."""
        while True:
            self._to_append = trio.Event()
            fails = await self._make_safe()
            self._say_what_vanished()
            if self._ended and not self._queue:
                async with self._shipping:  # the flusher may still report something
                    if not self._queue:
                        return
            pause_s = DISK_RETRY_S if fails or self._spool.unsettled else math.inf
            with trio.move_on_at(min(self._due_at(), trio.current_time() + pause_s)):
                await self._to_append.wait()

    async def rescue(self) -> None:
        """Make the queue durable, whatever else goes on, within `RESCUE_TIMEOUT_S`: the last thing
        a writer does."""
        with trio.move_on_after(RESCUE_TIMEOUT_S, shield=True):
            await self._make_safe(durably=True)
        if self._queue:
            log.error(
                "rows lost: neither the database nor the disk took them",
                rows=len(self._queue),
                first=self._queue[0].timestamp.isoformat(),
                last=self._queue[-1].timestamp.isoformat(),
            )

    def _due_at(self) -> float:
        """When the oldest row has to be durable."""
        if not self._queue or self._queue[0].end is None:
            return math.inf
        return self._queue[0].since + self._db_timeout_s

    async def _make_safe(self, *, durably: bool = False) -> bool:
        """One round; whether the disk fails."""
        try:
            while rows := self._not_appended():
                await self._append(rows, durably=durably or not self._is_well())
            if self._queue and (
                durably or not self._is_well() or trio.current_time() >= self._due_at()
            ):
                with self._noticing_loss():
                    self._fsynced(await self._spool.sync())
            if self._spool.unsettled and not self._queue:
                await self._spool.settle()
        except SpoolError as error:
            if not self._disk_fails:
                self._disk_fails = True
                self._notices.emit(SpoolUnwritable(QUEUE_LIMIT, str(error)))
            self._to_ship.set()  # from memory
            return True
        return False

    def _not_appended(self) -> list[Waiting]:
        waiting = (row for row in self._queue if row.end is None)
        return list(islice(waiting, LARGEST_BATCH))

    async def _append(self, rows: Sequence[Waiting], *, durably: bool) -> None:
        with self._noticing_loss():
            ends = await self._spool.append([row.record for row in rows], durably=durably)
        for row, end in zip(rows, ends, strict=True):
            row.end = end
        self._acknowledged()  # the shipper may have been faster
        self._disk_works()
        if durably:
            self._fsynced(ends[-1])
        self._to_ship.set()

    def _fsynced(self, position: int) -> None:
        self.status.spooled += self._leave(self._before(position))

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        """What the log has lost has to be appended again."""
        try:
            yield
        finally:
            if self._spool.generation != self._generation:
                self._generation = self._spool.generation
                for row in self._queue:
                    row.end = None
                self._to_append.set()

    # Ship: the writer while the circuit is closed, else the flusher.

    async def ship_all(self) -> None:
        """Ship rows as they are appended, while the circuit is closed."""
        while True:
            await self._to_ship.wait()
            self._to_ship = trio.Event()
            await self._ship()

    async def flush(self) -> None:
        """Ship what one or two failures have left, or try again a database that was given up.

        Stops early when the database does not take rows, or when `end` was called.
        """
        self._notices.quarantined(0)
        if self._ended:
            return
        if self._breaker.state is BreakerState.CLOSED:
            await self._ship()
        else:
            await self._try_again()

    async def _ship(self) -> None:
        async with self._shipping:
            with self._counting_failure("database does not take rows"):
                while self._breaker.state is BreakerState.CLOSED and self._is_something_to_ship():
                    deadline = trio.current_time() + self._db_timeout_s
                    if self._spool.backlog_bytes:
                        await self._replay.one_chunk(
                            batch_timeout_s=self._db_timeout_s, deadline=deadline
                        )
                    else:
                        await self._ship_from_memory(deadline)

    async def _try_again(self) -> None:
        async with self._shipping:
            reason = f"{self._spool.backlog_bytes} bytes to replay"
            self._notices.changed(self._breaker.probe(reason))
            with self._counting_failure("replay stopped"):
                committed = self._committer.committed
                await self._replay.everything(until=lambda: self._ended)
                if self._committer.committed == committed and self._is_something_to_ship():
                    # The disk is full and the rows wait in memory: try the database with them.
                    await self._ship_from_memory(trio.current_time() + self._db_timeout_s)
                if not self._ended:
                    self._notices.changed(self._breaker.close("everything is replayed"))
            self._to_ship.set()

    @contextmanager
    def _counting_failure(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OutageError, SpoolError) as error:
            if self._ended and self._breaker.state is BreakerState.HALF_OPEN:
                return
            log.warning(what, reason=str(error))
            self._notices.changed(self._breaker.record_failure(str(error)))
            self._to_append.set()  # what is appended has to be fsynced now

    def _is_something_to_ship(self) -> bool:
        return self._spool.backlog_bytes > 0 or (self._disk_fails and bool(self._queue))

    async def _ship_from_memory(self, deadline: float) -> None:
        rows = self._not_appended()
        outcome = await self._committer.commit(
            [row.record for row in rows], batch_timeout_s=self._db_timeout_s, deadline=deadline
        )
        for number, sqlstate, reason in outcome.rejected:
            await self._spool.quarantine(rows[number].record, sqlstate=sqlstate, reason=reason)
        self._leave(rows[: outcome.done])
        self._count(outcome.done, len(outcome.rejected))
        outcome.raise_outage()

    # Acknowledge.

    def _acknowledged(self) -> None:
        with self._noticing_loss():
            self._leave(self._before(self._spool.acknowledged))

    def _before(self, position: int) -> list[Waiting]:
        """The rows of the queue that the log holds before this position."""
        return list(takewhile(lambda row: row.end is not None and row.end <= position, self._queue))

    def _leave(self, rows: Iterable[Waiting]) -> int:
        """These rows are safe; returns how many of them were not before."""
        new = 0
        for row in rows:
            if not row.safe:
                row.safe = True
                new += 1
                self._safe(row.record, trio.current_time() - row.since)
        while self._queue and self._queue[0].safe:
            self._queue.popleft()
        if not self._queue:
            self._notices.gap_ended()
            if self._ended:
                self._to_append.set()
        return new

    # What is reported.

    def _disk_works(self) -> None:
        if self._disk_fails:
            self._disk_fails = False
            self._notices.emit(RowsSafe())

    def _say_what_vanished(self) -> None:
        if self._spool.vanished:
            gone, self._spool.vanished = self._spool.vanished, 0
            self._notices.emit(SpoolTakenAway(gone, str(self._spool.path)))

    def _count(self, answered: int, quarantined: int) -> None:
        """The database committed or rejected `answered` rows; `quarantined` were set aside."""
        if answered:
            self._breaker.record_success()
        self.status.committed = self._committer.committed
        self.status.quarantined += quarantined
        self._notices.quarantined(quarantined)
