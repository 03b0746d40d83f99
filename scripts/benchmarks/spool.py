"""The spool alone: how long it takes to append, and to read a large file."""

from __future__ import annotations

import os
import time
import zlib
from typing import TYPE_CHECKING

import psutil
import trio

from benchmarks.database import disk_room, write_spool
from benchmarks.figures import Check, Effort, Section, percentile
from tests.support.rows import record
from trio_bridge.stores.record import encode_line
from trio_bridge.stores.spool.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

APPENDS = 300


def measure(effort: Effort) -> Section:
    section = Section(
        "Spool",
        "On disk, fsync on. *Append* is `Spool.append`, which returns once the rows are fsynced, "
        "compared with a bare `write` and `fsync` of the same bytes by a blocking program. "
        "*Recovery* opens a file as a long outage leaves it and reads all of it in chunks, each "
        "line checked, each chunk acknowledged durably; it is compared with a loop over the lines "
        "of the same file that only computes each line's CRC.",
    )
    trio.run(_measure, section, effort)
    return section


async def _measure(section: Section, effort: Effort) -> None:
    appends = section.table(
        "append", "p50, µs", "p99, µs", "bare p50, µs", "bare p99, µs", "p50 beside bare"
    )
    recovery = section.table(
        "recovery of", "open, ms", "read, rows/s", "bare loop, rows/s", "memory grows by, MB"
    )
    async with disk_room() as room:
        for rows in (1, 100):
            ours, bare = await _append(room, rows, APPENDS if effort else 60)
            ratio = percentile(ours, 50) / percentile(bare, 50)
            appends.add(
                f"{rows} row{'s' * (rows > 1)}, one fsync",
                *(percentile(ours, p) * 1e6 for p in (50, 99)),
                *(percentile(bare, p) * 1e6 for p in (50, 99)),
                ratio,
            )
        sizes = {Effort.QUICK: (5_000, 50_000), Effort.NORMAL: (30_000, 1_000_000)}
        for rows in sizes.get(effort, sizes[Effort.NORMAL]):
            recovery.add(f"{rows:,} rows", *await _recover(room, rows))
    first, last = recovery.rows[0][2], recovery.rows[-1][2]
    assert isinstance(first, float)
    assert isinstance(last, float)
    section.checks.append(Check("recovery speed, largest beside smallest", last / first, 0.2))


async def _append(room: Path, rows: int, count: int) -> tuple[list[float], list[float]]:
    records = [record(number) for number in range(rows)]
    lines = b"".join(map(encode_line, records))
    ours, bare = [], []
    descriptor = os.open(room / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    spool = await Spool.open(room / f"spool{rows}.jsonl")
    for _ in range(count):  # in alternation: a busy disk affects both
        began = time.perf_counter()
        await spool.append(records)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        os.write(descriptor, lines)
        os.fsync(descriptor)
        bare.append(time.perf_counter() - began)
    spool.close()
    os.close(descriptor)
    return ours, bare


async def _recover(room: Path, rows: int) -> tuple[float, float, float, float]:
    path = room / f"recovery{rows}.jsonl"
    await trio.to_thread.run_sync(write_spool, path, rows)
    began = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            zlib.crc32(line)
    bare_s = time.perf_counter() - began
    process = psutil.Process()
    before = most = process.memory_info().rss
    began = time.perf_counter()
    spool = await Spool.open(path)
    opened_s = time.perf_counter() - began
    began, read = time.perf_counter(), 0
    while spool.backlog_bytes:
        chunk = await spool.read()
        read += len(chunk.lines)
        await spool.acknowledge(chunk, len(chunk.lines))
        if not read % 50_000:
            most = max(most, process.memory_info().rss)
    read_s = time.perf_counter() - began
    spool.close()
    if read != rows:
        raise RuntimeError(f"{read} of {rows} rows came back")
    return opened_s * 1e3, rows / read_s, rows / bare_s, (most - before) / 1e6
