"""Faults on a schedule: memory, descriptors, threads and tasks at start, halfway and end."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import trio

from benchmarks.database import disk_room, make_tables, query
from benchmarks.figures import Effort, Section
from benchmarks.live import Live, live_service
from tests.support.postgres import PostgresFactory, PostgresServer
from tests.support.process import free_port

if TYPE_CHECKING:
    from pathlib import Path

INTERVAL_S = 0.1
FAULT_EVERY_S = 6.0
FAULT_S = 2.0
UP_S = 10.0
WARM_UP = 1 / 12
"""As a fraction of the whole time."""


@dataclass(frozen=True)
class State:
    """What must not grow."""

    memory_mb: float
    descriptors: int
    threads: int
    tasks: int

    @classmethod
    async def of(cls, live: Live, metrics_url: str) -> State:
        async with httpx.AsyncClient() as client:
            text = (await client.get(metrics_url)).text
        (tasks,) = re.findall(r"^trio_bridge_tasks (\S+)$", text, re.MULTILINE)
        process = live.process
        return cls(live.rss_mb, process.num_fds(), process.num_threads(), int(float(tasks)))


def measure(effort: Effort, *, minutes: float = 5.0) -> Section:
    section = Section(
        "Soak",
        f"The whole service in SOCKET mode with 100 options and a row every {INTERVAL_S:g} s for "
        f"{minutes:g} minutes: as many rows as {minutes * 5 / INTERVAL_S / 60:.1f} hours at the "
        f"default 5 s. Every {FAULT_EVERY_S:g} s something breaks: connections dropped, the "
        "gateway's upstream lost, a data farm broken, a competing session, the database stopped. "
        f"*Start* is the state after {minutes * WARM_UP:.2g} minutes of this, when every cache has "
        "had time to fill; *end* is the state after a quiet half minute.",
    )
    trio.run(_measure, section, minutes)
    return section


async def _measure(section: Section, minutes: float) -> None:
    factory = PostgresFactory()
    try:
        async with disk_room() as room:
            await _soak(section, room, factory.new(), minutes)
    finally:
        factory.close()


async def _soak(section: Section, room: Path, server: PostgresServer, minutes: float) -> None:
    conninfo = server.conninfo
    await make_tables(conninfo)
    port = free_port()
    metrics_url = f"http://127.0.0.1:{port}/metrics"
    rng = random.Random(1)
    faults = 0
    async with live_service(
        room / "home",
        conninfo,
        lines=90,
        BRIDGE_POLL_INTERVAL=INTERVAL_S,
        BRIDGE_RECONNECT_BACKOFF="0.2",
        BRIDGE_FLUSH_INTERVAL=1,
        BRIDGE_STATUS_PORT=port,
    ) as live:
        await trio.sleep(UP_S)
        began = trio.current_time()
        start = half = await State.of(live, metrics_url)
        while (passed := (trio.current_time() - began) / (minutes * 60)) < 1:
            if passed < WARM_UP:
                start = await State.of(live, metrics_url)
            if passed < 1 / 2:
                half = await State.of(live, metrics_url)
            await _break_something(live, server, rng)
            faults += 1
            await trio.sleep(FAULT_EVERY_S - FAULT_S)
        await trio.sleep(30)
        end = await State.of(live, metrics_url)
        live.service.interrupt()
        code = await live.service.wait()
    ((rows, ids, ordered),) = query(
        conninfo,
        "SELECT count(*), count(DISTINCT event_id), bool_and(later) FROM (SELECT event_id, "
        "timestamp > lag(timestamp, 1, '-infinity') OVER (ORDER BY id) AS later "
        "FROM portfolio_greeks) AS steps",
    )
    table = section.table("", "start", "halfway", "end")
    states = (start, half, end)
    table.add("memory, MB", *(state.memory_mb for state in states))
    table.add("file descriptors", *(state.descriptors for state in states))
    table.add("threads", *(state.threads for state in states))
    table.add("tasks", *(state.tasks for state in states))
    section.notes.append(
        f"{faults} faults, {rows:,} rows, {rows - ids} of them twice, "
        f"{'all' if ordered else '**not**'} in order; exit code {code}."
    )


async def _break_something(live: Live, server: PostgresServer, rng: random.Random) -> None:
    sim = live.sim
    match rng.randrange(6):
        case 0:
            sim.drop_connections()
            await trio.sleep(FAULT_S)
        case 1:
            sim.drop_connections(reset=True)
            await trio.sleep(FAULT_S)
        case 2:
            sim.lose_upstream()
            await trio.sleep(FAULT_S)
            sim.restore_upstream(data_kept=rng.random() < 0.5)
        case 3:
            sim.break_farm(sim.subscribed())
            await trio.sleep(FAULT_S)
            sim.mend_farm()
        case 4:
            sim.start_competing_session()
            await trio.sleep(FAULT_S)
            sim.end_competing_session(data_return=True)
        case _:
            server.stop("immediate")
            await trio.sleep(FAULT_S)
            await trio.to_thread.run_sync(server.start)
