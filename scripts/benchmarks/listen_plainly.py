"""A client of the recorded stream, as a process. Prints its CPU seconds while the stream plays and,
with `profile`, where they went.

    python -m benchmarks.listen_plainly asyncio|uvloop PORT [profile]

It does what a program written for ib_async and asyncio does. trio_asyncio must not be imported
here: it takes over asyncio's loops.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import pstats
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ib_async import IB

from benchmarks.stream import QUIET_S

PACKAGES = ("eventkit", "trio_asyncio", "trio", "asyncio", "trio_bridge")


class Stopwatch:
    """CPU time of this process from the middle of the pause before the stream to its end."""

    def __init__(self, *, profile: bool = False) -> None:
        self._cpu = 0.0
        self._profile = cProfile.Profile(time.process_time) if profile else None
        self.result: dict[str, Any] = {}

    def start(self) -> None:
        self._cpu = time.process_time()
        if self._profile is not None:
            self._profile.enable()

    def stop(self, priced: int) -> None:
        self.result = {"cpu_s": time.process_time() - self._cpu, "priced": priced}
        if self._profile is not None:
            self._profile.disable()
            self.result["parts"] = seconds_by_part(self._profile)


def seconds_by_part(profile: cProfile.Profile) -> dict[str, float]:
    """The time that each package, and each module of ib_async, used itself. C functions count
    towards their caller."""
    seconds: Counter[str] = Counter()
    stats: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    for (file, _, _), (_, _, own, _, callers) in stats.items():
        if file == "~" and callers:
            for (caller, _, _), (_, _, share, _) in callers.items():
                seconds[_part(caller)] += share
        else:
            seconds[_part(file)] += own
    return dict(seconds)


def _part(file: str) -> str:
    path = Path(file)
    if "ib_async" in path.parts:
        return f"ib_async, {path.stem}"
    return next((name for name in PACKAGES if name in path.parts), "the rest of Python")


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


def main(kind: str, port: int, *, profile: bool) -> None:
    watch = Stopwatch(profile=profile)
    if kind == "uvloop":
        import uvloop

        uvloop.run(listen_plainly(port, watch))
    else:
        asyncio.run(listen_plainly(port, watch))
    print(json.dumps(watch.result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), profile="profile" in sys.argv)
