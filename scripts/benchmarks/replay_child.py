"""Replays a spool into a database as the service's flusher does, in its own process.

    python -m benchmarks.replay_child SPOOL CONNINFO

Prints the seconds, the CPU seconds and the growth of its memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil
import trio

from trio_bridge.delivery.breaker import DBCircuitBreaker
from trio_bridge.delivery.delivery import Delivery
from trio_bridge.delivery.outlet import Outlet
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.spool.spool import Spool

SAMPLE_S = 0.02


class Memory:
    """The peak resident memory."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.before = self.most = self._process.memory_info().rss

    async def watch(self) -> None:
        while True:
            self.most = max(self.most, self._process.memory_info().rss)
            await trio.sleep(SAMPLE_S)


async def replay(path: Path, conninfo: str) -> dict[str, float]:
    spool = await Spool.open(path)
    store = PostgresStore(conninfo)
    await store.ensure_schema()
    delivery = Delivery(store, spool, DBCircuitBreaker(), Outlet(), db_timeout_s=2.0)
    memory = Memory()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.watch)
        began, cpu = time.perf_counter(), time.process_time()
        await delivery.flush()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        nursery.cancel_scope.cancel()
    left = spool.backlog_bytes
    await store.aclose()
    spool.close()
    return {"s": took, "cpu_s": cpu, "grew_mb": (memory.most - memory.before) / 1e6, "left": left}


if __name__ == "__main__":
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(file=sys.stderr))
    print(json.dumps(trio.run(replay, Path(sys.argv[1]), sys.argv[2])))
