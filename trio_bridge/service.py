"""The composition root: the parts of the service, and the order in which they start and end.

The sources (supervisor, ticker, the looks at what others record) run in a nursery around everything
else, the sinks (writer, flusher) within it. The first Ctrl-C or SIGTERM cancels the sources; the
outlet is closed, the writer drains it, and when the last row is in the database or fsynced in the
spool the process ends. All of that has a deadline. A source that misses it, because something it
calls swallows the cancellation, holds up nothing: the process ends without it when the rows are
safe and everything else is closed. After a second Ctrl-C the service no longer waits for the
database.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import outcome
import trio

from trio_bridge.delivery.breaker import DBCircuitBreaker
from trio_bridge.delivery.delivery import Delivery
from trio_bridge.delivery.flusher import run_flusher
from trio_bridge.delivery.outlet import Outlet
from trio_bridge.delivery.writer import run_writer
from trio_bridge.events.service import ConnectionStuck, ServiceStarted
from trio_bridge.gateways.factory import build_bridge
from trio_bridge.identity import recorder
from trio_bridge.logs import Log, log_event
from trio_bridge.model import ApiEvent, Item, utc_now
from trio_bridge.policy.recorders import Recorders
from trio_bridge.stores.database.conninfo import conninfo_from_settings, safe_target
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.database.reader import Reader
from trio_bridge.stores.embedded.server import open_embedded
from trio_bridge.stores.reading.summary import recent_rows
from trio_bridge.stores.record import Record
from trio_bridge.stores.spool.spool import Spool
from trio_bridge.tasks.doubles import watch_for_doubles
from trio_bridge.tasks.guests import keep_going
from trio_bridge.tasks.recorders import RecorderWatch
from trio_bridge.tasks.supervisor import Supervisor
from trio_bridge.tasks.ticker import Ticker
from trio_bridge.threads import tell_of_missing_threads
from trio_bridge.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from trio_bridge.config import Settings
    from trio_bridge.events.event import Event
    from trio_bridge.gateways.base import IBridgeBase

SOURCES_END_S = 1.5
"""How long the sources may take to end; a gateway that does not answer takes 1 s of it."""

DRAIN_S = 1.2
"""How long the last rows may take to reach the database; then they go to the spool."""

EXIT_STUCK = 1
"""The process's exit code where a source cannot be ended: as for any service that failed."""

EVENTS_KEPT = 50
"""How many of the latest events are kept in memory for the status."""

Watcher = Callable[[Item], None]
"""Gets every row and event on its way to the database. Never waits, never raises."""

SafeWatcher = Callable[[Record, float], None]
"""Gets every row and event that has become safe, and the seconds it took. As above."""

log = Log()


class Stopper:
    """Ctrl-C, SIGTERM, or a closed terminal. Each cancels the scope that the service has armed:
    first the start-up or the sources, then the wait for the database. An early one is
    remembered."""

    def __init__(self) -> None:
        self.signals = 0
        self.stopping = trio.Event()
        """Set by the first signal."""
        self.asked_s: float | None = None
        """When that came (Trio's clock)."""
        self._armed: trio.CancelScope | None = None
        self._patience = 0

    def arm(self, scope: trio.CancelScope, *, patience: int = 0) -> None:
        """Let the next signal, or those beyond `patience` that came already, cancel this."""
        self._armed = scope
        self._patience = patience
        self._act()

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            numbers.append(signal.SIGHUP)
        with trio.open_signal_receiver(*numbers) as received:
            task_status.started()
            async for number in received:
                log.info("ending", signal=signal.Signals(number).name)
                self.stop()

    def stop(self) -> None:
        """What a signal does."""
        self.signals += 1
        self.asked_s = self.asked_s or trio.current_time()
        self.stopping.set()
        self._act()

    def _act(self) -> None:
        if self._armed is not None and self.signals > self._patience:
            self._armed.cancel()


class Service:
    """One bridge, one database, and the tasks between them. Other tasks may read its parts."""

    def __init__(
        self,
        settings: Settings,
        store: PostgresStore,
        spool: Spool,
        conninfo: str,
        *,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.settings = settings
        self.conninfo = conninfo
        self.now = now
        self.pid = os.getpid()
        self.started_at = now()
        self.events: deque[ApiEvent] = deque(maxlen=EVENTS_KEPT)
        self.watchers: list[Watcher] = []
        self.safe_watchers: list[SafeWatcher] = []
        self.spool = spool
        self.outlet = Outlet(settings.ib_api_mode, now)
        self._sources = trio.CancelScope()
        self._ending, self._ended = trio.Event(), trio.Event()
        self._failure: Exception | None = None
        self._result: outcome.Maybe[None] | None = None
        self.delivery = Delivery(
            store,
            spool,
            DBCircuitBreaker(),
            self.outlet,
            db_timeout_s=settings.db_timeout_s,
            watch=self._tell,
            safe=self._tell_safe,
        )
        self.bridge: IBridgeBase = build_bridge(settings, emit=self.outlet.emit, now=now)
        self.supervisor = Supervisor(
            self.bridge,
            delays_s=settings.reconnect_backoff_s,
            windows=settings.reset_windows,
            heartbeat_s=settings.heartbeat_s,
            emit=self.outlet.emit,
            now=now,
        )
        self.recorders = Recorders(recorder(), settings.poll_interval_s, stands_by=settings.standby)
        self._recorder_watch = RecorderWatch(
            self.recorders,
            self.bridge,
            interval_s=settings.poll_interval_s,
            emit=self.outlet.emit,
            now=now,
        )
        self.ticker = Ticker(
            self.bridge,
            self.outlet.put,
            interval_s=settings.poll_interval_s,
            emit=self.outlet.emit,
            put_accounts=self.outlet.put,
            recorders=self.recorders,
        )

    def _tell(self, item: Item) -> None:
        if isinstance(item, ApiEvent):
            self.events.append(item)
        for watcher in self.watchers:
            watcher(item)

    def _tell_safe(self, record: Record, waited_s: float) -> None:
        for watcher in self.safe_watchers:
            watcher(record, waited_s)

    async def run(self, stopper: Stopper, house: trio.Nursery) -> None:
        """Run until a signal comes or a task fails; rows at hand are made safe in every case.

        The sources live in `house`; should they not end in time, they are still there afterwards.
        """
        drained = trio.Event()
        async with trio.open_nursery() as sinks:
            sinks.start_soon(run_flusher, self.delivery, self.settings.flush_interval_s)
            sinks.start_soon(self._write, drained)
            # Whatever ends the sources, a bug too: the sinks keep going until all is safe.
            house.start_soon(self._live, stopper)
            try:
                await self._wait_for_sources()
            finally:
                self._sources.cancel()
                self.outlet.close()
            with trio.move_on_after(DRAIN_S) as goodbye:
                stopper.arm(goodbye, patience=1)
                await drained.wait()
            # Cancelled, the writer still saves what it holds.
            sinks.cancel_scope.cancel()
        if self._result is not None:
            self._result.unwrap()

    def leave_if_stuck(self) -> None:
        """Call this when everything else is closed: it ends the process if a source has not ended.

        Trio waits for its tasks without a bound, so there is no other way out.
        """
        if self._result is None:
            log.error("ending without the connection that did not end", exc_info=self._failure)
            os._exit(EXIT_STUCK)

    async def _live(self, stopper: Stopper) -> None:
        """The sources, to their end; what they raise is for `run`."""
        self._result = await outcome.acapture(self._run_sources, stopper)
        self._ending.set()
        self._ended.set()

    async def _wait_for_sources(self) -> None:
        """Until all have ended; from the end of the first for no longer than SOURCES_END_S."""
        await self._ending.wait()
        with trio.move_on_after(SOURCES_END_S):
            await self._ended.wait()
        if self._result is None:
            self.outlet.emit(ConnectionStuck(SOURCES_END_S))

    async def _source(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run one of the sources; when one ends, all do."""
        try:
            await run()
        except Exception as error:
            self._failure = error
            raise
        finally:
            self._ending.set()

    async def _run_sources(self, stopper: Stopper) -> None:
        settings = self.settings
        self.outlet.emit(
            ServiceStarted(__version__, settings.ib_api_mode, settings.poll_interval_s)
        )
        reader = Reader(self.conninfo)
        read = partial(recent_rows, reader)
        watch_for_doubled_slots = partial(
            watch_for_doubles,
            read,
            self.ticker.status,
            interval_s=settings.poll_interval_s,
            emit=self.outlet.emit,
            now=self.now,
        )
        with closing(reader), self._sources:
            stopper.arm(self._sources)
            async with self.bridge, trio.open_nursery() as sources:
                sources.start_soon(self._source, self.supervisor.run)
                sources.start_soon(self._source, self.ticker.run)
                sources.start_soon(
                    keep_going,
                    "the check for doubled slots",
                    watch_for_doubled_slots,
                    self.outlet.emit,
                )
                sources.start_soon(
                    keep_going,
                    "the look at who records",
                    partial(self._recorder_watch.run, read),
                    self.outlet.emit,
                )

    async def _write(self, drained: trio.Event) -> None:
        await run_writer(self.delivery)
        drained.set()


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Open the spool and the database, and close both at the end.

    Raises:
        ConfigError: a setting or a file can't be used.
    """
    service: Service | None = None

    def emit(event: Event) -> None:
        """An event of the embedded server; before there is a service it is only logged."""
        if service is None:
            log_event(event)
        else:
            service.outlet.emit(event)

    async with AsyncExitStack() as stack:
        conninfo = conninfo_from_settings(settings)
        spool = await Spool.open(settings.buffer_path, keep=timedelta(seconds=settings.resend_s))
        stack.callback(spool.close)
        if conninfo is None:
            conninfo = await stack.enter_async_context(
                open_embedded(settings.embedded_dir, emit=emit)
            )
        store = PostgresStore(conninfo)
        stack.push_async_callback(store.aclose)
        log.info("recording", database=safe_target(conninfo), spool=str(settings.buffer_path))
        service = Service(settings, store, spool, conninfo)
        yield service


Companion = Callable[[Service, Stopper], Awaitable[None]]
"""Something that runs beside a service and watches it; cancelled when the service has ended."""


async def run_service(settings: Settings, companion: Companion | None = None) -> int:
    """The whole service; returns how many signals it took to end it.

    Raises:
        ConfigError: a setting or a file can't be used, or the account is unknown to the gateway.
    """
    stopper = Stopper()
    tell_of_missing_threads()
    async with trio.open_nursery() as nursery:
        await nursery.start(stopper.watch)
        with trio.CancelScope() as everything:
            stopper.arm(everything)
            async with open_service(settings) as service, trio.open_nursery() as beside:
                if companion is not None:
                    beside.start_soon(companion, service, stopper)
                await service.run(stopper, nursery)
                beside.cancel_scope.cancel()
            service.leave_if_stuck()
        nursery.cancel_scope.cancel()
    return stopper.signals
