"""How rows become safe: the one place that decides between the database and the spool.

All rows of both tables wait in one line, the *queue*, until they are safe: committed, fsynced in
the spool, or fsynced in the quarantine. Three rules keep the order:

1. Rows leave the queue at its head only, and only under `_head`, so by one task at a time.
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
from itertools import count, islice
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import structlog
import trio

from trio_bridge.errors import SpoolError
from trio_bridge.model import ApiEvent, ApiMode, Snapshot, Status, utc_now
from trio_bridge.policy.batch_size import LARGEST_BATCH
from trio_bridge.stores.breaker import BreakerState
from trio_bridge.stores.commit import Committer, Outcome
from trio_bridge.stores.record import record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable
    from datetime import datetime

    from trio_bridge.stores.base import Store
    from trio_bridge.stores.breaker import DBCircuitBreaker, Transition
    from trio_bridge.stores.record import Record
    from trio_bridge.stores.spool import Chunk, Spool

QUEUE_LIMIT = 10_000
"""Rows held in memory while neither the database nor the disk takes any: 14 hours of ticks."""

REPLAY_TIMEOUT_S = 10.0
"""For one replayed batch while no new row waits for it (they go to the spool meanwhile)."""

DURABLE_EVERY = 10
"""In a long replay so many chunks share one durable acknowledgement: the database has to wait for
the same disk, and what a crash lets come twice is there once."""

DISK_RETRY_S = 1.0
"""Pause between two tries to spool while the disk refuses."""

WORTH_TRYING = 0.25
"""The part of the database's time that must be left of a row's, else it goes to the spool."""

NOTICE_INTERVAL_S = 60.0
"""Quarantined rows are reported as one event per interval. This also bounds what happens when the
database rejects the report itself."""

RESCUE_TIMEOUT_S = 2.0
"""For bringing the queue to disk when the writer is cancelled."""

log = structlog.get_logger()
_LEVELS = {Status.INFO: "info", Status.WARNING: "warning", Status.ERROR: "error"}


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


@dataclass
class _Gap:
    """Rows dropped since the last report of it."""

    rows: int
    first: datetime
    last: datetime


@dataclass
class _DiskTurn:
    """The disk's work while the database takes a chunk, and what came of it."""

    durably: bool
    ahead: Chunk | None = None
    trouble: SpoolError | None = None


class Delivery:
    """Takes rows from anyone (`accept`) and makes them safe (`deliver`, `flush`).

    `deliver` is the writer's, `flush` the flusher's. When the spool holds rows of an earlier run,
    the database is left to the flusher until they are in, before any row of this run.
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
        self._api_mode = api_mode
        self._now = now
        self._queue: deque[Waiting] = deque()
        self._head = trio.Lock()
        self._wake = trio.Event()
        self._committer = Committer(store)
        self._ended = False
        self._channel: trio.MemoryReceiveChannel[Snapshot | ApiEvent] | None = None
        self._own: deque[tuple[str, Status]] = deque()
        self._disk_fails = False
        self._gap: _Gap | None = None
        self._unreported = 0
        self._last_report_at: float | None = None
        self.status = DeliveryStatus()
        if spool.backlog_bytes:
            reason = f"{spool.backlog_bytes} bytes of an earlier run wait in the spool"
            self._announce(breaker.hold_back(reason))

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
        self._channel = receive

    def accept(self, item: Snapshot | ApiEvent) -> None:
        """Put a row at the end of the queue; at the limit it is dropped and counted."""
        if self._watch is not None:
            self._watch(item)
        if len(self._queue) >= QUEUE_LIMIT:
            self._drop(item)
            return
        self._queue.append(Waiting(record_of(item), trio.current_time(), item.timestamp))
        self._wake.set()

    def end(self) -> None:
        """No more rows will come: the writer ends when all is safe, no flush begins or goes on."""
        self._ended = True
        self._last_report_at = None
        self._report_quarantine(0)
        self.accept_own()
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
                outage = await self._replay_chunk(self._db_timeout_s, deadline)
            if outage is None:
                outage = await self._write_head(deadline)
        except SpoolError as error:
            self._disk_trouble(error)
            return False
        if outage is None:
            return True
        log.warning("database does not take rows", reason=outage)
        self._announce(self._breaker.record_failure(outage))
        return False

    async def _write_head(self, deadline: float) -> str | None:
        """Commit up to one batch of the queue; None, or why the database did not take it."""
        head = list(islice(self._queue, LARGEST_BATCH))
        outcome = await self._commit([row.record for row in head], self._db_timeout_s, deadline)
        for number, sqlstate, reason in outcome.rejected:
            await self._spool.quarantine(head[number].record, sqlstate=sqlstate, reason=reason)
        rejected = {number for number, *_ in outcome.rejected}
        self._leave_queue(head[: outcome.done], rejected)
        self._report_quarantine(len(outcome.rejected))
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
        self._report_quarantine(0)
        if self._ended:
            return
        if self._breaker.state is BreakerState.CLOSED:
            await self._flush_leftovers()
        else:
            await self._replay_backlog()

    async def _replay_backlog(self) -> None:
        self._announce(self._breaker.probe(f"{self._spool.backlog_bytes} bytes to replay"))
        try:
            outage = await self._replay_all()
        except SpoolError as error:
            log.error("spool can't be replayed", reason=str(error))
            outage = str(error)
        if outage is not None and not self._ended:
            log.warning("replay stopped", reason=outage)
            self._announce(self._breaker.record_failure(outage))

    async def _flush_leftovers(self) -> None:
        """One or two failures left rows in the spool, and no row came since to take them along."""
        async with self._head:
            if self._breaker.state is BreakerState.CLOSED and self._spool.holds_rows():
                await self._to_database(trio.current_time() + self._db_timeout_s)

    async def _replay_all(self) -> str | None:
        proven = False
        outage = None
        while outage is None and not self._ended:
            if self._spool.holds_rows():
                outage = await self._replay_spool()
            else:
                # Under the lock no row is on its way into the spool, and nothing is awaited
                # between the check and the change: no row can slip behind a closed circuit.
                async with self._head:
                    if self._spool.holds_rows():
                        continue
                    if proven or not self._queue:
                        self._announce(self._breaker.close("everything is replayed"))
                        return None
                    # The disk is full and the rows wait in memory: they are the probe.
                    outage = await self._write_head(trio.current_time() + self._db_timeout_s)
            proven = True
        return outage

    async def _replay_spool(self) -> str | None:
        """Replay what the spool holds; None, or why the database did not take it.

        While the database takes a chunk, the disk acknowledges the one before and reads the next.

        Raises:
            SpoolError: the spool can't be read or acknowledged.
        """
        chunk = await self._spool.read()
        before: tuple[Chunk, Outcome] | None = None
        for number in count(1):
            if not chunk or self._ended:
                break
            turn = _DiskTurn(durably=number % DURABLE_EVERY == 0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._take_turn, turn, before, chunk)
                outcome = await self._commit_chunk(chunk, REPLAY_TIMEOUT_S)
            before = (chunk, outcome)
            if turn.trouble is not None:
                raise turn.trouble
            if turn.ahead is None or outcome.outage is not None:
                break
            chunk = turn.ahead
        if before is None:
            return None
        await self._acknowledge(*before)
        return before[1].outage

    async def _take_turn(
        self, turn: _DiskTurn, before: tuple[Chunk, Outcome] | None, chunk: Chunk
    ) -> None:
        try:
            if before is not None:
                await self._acknowledge(*before, durably=turn.durably)
            turn.ahead = await self._spool.read(after=chunk)
        except SpoolError as error:
            turn.trouble = error

    # Both sides.

    async def _replay_chunk(self, batch_timeout_s: float, deadline: float = inf) -> str | None:
        """Replay the next lines of the spool; None, or why the database did not take them.

        Raises:
            SpoolError: the spool can't be read or acknowledged.
        """
        chunk = await self._spool.read()
        outcome = await self._commit_chunk(chunk, batch_timeout_s, deadline)
        await self._acknowledge(chunk, outcome)
        return outcome.outage

    async def _commit_chunk(
        self, chunk: Chunk, batch_timeout_s: float, deadline: float = inf
    ) -> Outcome:
        return await self._commit([line.record for line in chunk.lines], batch_timeout_s, deadline)

    async def _acknowledge(self, chunk: Chunk, outcome: Outcome, *, durably: bool = True) -> None:
        await self._spool.acknowledge(chunk, outcome.done, outcome.rejected, durably=durably)
        unfit = len(chunk.unfit) if outcome.outage is None else 0
        self._report_quarantine(unfit + len(outcome.rejected))

    async def _commit(
        self, records: list[Record], batch_timeout_s: float, deadline: float
    ) -> Outcome:
        outcome = await self._committer.commit(
            records, batch_timeout_s=batch_timeout_s, deadline=deadline
        )
        self.status.committed = self._committer.committed
        if outcome.done:
            self._breaker.record_success()
        return outcome

    # What delivery itself has to say.

    def _note(self, message: str, status: Status) -> None:
        getattr(log, _LEVELS[status])(message)
        self._own.append((message.replace("\0", "\\0"), status))
        if not self._row_on_its_way():
            self.accept_own()

    def _row_on_its_way(self) -> bool:
        """Whether the channel has given out a row that its one receiver has not accepted yet.

        An own event would come in front of that row although its time is later. The receiver calls
        `accept_own` when it has caught up.
        """
        if self._channel is None or self._ended:
            return False
        return self._channel.statistics().tasks_waiting_receive == 0

    def accept_own(self) -> None:
        """Put delivery's own events at the end of the queue; their time is now."""
        while self._own:
            message, status = self._own.popleft()
            self.accept(ApiEvent(self._now(), self._api_mode, message, status))

    def _announce(self, transition: Transition | None) -> None:
        if transition is None:
            return
        before, after, reason = transition
        status = Status.WARNING if after is BreakerState.OPEN else Status.INFO
        self._note(f"database circuit {before} → {after}: {reason}", status)

    def _disk_trouble(self, error: SpoolError) -> None:
        if not self._disk_fails:
            self._disk_fails = True
            text = f"spool can't be written, up to {QUEUE_LIMIT} rows wait in memory: {error}"
            self._note(text, Status.ERROR)

    def _drop(self, item: Snapshot | ApiEvent) -> None:
        self.status.dropped += 1
        if self._gap is None:
            log.error("row dropped: neither the database nor the disk takes any")
            self._gap = _Gap(1, item.timestamp, item.timestamp)
        else:
            self._gap.rows += 1
            self._gap.last = item.timestamp

    def _all_safe(self) -> None:
        if self._disk_fails:
            self._disk_fails = False
            self._note("all rows are safe again", Status.INFO)
        if self._gap is not None:
            gap, self._gap = self._gap, None
            self._note(
                f"{gap.rows} rows from {gap.first.isoformat()} to {gap.last.isoformat()} "
                "were dropped: neither the database nor the disk took them",
                Status.ERROR,
            )

    def _report_quarantine(self, rows: int) -> None:
        if rows:
            log.error("rows put into the quarantine", rows=rows)
        self.status.quarantined += rows
        self._unreported += rows
        now = trio.current_time()
        due = self._last_report_at is None or now - self._last_report_at >= NOTICE_INTERVAL_S
        if self._unreported and due:
            text = f"{self._unreported} rows could not be stored: see {self._spool.quarantine_path}"
            self._unreported, self._last_report_at = 0, now
            self._note(text, Status.ERROR)
