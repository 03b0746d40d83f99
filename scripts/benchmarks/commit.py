"""From tick to safe; the cost of a row as the table grows; how many writers one server takes."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import trio

from benchmarks.children import run_child
from benchmarks.database import COLUMNS, disk_room, disk_server, make_tables, query
from benchmarks.figures import Check, Effort, Section, percentile
from tests.support.rows import record, snapshot
from trio_bridge.delivery.breaker import DBCircuitBreaker
from trio_bridge.delivery.delivery import Delivery
from trio_bridge.delivery.outlet import Outlet
from trio_bridge.delivery.writer import run_writer
from trio_bridge.identity import new_event_id
from trio_bridge.model import Snapshot, utc_now
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.record import record_of
from trio_bridge.stores.spool.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.figures import Table
    from trio_bridge.stores.record import Record

COMMITS = 500
NOBODY_LISTENS = "host=127.0.0.1 port=1 user=nobody dbname=nothing connect_timeout=2"
GAP_S = 0.02
LARGEST_RATIO = 1.4
BRIDGE_ROWS_A_SECOND = 0.2
BARE = f"INSERT INTO portfolio_greeks ({COLUMNS}) VALUES ({', '.join(['%s'] * 13)})"
ELSEWHERE = (
    "Other servers take the same statements (`INSERT … SELECT … FROM json_to_recordset`, with "
    "`ON CONFLICT (event_id, timestamp) DO NOTHING` for rows that may already be there): the "
    "unique key contains the columns that hypertables and distributed tables require. The "
    "following was tried by hand on 2026-11-21 on PostgreSQL 15.18, with all servers on one busy "
    "machine. The three ratios compare median times with plain tables in the same run: 1,000 new "
    "rows, 1,000 known rows, one row.",
    "TimescaleDB 2.28.3, both tables hypertables: everything works once the primary key includes "
    "the time (docs/runbook.md has the statements). × 1.1, × 1.0, × 1.0. Known rows that reach "
    "compressed chunks are still stored only once, at about × 2.",
    "Citus 13.2.2, a coordinator and two workers. Reference tables: everything works. × 2.6, "
    "× 4.2, × 6.1. Distributed by event_id or by timestamp, without the primary key: rows are "
    "stored once and in order, but the page's charts are refused. × 20, × 31, × 5.7. Killing or "
    "stopping a worker meant waiting; no row was lost or duplicated.",
    "Multi-host: a URL with a primary and a standby finds the one that accepts rows, also after "
    "the standby is promoted; the tests check this (`tests/stores/database/test_connection.py`).",
)
GROW = f"""
    INSERT INTO portfolio_greeks ({COLUMNS})
    SELECT '2020-01-01'::timestamptz + number * interval '5 s', 'PORTFOLIO', number, 1, 1, 1, 1,
        (lpad(to_hex(number), 12, '0') || '7000800000000000'
            || lpad(to_hex(number %% 65536), 4, '0'))::uuid, 'U1', 3, 3, 0, 'live'
    FROM generate_series(%s::bigint, %s::bigint) AS number
"""


def measure(effort: Effort) -> Section:
    section = Section(
        "Database: from tick to safe, growth, many writers",
        "The bridge's own embedded PostgreSQL on disk, fsync on. First table: the time to commit a "
        "single row, in alternation with a bare psycopg program that commits an `INSERT` of the "
        "same row on the same server. Second: from the tick until the row is committed, through "
        "the whole delivery (spool, the question whether it is still the same server, what is kept "
        "for a failover), beside a bare `INSERT` at the same idle gap. Third: until it is safe, "
        "with the database up and with it down (then safe means fsynced in the spool). Fourth: one "
        "row and a thousand, as the table grows. Fifth: many writers on one table, each committing "
        "single rows as fast as it can.",
    )
    trio.run(_measure, section, effort)
    return section


async def _measure(section: Section, effort: Effort) -> None:
    async with disk_room() as room, disk_server(room) as conninfo:
        table = section.table("committing one row", "p50, µs", "p99, µs", "p50 beside bare")
        ours, bare = await _commits(conninfo, COMMITS)
        bare_p50 = percentile(bare, 50)
        for name, times in (("bridge", ours), ("bare psycopg", bare)):
            p50, p99 = (percentile(times, percent) for percent in (50, 99))
            table.add(name, p50 * 1e6, p99 * 1e6, p50 / bare_p50)
        await _beside_bare(section, room, conninfo)
        await _safe(section, room, conninfo)
        await _growth(section, conninfo, effort)
        await make_tables(conninfo)
        await _writers(section, conninfo)


async def _commits(conninfo: str, count: int) -> tuple[list[float], list[float]]:
    store = PostgresStore(conninfo)
    ours, bare = [], []
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for number in range(count):
            mine, theirs = snapshot(2 * number), snapshot(2 * number + 1)
            began = time.perf_counter()
            await store.write([record_of(mine)])
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            connection.execute(BARE, _values(theirs))
            bare.append(time.perf_counter() - began)
    await store.aclose()
    return ours, bare


def _values(row: Snapshot) -> list[object]:
    label = row.data_type.label if row.data_type else None
    return [
        *(row.timestamp, row.contract, row.delta, row.gamma, row.vega, row.theta),
        *(row.underlying_price, row.event_id, row.account, row.positions, row.priced),
        *(row.greeks_age_s, label),
    ]


async def _beside_bare(section: Section, room: Path, conninfo: str) -> None:
    """Each side alone: after an idle gap the caches of processor and server are cold."""
    table = section.table("idle gap", "delivery p50, µs", "bare p50, µs", "delivery beside bare")
    for gap_s, rows in ((0.02, COMMITS), (0.5, 60)):
        ours, bare = [], []
        for part in range(4):  # in turn, so that both see the same machine
            path = room / f"{gap_s}-{part}.jsonl"
            ours += await _deliver(path, conninfo, rows // 4, gap_s=gap_s)
            bare += await trio.to_thread.run_sync(_insert, conninfo, rows // 4, gap_s)
        delivery, insert = (percentile(times, 50) for times in (ours, bare))
        table.add(f"{gap_s * 1e3:g} ms", delivery * 1e6, insert * 1e6, delivery / insert)
        name = f"commit beside a bare INSERT, {gap_s:g} s apart"
        section.checks.append(Check(name, delivery / insert, at_most=LARGEST_RATIO))


def _insert(conninfo: str, rows: int, gap_s: float) -> list[float]:
    waits = []
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for number in range(rows):
            row = snapshot(number, utc_now())
            row = replace(row, event_id=new_event_id(row.timestamp))
            began = time.perf_counter()
            connection.execute(BARE, _values(row))
            waits.append(time.perf_counter() - began)
            time.sleep(gap_s)
    return waits


async def _safe(section: Section, room: Path, conninfo: str) -> None:
    table = section.table("from tick to safe", "rows", "p50, ms", "p99, ms", "max, ms")
    for name, target in (("database up", conninfo), ("database down", NOBODY_LISTENS)):
        waits = await _deliver(room / f"{name}.jsonl", target, COMMITS)
        table.add(name, len(waits), *(percentile(waits, p) * 1e3 for p in (50, 99, 100)))


async def _deliver(path: Path, conninfo: str, rows: int, *, gap_s: float = GAP_S) -> list[float]:
    waits: list[float] = []

    def safe(record: Record, waited_s: float) -> None:
        if record.table == "portfolio_greeks":
            waits.append(waited_s)

    spool = await Spool.open(path, keep=timedelta(days=1))
    store = PostgresStore(conninfo)
    outlet = Outlet()
    delivery = Delivery(store, spool, DBCircuitBreaker(), outlet, db_timeout_s=2.0, safe=safe)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_writer, delivery)
        for number in range(rows):
            row = snapshot(number, utc_now())
            outlet.put(replace(row, event_id=new_event_id(row.timestamp)))
            await trio.sleep(gap_s)
        outlet.close()
    await store.aclose()
    spool.close()
    return waits


async def _growth(section: Section, conninfo: str, effort: Effort) -> None:
    table = section.table("table holds", "one row, p50, µs", "p99, µs", "1,000 rows, µs per row")
    sizes = [0, 1_000_000] + [10_000_000] * (effort is Effort.FULL)
    await make_tables(conninfo)
    for before, size in zip([0, *sizes], sizes, strict=False):
        for start in range(before, size, 1_000_000):
            grow = partial(query, conninfo, GROW, start + 1, start + 1_000_000)
            await trio.to_thread.run_sync(grow)
        query(conninfo, "CHECKPOINT")
        await _add_cost(table, conninfo, size)


async def _add_cost(table: Table, conninfo: str, size: int) -> None:
    store = PostgresStore(conninfo)
    base = 10**9 + size
    singles, thousands = [], []
    for number in range(300):
        began = time.perf_counter()
        await store.write([record(base + number)])
        singles.append(time.perf_counter() - began)
    for number in range(20):
        rows = [record(base + 1_000 * (number + 1) + one) for one in range(1_000)]
        began = time.perf_counter()
        await store.write(rows)
        thousands.append(time.perf_counter() - began)
    await store.aclose()
    p50, p99 = (percentile(singles, percent) * 1e6 for percent in (50, 99))
    table.add(f"{size:,}", p50, p99, percentile(thousands, 50) * 1e3)


async def _writers(section: Section, conninfo: str) -> None:
    table = section.table(
        "writers at once", "rows/s", "commit p50, ms", "p99, ms", "bridges at a row every 5 s"
    )
    for writers in (1, 2, 4, 8, 16):
        run = partial(run_child, "writers_child", writers, conninfo)
        found = await trio.to_thread.run_sync(run)
        table.add(
            str(writers),
            found["rows_per_s"],
            found["p50_s"] * 1e3,
            found["p99_s"] * 1e3,
            int(found["rows_per_s"] / BRIDGE_ROWS_A_SECOND),
        )
    section.notes.append(
        "Writers, server and disk share this one machine; the last column divides the rate by a "
        "bridge's 0.2 rows/s and leaves nothing in reserve."
    )
    section.notes += ELSEWHERE
