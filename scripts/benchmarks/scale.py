"""What one bridge costs as its options grow, and how old Greeks get when lines are scarce."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from benchmarks.database import disk_room, disk_server, query
from benchmarks.figures import Effort, Section, percentile
from benchmarks.live import live_service

if TYPE_CHECKING:
    from pathlib import Path

SETTLE_S = 30.0
MEASURE_S = 20.0
ROTATION_S = 80.0
LINES = 90


def measure(effort: Effort) -> Section:
    section = Section(
        "Scale: CPU, memory, refresh age",
        "The whole service in SOCKET mode with a row every second and ten messages for each tick "
        "of an option. First table: a market-data line for every option. Second: "
        f"{LINES} lines for all of them, so that subscriptions rotate; the age is `greeks_age_s`, "
        "the age of the oldest Greek that counted in a row, after the first round.",
    )
    trio.run(_measure, section)
    return section


async def _measure(section: Section) -> None:
    costs = section.table(
        "options", "messages/s", "CPU, % of one core", "memory, MB", "CPU, % per 1,000 messages/s"
    )
    ages = section.table(
        "options on 90 lines", "rows", "priced at the end", "age p50, s", "age max, s"
    )
    async with disk_room() as room:
        found: dict[int, tuple[str | int | float, ...]] = {}
        spent: dict[int, tuple[float, ...]] = {}
        async with trio.open_nursery() as nursery:
            for options in (100, 240, 1_000):
                nursery.start_soon(_ages, room, options, found)
        # One at a time: the simulator, which runs in this process, must keep up.
        for options, tick_s in ((100, 1.0), (1_000, 5.0)):
            await _cost(room, options, tick_s, spent)
        for options in sorted(spent):
            costs.add(f"{options:,}", *spent[options])
        for options in sorted(found):
            ages.add(f"{options:,}", *found[options])


async def _cost(
    room: Path, options: int, tick_s: float, spent: dict[int, tuple[float, ...]]
) -> None:
    home = room / f"cost{options}"
    home.mkdir()
    async with (
        disk_server(home) as conninfo,
        live_service(
            home, conninfo, options=options, tick_s=tick_s, BRIDGE_POLL_INTERVAL=1
        ) as live,
    ):
        await trio.sleep(SETTLE_S)
        before = live.cpu_s
        await trio.sleep(MEASURE_S)
        percent = (live.cpu_s - before) / MEASURE_S * 100
        memory = live.rss_mb
    messages = options * 10 / tick_s
    spent[options] = (messages, percent, memory, percent / messages * 1_000)


async def _ages(room: Path, options: int, found: dict[int, tuple[str | int | float, ...]]) -> None:
    home = room / f"ages{options}"
    home.mkdir()
    async with disk_server(home) as conninfo:
        async with live_service(
            home, conninfo, options=options, lines=LINES, BRIDGE_POLL_INTERVAL=1
        ):
            await trio.sleep(ROTATION_S)
        rows = query(
            conninfo, "SELECT greeks_age_s, priced, positions FROM portfolio_greeks ORDER BY id"
        )
    last = rows[-1]
    settled = [age for age, priced, positions in rows if priced == positions] or [
        age for age, _, _ in rows[-20:]
    ]
    ages = settled[len(settled) // 3 :]
    found[options] = (
        len(ages),
        f"{last[1]} of {last[2]}",
        percentile(ages, 50),
        percentile(ages, 100),
    )
