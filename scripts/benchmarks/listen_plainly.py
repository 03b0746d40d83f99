"""A client of the recorded stream, as a process: prints its CPU seconds while the stream played.

    python -m benchmarks.listen_plainly asyncio|uvloop PORT

What a program written for ib_async and asyncio does. trio_asyncio must not be imported here: it
takes over asyncio's loops.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from ib_async import IB

from benchmarks.stream import QUIET_S


class Stopwatch:
    """CPU time of this process from the middle of the silence before the stream to its end."""

    def __init__(self) -> None:
        self._cpu = self._wall = 0.0
        self.result: dict[str, float] = {}

    def start(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def stop(self, priced: int) -> None:
        self.result = {
            "cpu_s": time.process_time() - self._cpu,
            "wall_s": time.perf_counter() - self._wall,
            "priced": priced,
        }


async def listen_plainly(port: int, watch: Stopwatch) -> None:
    """What a program written for ib_async and asyncio does."""
    ib = IB()
    ib.client.MaxRequests = 0
    await ib.client.connectAsync("127.0.0.1", port, 10, 10)
    positions = await ib.reqPositionsAsync()
    contracts = {one.contract.conId: one.contract for one in positions}
    options = [one for one in contracts.values() if one.secType in ("OPT", "FOP")]
    tickers = [ib.reqMktData(contract) for contract in options]
    ended = asyncio.Event()
    ib.client.conn.disconnected.connect(lambda _: ended.set())
    while not all(ticker.modelGreeks for ticker in tickers):
        await asyncio.sleep(0.02)
    await asyncio.sleep(QUIET_S / 2)
    watch.start()
    await ended.wait()
    watch.stop(sum(ticker.modelGreeks is not None for ticker in tickers))


def main(kind: str, port: int) -> None:
    watch = Stopwatch()
    if kind == "uvloop":
        import uvloop

        uvloop.run(listen_plainly(port, watch))
    else:
        asyncio.run(listen_plainly(port, watch))
    print(json.dumps(watch.result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
