"""A simulated IB Gateway in its own process: `python -m trio_bridge.simulator.tws`."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from typing import TYPE_CHECKING

import trio

from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import LOOPBACK, TwsSimulator

if TYPE_CHECKING:
    from collections.abc import Sequence

ABOUT = "A simulated IB Gateway that serves a made-up portfolio on the TWS API's protocol."


async def _run(sim: TwsSimulator) -> None:
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await nursery.start(sim.serve)
            # In one write with its newline, so that a process waiting for the line gets all of it.
            print(f"listening on {sim.host}:{sim.port}\n", end="", flush=True)
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; return 1 if there were violations."""
    parser = argparse.ArgumentParser(prog="python -m trio_bridge.simulator.tws", description=ABOUT)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=4001, help="0 picks a free one (4001)")
    parser.add_argument("--options", type=int, default=26, help="option positions (26)")
    parser.add_argument("--accounts", type=int, default=1, help="accounts (1)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the book's prices (1)")
    parser.add_argument("--freeze-at", type=float, help="hold the book at this second")
    parser.add_argument("--tick-interval", type=float, default=1.0, help="seconds (1)")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    book = make_book(options=chosen.options, accounts=chosen.accounts, seed=chosen.seed)
    if chosen.freeze_at is not None:
        book.freeze(at=chosen.freeze_at)
    sim = TwsSimulator(
        book, host=chosen.host, port=chosen.port, tick_interval_s=chosen.tick_interval
    )
    trio.run(_run, sim)
    return 1 if sim.violations else 0


if __name__ == "__main__":
    sys.exit(main())
