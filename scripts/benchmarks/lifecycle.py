"""Start, exit in every broken state, reconnect to the first complete row, a silent gateway."""

from __future__ import annotations

import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import trio

from benchmarks.database import disk_room, disk_server, make_tables, query
from benchmarks.figures import Effort, Section
from benchmarks.live import Live, count_rows, live_service, rows_taken
from tests.support.postgres import PostgresFactory, PostgresServer
from tests.support.process import running_service
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import open_tws_simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

INTERVAL_S = 0.1
STANDBY_INTERVAL_S = 5.0
AWAY_S = 1.0
PATIENCE_S = 90.0


def measure(effort: Effort) -> Section:
    section = Section(
        "Life cycle",
        f"The whole service in SOCKET mode with 26 options and a row every {INTERVAL_S:g} s, so "
        "that the grid adds little. *Complete* means every position priced. The time to recover "
        "counts from the instant at which the gateway listens again, with a reconnect attempt "
        "every 0.1 s (the default waits 5, 10, 20, 20, … s between attempts). A silent gateway "
        "keeps its connections open and sends nothing; the heartbeat is the default 10 s. The "
        f"standby is measured with a row every {STANDBY_INTERVAL_S:g} s: it waits for 1.5 "
        "intervals, and its first row for the Greeks and the next slot.",
    )
    trio.run(_measure, section)
    return section


async def _measure(section: Section) -> None:
    table = section.table("what", "seconds")
    async with disk_room() as room:
        table.add("process start to first row, first start (initdb)", await _starts(room, True))
        async with disk_server(room) as conninfo:
            table.add("process start to first row, warm", await _starts(room, False, conninfo))
            table.add("gateway back to first complete row", await _reconnects(room, conninfo))
            for name, seconds in (await _silence(room, conninfo)).items():
                table.add(name, seconds)
            for name, figure in (await _takeover(room, conninfo)).items():
                table.add(name, figure)
        for name, trouble in TROUBLES.items():
            table.add(f"Ctrl-C to exit, {name}", await _end(room / f"end {name}", trouble))


async def _starts(room: Path, first: bool, conninfo: str = "") -> float:
    home = room / f"start{first}"
    home.mkdir()
    home.chmod(0o755)
    settings: dict[str, object] = {"BRIDGE_EMBEDDED_DIR": home / "postgres"}
    if not first:
        await make_tables(conninfo)
        settings = {"DATABASE_URL": conninfo}
    async with open_tws_simulator(make_book()) as sim:
        began = time.perf_counter()
        async with running_service(
            home, IB_SOCKET_PORT=sim.port, BRIDGE_POLL_INTERVAL=INTERVAL_S, **settings
        ) as service:
            target = conninfo
            if first:
                await service.wait_for_output("recording")
                found = re.search(r"database=(\S+):5432/", service.output)
                assert found is not None
                target = f"host={found[1]} dbname=portfolio_engine user=portfolio"
            await _until(lambda: _has_rows(target))
            took = time.perf_counter() - began
            service.interrupt()
            await service.wait()
    return took


def _has_rows(conninfo: str) -> bool:
    try:
        return count_rows(conninfo) > 0
    except psycopg.errors.UndefinedTable:
        return False


async def _reconnects(room: Path, conninfo: str) -> float:
    await make_tables(conninfo)
    async with live_service(
        room / "reconnect",
        conninfo,
        options=26,
        BRIDGE_POLL_INTERVAL=INTERVAL_S,
        BRIDGE_RECONNECT_BACKOFF="0.1",
    ) as live:
        await _until(lambda: live.rows() > 5)
        live.sim.stop_listening()
        live.sim.drop_connections()
        await trio.sleep(AWAY_S)
        back = time.time()
        await live.sim.start_listening()
        await _until(lambda: _right_row_since(conninfo, back) is not None)
        at = _right_row_since(conninfo, back)
        assert at is not None
        return at - back


def _right_row_since(conninfo: str, since: float) -> float | None:
    rows = query(
        conninfo,
        "SELECT extract(epoch FROM timestamp) FROM portfolio_greeks "
        "WHERE timestamp > to_timestamp(%s) AND priced = positions ORDER BY id LIMIT 1",
        since,
    )
    return float(rows[0][0]) if rows else None


async def _silence(room: Path, conninfo: str) -> dict[str, float]:
    await make_tables(conninfo)
    async with live_service(
        room / "silence", conninfo, options=26, BRIDGE_POLL_INTERVAL=INTERVAL_S
    ) as live:
        await _until(lambda: live.rows() > 20)
        live.sim.hang()
        began = time.time()
        await live.service.wait_for_output("reconnect attempt 1", PATIENCE_S)
        found = time.time()
        last = sum(rows_taken(conninfo)[-1])
    return {
        "gateway silent to last row": max(0.0, last - began),
        "gateway silent to connection dropped": found - began,
    }


async def _takeover(room: Path, conninfo: str) -> dict[str, float]:
    """Of a standby on the same gateway, after SIGKILL of the recorder."""
    await make_tables(conninfo)
    settings = {"BRIDGE_POLL_INTERVAL": STANDBY_INTERVAL_S, "DATABASE_URL": conninfo}
    home = room / "standby"
    home.mkdir()
    async with live_service(
        room / "recorder", conninfo, options=26, BRIDGE_POLL_INTERVAL=STANDBY_INTERVAL_S
    ) as live:
        await _until(lambda: live.rows() > 1)
        async with running_service(
            home, IB_SOCKET_PORT=live.sim.port, IB_CLIENT_ID=11, BRIDGE_STANDBY=1, **settings
        ) as standby:
            await standby.wait_for_output("connected to")
            rows = live.rows()
            await _until(lambda: live.rows() > rows + 2)
            last, rows = rows_taken(conninfo)[-1].slot, live.rows()
            live.service.process.kill()
            await standby.wait_for_output("takes over", PATIENCE_S)
            told = time.time()
            await _until(lambda: live.rows() > rows)
            first = rows_taken(conninfo)[-1].slot
            standby.interrupt()
            await standby.wait()
    return {
        "recorder's last row to the standby's takeover": told - last,
        "recorder's last row to the standby's first": first - last,
    }


async def _well(live: Live, server: PostgresServer) -> None:
    pass


async def _database_frozen(live: Live, server: PostgresServer) -> None:
    server.freeze()


async def _database_down(live: Live, server: PostgresServer) -> None:
    server.stop("immediate")


async def _gateway_down(live: Live, server: PostgresServer) -> None:
    live.sim.stop_listening()
    live.sim.drop_connections()


async def _gateway_silent(live: Live, server: PostgresServer) -> None:
    live.sim.hang()


async def _all_frozen(live: Live, server: PostgresServer) -> None:
    live.sim.hang()
    server.freeze()


TROUBLES = {
    "all well": _well,
    "database frozen": _database_frozen,
    "database down": _database_down,
    "gateway down": _gateway_down,
    "gateway silent": _gateway_silent,
    "gateway silent and database frozen": _all_frozen,
}


async def _end(home: Path, trouble: Callable[[Live, PostgresServer], object]) -> float:
    async with _own_server() as server:
        await make_tables(server.conninfo)
        async with live_service(
            home, server.conninfo, options=26, BRIDGE_POLL_INTERVAL=INTERVAL_S
        ) as live:
            await _until(lambda: live.rows() > 3)
            await trouble(live, server)  # type: ignore[misc]
            await trio.sleep(AWAY_S)
            began = time.perf_counter()
            live.service.interrupt()
            await live.service.wait(PATIENCE_S)
            return time.perf_counter() - began


@asynccontextmanager
async def _own_server() -> AsyncIterator[PostgresServer]:
    factory = PostgresFactory()
    try:
        yield await trio.to_thread.run_sync(factory.new)
    finally:
        factory.close()


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.02)
