"""A client of the recorded stream, as a process. Prints its CPU seconds while the stream plays and,
with `profile`, where they went.

    python -m benchmarks.listen_within_trio plain|digesting|bridge PORT OPTIONS [profile]

`plain` is the program of `listen_plainly` within Trio, `bridge` is our session, and `digesting` is
our session with every message passed to ib_async.
"""

from __future__ import annotations

import json
import sys

import trio

import trio_bridge.asyncio_compat  # noqa: F401  # it must come before ib_async
from benchmarks.listen_plainly import Stopwatch, listen_plainly
from benchmarks.stream import QUIET_S
from trio_bridge.asyncio_compat import trio_asyncio
from trio_bridge.config import Settings
from trio_bridge.gateways.socket.bridge import SocketBridge
from trio_bridge.gateways.socket.details import Details
from trio_bridge.gateways.socket.market_data.lines import MarketLines
from trio_bridge.gateways.socket.ticks import TickFilter
from trio_bridge.simulator.book import make_book

SUBSCRIPTIONS_PER_S = 100_000
"""Before the stream, all subscriptions may be sent at once."""


async def listen_within_trio(port: int, watch: Stopwatch) -> None:
    async with trio_asyncio.open_loop():
        await trio_asyncio.aio_as_trio(listen_plainly)(port, watch)


async def listen_through_bridge(port: int, options: int, watch: Stopwatch) -> None:
    settings = Settings(_env_file=None, ib_socket_port=port)  # type: ignore[call-arg]
    bridge = SocketBridge(settings)
    bridge._lines = MarketLines(10_000, messages_per_s=SUBSCRIPTIONS_PER_S)
    # Requested once per contract, so not part of the measurement.
    bridge._details = {
        one.con_id: Details("SMART", 100.0, "", magnifier=1.0)
        for one in make_book(options=options).market.options()
    }
    async with bridge:
        await bridge.connect()
        session = bridge._connection
        assert session is not None
        session.client.ib.client.MaxRequests = 0
        while bridge.usage().lines_used != options or bridge.readiness.why(trio.current_time()):
            await trio.sleep(0.02)
        await trio.sleep(QUIET_S / 2)
        watch.start()
        await bridge.wait_lost()
        watch.stop(len(bridge.inputs().greeks))


def _take_all(self: TickFilter, data: bytes) -> bytes:
    return data


def main(kind: str, port: int, options: int, *, profile: bool) -> None:
    watch = Stopwatch(profile=profile)
    if kind == "plain":
        trio.run(listen_within_trio, port, watch)
    else:
        if kind == "digesting":
            TickFilter.feed = _take_all  # type: ignore[method-assign]
        trio.run(listen_through_bridge, port, options, watch)
    print(json.dumps(watch.result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), profile="profile" in sys.argv)
