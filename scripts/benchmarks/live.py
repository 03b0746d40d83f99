"""The whole service as a process, on a simulated gateway, with its rows to inspect."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from benchmarks.database import query
from tests.support.process import running_service
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import open_tws_simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.support.process import ServiceProcess
    from trio_bridge.simulator.tws.server import TwsSimulator

ROOM_FOR_TESTS = 10_000
"""Enough market-data lines that the simulator refuses none."""


@dataclass
class Live:
    sim: TwsSimulator
    service: ServiceProcess
    process: psutil.Process
    conninfo: str

    @property
    def rss_mb(self) -> float:
        return float(self.process.memory_info().rss) / 1e6

    @property
    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rows(self) -> int:
        return count_rows(self.conninfo)


@asynccontextmanager
async def live_service(
    home: Path,
    conninfo: str,
    *,
    options: int = 100,
    lines: int = ROOM_FOR_TESTS,
    tick_s: float = 1.0,
    **settings: Any,
) -> AsyncIterator[Live]:
    """A service in SOCKET mode; its rows go to `conninfo`."""
    home.mkdir(exist_ok=True)
    settings = {"IB_MARKET_DATA_LINES": lines, "DATABASE_URL": conninfo, **settings}
    async with open_tws_simulator(
        make_book(options=options),
        market_data_lines=ROOM_FOR_TESTS,
        tick_interval_s=tick_s,
        transcript_size=1_000,
    ) as sim:
        try:
            async with running_service(home, IB_SOCKET_PORT=sim.port, **settings) as service:
                yield Live(sim, service, psutil.Process(service.pid), conninfo)
        finally:
            # The simulator shares a thread with this program: messages that it reads late look like
            # a burst. Pacing is checked by the tests.
            sim.acknowledge_violations()


def count_rows(conninfo: str) -> int:
    (row,) = query(conninfo, "SELECT count(*) FROM portfolio_greeks")
    return int(row[0])


class Taken(NamedTuple):
    """A row: its slot, in seconds since the epoch, and how many seconds later it was read."""

    slot: float
    late_s: float


def rows_taken(conninfo: str) -> list[Taken]:
    """The ticker's own rows, not those that a benchmark put into the spool."""
    rows = query(
        conninfo, "SELECT timestamp, late_s FROM portfolio_greeks WHERE account <> 'U1' ORDER BY id"
    )
    return [Taken(at.timestamp(), late_s) for at, late_s in rows]


def lateness(rows: Sequence[Taken], interval_s: float) -> tuple[list[float], int]:
    """How late each row was, in seconds, and how many slots have no row."""
    pairs = pairwise(row.slot for row in rows)
    skipped = sum(round((later - earlier) / interval_s) - 1 for earlier, later in pairs)
    return [row.late_s for row in rows], skipped
