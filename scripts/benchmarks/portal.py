"""PORTAL mode: requests, ages, memory and lateness as options grow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import trio

from benchmarks.database import disk_room, disk_server, query
from benchmarks.figures import Effort, Section, percentile
from benchmarks.live import lateness, rows_taken
from tests.support.process import running_service
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.portal.server import open_portal_simulator

if TYPE_CHECKING:
    from pathlib import Path

SETTLE_S = 25.0
MEASURE_S = 30.0
INTERVAL_S = 1.0


def measure(effort: Effort) -> Section:
    section = Section(
        "PORTAL mode",
        "The whole service with a row every second, on the simulated Client Portal Gateway over "
        "TLS, which allows ten requests per second and a hundred contracts per request. Requests "
        f"are counted over {MEASURE_S:g} s, after {SETTLE_S:g} s of start-up.",
    )
    trio.run(_measure, section)
    return section


async def _measure(section: Section) -> None:
    table = section.table(
        "options",
        "requests/s",
        "priced at the end",
        "age p50, s",
        "age max, s",
        "CPU, % of one core",
        "memory, MB",
        "lateness p50, ms",
        "p99, ms",
    )
    async with disk_room() as room:
        for options in (100, 500, 1_000):
            table.add(f"{options:,}", *await _run(room, options))


async def _run(room: Path, options: int) -> tuple[str | int | float, ...]:
    home = room / f"portal{options}"
    home.mkdir()
    async with disk_server(home) as conninfo:
        async with (
            open_portal_simulator(make_book(options=options)) as sim,
            running_service(
                home,
                IB_API_MODE="PORTAL",
                IBKR_GATEWAY_URL=sim.url,
                DATABASE_URL=conninfo,
                BRIDGE_POLL_INTERVAL=INTERVAL_S,
            ) as service,
        ):
            process = psutil.Process(service.pid)
            await trio.sleep(SETTLE_S)
            times, requests = process.cpu_times(), len(sim.rules.requests)
            await trio.sleep(MEASURE_S)
            after = process.cpu_times()
            requests = len(sim.rules.requests) - requests
            memory = process.memory_info().rss / 1e6
        rows = query(
            conninfo, "SELECT greeks_age_s, priced, positions FROM portfolio_greeks ORDER BY id"
        )[-int(MEASURE_S) :]
        late, _ = lateness(rows_taken(conninfo)[-int(MEASURE_S) :], INTERVAL_S)
    ages = [age for age, _, _ in rows if age is not None]
    cpu = after.user + after.system - times.user - times.system
    return (
        requests / MEASURE_S,
        f"{rows[-1][1]} of {rows[-1][2]}" if rows else "no row",
        *(percentile(ages, percent) for percent in (50, 100)),
        cpu / MEASURE_S * 100,
        memory,
        *(percentile(late, percent) * 1e3 for percent in (50, 99)),
    )
