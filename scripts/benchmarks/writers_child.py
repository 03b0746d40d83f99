"""Many bridges' writers on one table, in one process: how many rows per second they commit.

python -m benchmarks.writers_child WRITERS CONNINFO
"""

from __future__ import annotations

import json
import sys
import time
from uuid import uuid4

import trio

from benchmarks.figures import percentile
from tests.support.rows import snapshot
from trio_bridge.model import Snapshot, utc_now
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.record import record_of

SECONDS = 4.0


async def write(conninfo: str, end: float, times: list[float]) -> None:
    store = PostgresStore(conninfo)
    like = snapshot(1)
    while time.perf_counter() < end:
        row = Snapshot(
            utc_now(), like.account, 1.0, 1.0, 1.0, 1.0, 1.0, 3, 3, 0.0, like.data_type,
            event_id=uuid4(),
        )  # fmt: skip
        began = time.perf_counter()
        await store.write([record_of(row)])
        times.append(time.perf_counter() - began)
    await store.aclose()


async def main(writers: int, conninfo: str) -> dict[str, float]:
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    async with trio.open_nursery() as nursery:
        for _ in range(writers):
            nursery.start_soon(write, conninfo, end, times)
    return {
        "rows_per_s": len(times) / SECONDS,
        "p50_s": percentile(times, 50),
        "p99_s": percentile(times, 99),
    }


if __name__ == "__main__":
    print(json.dumps(trio.run(main, int(sys.argv[1]), sys.argv[2])))
