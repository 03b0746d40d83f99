"""Writer and flusher as the service runs them, over a fake database and a fake disk."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import trio

from tests.support.rows import START, event, snapshot
from trio_bridge.delivery.breaker import BreakerState, DBCircuitBreaker
from trio_bridge.delivery.delivery import Delivery
from trio_bridge.delivery.flusher import run_flusher
from trio_bridge.delivery.outlet import Outlet
from trio_bridge.delivery.writer import run_writer
from trio_bridge.events.rows import CircuitChanged, CircuitClosed, CircuitOpened
from trio_bridge.model import ApiMode
from trio_bridge.rows import API_LOGS, PORTFOLIO_GREEKS
from trio_bridge.stores.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from trio_bridge.model import Item, Snapshot
    from trio_bridge.stores.fake import FakeStore
    from trio_bridge.stores.spool.fake_disk import FakeDisk

BUFFER = Path("/state/buffer.jsonl")
QUARANTINE = Path("/state/buffer.jsonl.quarantine.jsonl")
DB_TIMEOUT_S = 2.0
FLUSH_INTERVAL_S = 60.0
KEEP = timedelta(days=1)


_readings = count()


def now() -> datetime:
    """The wall clock moves with Trio's virtual one, and a microsecond with each reading: no two
    rows have the same time, so each change of their order is seen."""
    return START + timedelta(seconds=trio.current_time(), microseconds=next(_readings))


class Sinks:
    """One process's life: what the sources see of it is `send`."""

    def __init__(self, store: FakeStore, disk: FakeDisk, spool: Spool) -> None:
        self.store = store
        self.disk = disk
        self.spool = spool
        self.breaker = DBCircuitBreaker()
        self.outlet = Outlet(ApiMode.SOCKET, now)
        self.delivery = Delivery(store, spool, self.breaker, self.outlet, db_timeout_s=DB_TIMEOUT_S)

    def state(self) -> BreakerState:
        return self.breaker.state

    def waiting(self) -> int:
        """Rows that are not safe, wherever they are."""
        return self.delivery.waiting + self.outlet._receive.statistics().current_buffer_used

    def put(self, item: Item) -> None:
        self.outlet.put(item)
        assert not self.outlet.dropped

    def send(self, number: int) -> Snapshot:
        row = snapshot(number, now())
        self.put(row)
        return row

    def send_event(self, text: str) -> None:
        self.put(event(text, now()))

    def end(self) -> None:
        """The sources have ended."""
        self.outlet.close()

    async def run(self, *, flusher: bool = True) -> None:
        """Until all is safe after `end`."""
        try:
            async with trio.open_nursery() as nursery:
                if flusher:
                    nursery.start_soon(run_flusher, self.delivery, FLUSH_INTERVAL_S)
                await run_writer(self.delivery)
                nursery.cancel_scope.cancel()
        finally:
            self.spool.close()


@asynccontextmanager
async def running(
    store: FakeStore, disk: FakeDisk, *, flusher: bool = True
) -> AsyncIterator[Sinks]:
    """Sinks that run within the block and say goodbye at its end."""
    sinks = Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now, keep=KEEP))
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await sinks.run(flusher=flusher)

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        yield sinks
        sinks.end()


def numbers(store: FakeStore) -> list[int]:
    """The snapshots in the database, in the order of their insertion."""
    return [int(row["delta"]) for row in store.tables[PORTFOLIO_GREEKS.name]]


def kinds(store: FakeStore) -> list[str]:
    return [row["kind"] for row in store.tables[API_LOGS.name]]


def circuit(store: FakeStore) -> list[tuple[str, str]]:
    """The changes of the circuit: kind, and the states before and after."""
    return [
        (row["kind"], row["message"].split(": ")[0].removeprefix("database circuit "))
        for row in store.tables[API_LOGS.name]
        if row["kind"] in (CircuitOpened.kind, CircuitChanged.kind, CircuitClosed.kind)
    ]


def messages(store: FakeStore) -> list[str]:
    return [row["message"] for row in store.tables[API_LOGS.name]]


def spooled(disk: FakeDisk) -> list[dict[str, Any]]:
    """The rows that are durable in the spool file, acknowledged or not."""
    return [orjson.loads(line)["row"] for line in disk.durable(BUFFER).splitlines() if line]


def quarantined(disk: FakeDisk) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in disk.durable(QUARANTINE).splitlines()]


def check_tables(store: FakeStore) -> None:
    """Nothing twice, and in order of time, in both tables."""
    for name, rows in store.tables.items():
        twice = [key for key, n in Counter(row["event_id"] for row in rows).items() if n > 1]
        assert not twice, f"{name}: rows came twice"
        times = [row["timestamp"] for row in rows]
        assert times == sorted(times), f"{name}: rows overtook one another"
