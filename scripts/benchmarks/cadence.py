"""Rows against the grid, idle and in trouble, compared with the simplest loop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import orjson
import trio

from benchmarks.children import run_child
from benchmarks.database import disk_room, disk_server, make_tables, write_spool
from benchmarks.figures import Effort, Section, Table, percentile
from benchmarks.live import Taken, lateness, live_service, rows_taken
from tests.support.postgres import PostgresFactory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FAST_TICK_S = 0.2
"""100 options, ten messages each: 5,000 messages per second."""

BACKLOG = 1_000_000
WARM_UP_S = 2.0
"""The first rows coincide with the end of the process's start-up."""

SECONDS = {0.2: 10.0, 1.0: 15.0, 5.0: 40.0}
"""How long to measure, by interval."""


class State(NamedTuple):
    name: str
    tick_s: float = 1.0
    backlog: int = 0
    outage: bool = False
    plain: bool = True


STATES = (
    State("idle"),
    State("5,000 ticks/s", tick_s=FAST_TICK_S),
    State(f"replay of {BACKLOG:,} rows", backlog=BACKLOG, plain=False),
    State("database down", outage=True, plain=False),
)


def measure(effort: Effort) -> Section:
    section = Section(
        "Cadence",
        "The whole service in SOCKET mode with 100 options: `late_s`, how long after its slot each "
        "row was read. For comparison, a plain asyncio program on ib_async and psycopg that does "
        "the same work and then sleeps for the interval, against the grid that its first row "
        "starts: it drifts, and every lost interval is a row that will never exist. A replay of a "
        "million rows takes about ten seconds.",
    )
    trio.run(_measure, section, effort)
    return section


async def _measure(section: Section, effort: Effort) -> None:
    table = section.table(
        "state, interval", "rows", "p50, ms", "p99, ms", "max, ms", "slots skipped", "drift, ms/h"
    )
    longer = 5 if effort is Effort.FULL else 1
    async with disk_room() as room:
        for state in STATES:
            for interval, seconds in SECONDS.items():
                await _run(table, room, state, interval, seconds * longer)


async def _run(table: Table, room: Path, state: State, interval_s: float, seconds: float) -> None:
    home = room / f"{state.name.split()[0]}{interval_s:g}"
    home.mkdir()
    spool = home / ".portfolio_bridge_buffer.jsonl"
    factory = PostgresFactory()
    try:
        if state.outage:
            server = factory.new()
            await make_tables(server.conninfo)
            async with live_service(home, server.conninfo, BRIDGE_POLL_INTERVAL=interval_s) as live:
                with trio.fail_after(60):
                    while not live.rows():
                        await trio.sleep(0.1)
                server.stop()
                await trio.sleep(seconds)
                live.service.interrupt()
                await live.service.wait()
            _add(table, state, interval_s, _spooled_rows(spool))
            return
        async with disk_server(home) as conninfo:
            write_spool(spool, state.backlog)
            plain: list[float] = []

            async def run_plain(port: int) -> None:
                run = partial(run_child, "plain_loop", port, interval_s, seconds, conninfo)
                plain.extend(await trio.to_thread.run_sync(run))

            async with (
                live_service(
                    home, conninfo, tick_s=state.tick_s, BRIDGE_POLL_INTERVAL=interval_s
                ) as live,
                trio.open_nursery() as nursery,
            ):
                await live.service.wait_for_output("connected to")
                if state.plain:
                    nursery.start_soon(run_plain, live.sim.port)
                await trio.sleep(seconds)
            rows = rows_taken(conninfo) + _spooled_rows(spool)
        _add(table, state, interval_s, rows)
        if state.plain:
            _add_plain(table, state, interval_s, plain)
    finally:
        factory.close()


def _spooled_rows(spool: Path) -> list[Taken]:
    from datetime import datetime

    lines = [orjson.loads(line) for line in spool.read_bytes().splitlines()]
    rows = [one["row"] for one in lines if one["table"] == "portfolio_greeks"]
    return [
        Taken(datetime.fromisoformat(row["timestamp"]).timestamp(), row["late_s"])
        for row in rows
        if row["account"] != "U1"
    ]


def _add(table: Table, state: State, interval_s: float, rows: Sequence[Taken]) -> None:
    warm = [row for row in rows if row.slot > rows[0].slot + WARM_UP_S]
    late, skipped = lateness(warm, interval_s)
    table.add(
        f"{state.name}, {interval_s:g} s, **bridge**",
        len(late),
        *(percentile(late, percent) * 1e3 for percent in (50, 99, 100)),
        skipped,
        "0",
    )


def _add_plain(table: Table, state: State, interval_s: float, times: Sequence[float]) -> None:
    late = [at - times[0] - number * interval_s for number, at in enumerate(times)]
    took = times[-1] - times[0]
    table.add(
        f"{state.name}, {interval_s:g} s, asyncio loop",
        len(late),
        *(percentile(late, percent) * 1e3 for percent in (50, 99, 100)),
        int(late[-1] / interval_s),
        late[-1] / took * 3600 * 1e3,
    )
