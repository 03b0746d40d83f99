"""Exactly-once replay compared with psql's copy of the same rows; memory and lateness during it."""

from __future__ import annotations

import subprocess
import time
from datetime import timedelta
from shutil import which
from typing import TYPE_CHECKING

import psutil
import trio

from benchmarks.children import run_child
from benchmarks.database import (
    COLUMNS,
    disk_room,
    disk_server,
    make_tables,
    query,
    wait_until,
    write_spool,
)
from benchmarks.figures import Check, Effort, Section, Table, percentile
from benchmarks.live import lateness, rows_taken
from tests.support.process import running_service
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import open_tws_simulator

if TYPE_CHECKING:
    from pathlib import Path

LEAST_RATIO = 0.1
"""A busy machine alone does not fall this low; one statement per row does (0.04)."""
INTERVAL_S = 0.2
IDLE_S = 8.0
OPTIONS = 100
SERVICE_TIMEOUT_S = 240.0
PLAIN = rf"\copy portfolio_greeks ({COLUMNS}) FROM '{{file}}'"
ONCE = (
    "CREATE TEMPORARY TABLE incoming (LIKE portfolio_greeks INCLUDING DEFAULTS)",
    rf"\copy incoming ({COLUMNS}) FROM '{{file}}'",
    f"INSERT INTO portfolio_greeks ({COLUMNS}) SELECT {COLUMNS} FROM incoming "
    "ON CONFLICT (event_id, timestamp) DO NOTHING",
)


def measure(effort: Effort) -> Section:
    section = Section(
        "Replay of the spool",
        "Rows of an outage, replayed into an empty table with all its indexes by the service's own "
        "code: in order, exactly once, in transactions of at most 1,000 rows, the spool "
        "acknowledged durably after each. In alternation with it, `psql \\copy` of the same rows "
        "into the same table: directly (no protection against duplicates), and through a temporary "
        "table with `ON CONFLICT DO NOTHING`. PostgreSQL is the bridge's own embedded server, on "
        "disk with fsync on.",
    )
    if which("psql") is None:
        section.notes.append("psql is not installed: not measured.")
    else:
        trio.run(_measure, section, effort)
    return section


async def _measure(section: Section, effort: Effort) -> None:
    table = section.table(
        "rows",
        "replay, rows/s",
        r"`\copy`, rows/s",
        r"`\copy` + ON CONFLICT, rows/s",
        r"replay beside `\copy`",
        r"beside `\copy` + ON CONFLICT",
        "CPU of the bridge, µs per row",
        "its memory grows by, MB",
    )
    sizes = (10_000, 100_000, 300_000, 1_000_000) if effort else (30_000,)
    async with disk_room() as room, disk_server(room) as conninfo:
        for rows in sizes:
            ratio = await _compare(table, room, conninfo, rows)
            section.checks.append(
                Check(rf"replay of {rows:,} rows beside \copy", ratio, at_least=LEAST_RATIO)
            )
        if effort:
            await _service(section, room, conninfo, (30_000, 1_000_000))


async def _compare(table: Table, room: Path, conninfo: str, rows: int) -> float:
    spool, copy = room / "rows.jsonl", room / "rows.tsv"
    await make_tables(conninfo)
    await trio.to_thread.run_sync(write_spool, spool, rows)
    found = await trio.to_thread.run_sync(run_child, "replay_child", spool, conninfo)
    _must_be(conninfo, rows)
    replay: float = rows / found["s"]
    _psql(conninfo, rf"\copy portfolio_greeks ({COLUMNS}) TO '{copy}'")
    speeds = []
    for commands in ((PLAIN,), ONCE):
        await make_tables(conninfo)
        began = time.perf_counter()
        await trio.to_thread.run_sync(_psql, conninfo, *(one.format(file=copy) for one in commands))
        speeds.append(rows / (time.perf_counter() - began))
        _must_be(conninfo, rows)
    copy.unlink()
    plain, once = speeds
    table.add(
        f"{rows:,}",
        replay,
        plain,
        once,
        replay / plain,
        replay / once,
        found["cpu_s"] / rows * 1e6,
        found["grew_mb"],
    )
    return replay / plain


def _psql(conninfo: str, *commands: str) -> None:
    arguments = [part for command in commands for part in ("-c", command)]
    subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-1", "-d", conninfo, *arguments], check=True
    )


def _must_be(conninfo: str, rows: int) -> None:
    (found,) = query(conninfo, "SELECT count(*), count(DISTINCT event_id) FROM portfolio_greeks")
    if found != (rows, rows):
        raise RuntimeError(f"{found} rows and ids, expected {rows} of both")


async def _service(section: Section, room: Path, conninfo: str, sizes: tuple[int, ...]) -> None:
    table = section.table(
        "backlog at the start",
        "replayed in, s",
        "rows/s",
        "idle memory, MB",
        "peak memory during replay, MB",
        "lateness p50, ms",
        "p99, ms",
        "max, ms",
        "slots skipped",
    )
    section.notes.append(
        f"The second table is the whole service in SOCKET mode with {OPTIONS} options and a row "
        f"every {INTERVAL_S:g} s, started with this many rows in the spool. Idle memory is that of "
        "the same service without a backlog. Lateness is `late_s`."
    )
    idle = 0.0
    for rows in (0, *sizes):
        home = room / f"home{rows}"
        home.mkdir()
        await make_tables(conninfo)
        await trio.to_thread.run_sync(write_spool, home / ".portfolio_bridge_buffer.jsonl", rows)
        took, most = await _run_service(home, conninfo, rows)
        late, skipped = lateness(rows_taken(conninfo), INTERVAL_S)
        if rows == 0:
            idle = most
        else:
            _all_there(conninfo, rows)
            section.checks.append(Check("memory above idle, MB", most - idle, at_most=30))
        table.add(
            f"{rows:,} rows" if rows else "none (idle)",
            took if rows else "",
            rows / took if rows else "",
            idle,
            most,
            *(percentile(late, percent) * 1e3 for percent in (50, 99, 100)),
            skipped,
        )


async def _run_service(home: Path, conninfo: str, rows: int) -> tuple[float, float]:
    """Seconds from the first replayed row to the last, and the peak memory in MB."""
    spool = home / ".portfolio_bridge_buffer.jsonl"
    async with (
        open_tws_simulator(make_book(options=OPTIONS), market_data_lines=OPTIONS) as sim,
        running_service(
            home,
            IB_SOCKET_PORT=sim.port,
            IB_MARKET_DATA_LINES=OPTIONS,
            DATABASE_URL=conninfo,
            BRIDGE_POLL_INTERVAL=INTERVAL_S,
        ) as service,
    ):
        process = psutil.Process(service.pid)
        most = 0
        began = time.perf_counter()

        def done() -> bool:
            nonlocal most
            most = max(most, process.memory_info().rss)
            return spool.stat().st_size == 0 and time.perf_counter() - began > IDLE_S

        await service.wait_for_output("connected to")
        await wait_until(done, SERVICE_TIMEOUT_S)
        await trio.sleep(IDLE_S / 2)
        service.interrupt()
        await service.wait()
    times = query(
        conninfo,
        "SELECT timestamp FROM api_logs WHERE kind LIKE 'database.circuit%%' ORDER BY id",
    )
    took = (times[-1][0] - times[0][0]) if rows else timedelta(0)
    return took.total_seconds(), most / 1e6


def _all_there(conninfo: str, rows: int) -> None:
    statement = (
        "SELECT count(*), count(DISTINCT event_id) FROM portfolio_greeks WHERE account = 'U1'"
    )
    (found,) = query(conninfo, statement)
    if found != (rows, rows):
        raise RuntimeError(f"{found} rows and ids, expected {rows} of both")
