"""The bridge itself killed, at any moment, while the database comes and goes."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson
import pytest
import trio

from tests.faults.ledger import (
    BUFFER,
    ROWS_UNTIL_SAFE,
    Run,
    bridge,
    check,
    more_rows,
)
from tests.support.database import fetch, wait_for_rows
from tests.support.process import PATIENCE_S
from trio_bridge.rows import PORTFOLIO_GREEKS
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import open_tws_simulator

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer

in_thread = trio.to_thread.run_sync


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.long)])
async def test_killed_at_random_instants(
    kills: int, tmp_path: Path, own_postgres: PostgresServer
) -> None:
    rng = random.Random(kills)
    runs: list[Run] = []
    async with open_tws_simulator(make_book()) as gateway, trio.open_nursery() as nursery:
        nursery.start_soon(come_and_go, own_postgres, random.Random(1))
        settings = {"IB_SOCKET_PORT": gateway.port, "DATABASE_URL": own_postgres.url}
        for kill in range(kills):
            # The first one has some rows behind it that are promised for certain.
            rows = rng.randint(1, 2 * ROWS_UNTIL_SAFE) if kill else 2 * ROWS_UNTIL_SAFE
            async with bridge(tmp_path, **settings) as service:
                await more_rows(service, rows)
                await trio.sleep(rng.uniform(0, 0.1))
                # Counted from before the kill: what is younger may be lost, what is older not.
                killed_at = datetime.now(UTC)
                service.process.kill()
                await service.wait()
            runs.append(Run(service.output, killed_at))
        nursery.cancel_scope.cancel()
    own_postgres.thaw()
    own_postgres.restart()
    async with open_tws_simulator(make_book()) as gateway:
        async with bridge(
            tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=own_postgres.url
        ) as service:
            await more_rows(service, 10)
            service.interrupt()
            assert await service.wait() == 0
        runs.append(Run(service.output))
    await check(tmp_path / BUFFER, own_postgres.conninfo, runs, at_least=10)


async def come_and_go(server: PostgresServer, rng: random.Random) -> None:
    """Down, frozen or well, for a second or so each."""
    while True:
        await trio.sleep(rng.uniform(0.5, 3))
        if rng.random() < 0.5:
            with trio.CancelScope(shield=True):
                await in_thread(server.kill)
                await trio.sleep(rng.uniform(0, 1.5))
                await in_thread(server.start)
        else:
            server.freeze()
            try:
                await trio.sleep(rng.uniform(0, 2))
            finally:
                server.thaw()


async def test_killed_while_the_database_has_just_frozen(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    """The rows of that moment have reached neither the database nor their time limit, and yet
    nothing that was accepted is lost."""
    async with open_tws_simulator(make_book()) as gateway:
        settings = {"IB_SOCKET_PORT": gateway.port, "DATABASE_URL": own_postgres.url}
        async with bridge(tmp_path, **settings) as service:
            await wait_for_rows(own_postgres.conninfo, 20)
            own_postgres.freeze()
            await more_rows(service, 4)
            accepted = await rows_in_the_spool(tmp_path, Run(service.output).rows[-1])
            killed_at = datetime.now(UTC)
            service.process.kill()
            await service.wait()
        first = Run(service.output, killed_at)
        own_postgres.thaw()
        async with bridge(tmp_path, **settings) as service:
            await wait_for_rows(own_postgres.conninfo, len(first.rows) + 3)
            service.interrupt()
            assert await service.wait() == 0
    await check(tmp_path / BUFFER, own_postgres.conninfo, [first, Run(service.output)])
    slots = fetch(own_postgres.conninfo, "SELECT timestamp FROM portfolio_greeks")
    assert accepted <= {at for (at,) in slots}


async def rows_in_the_spool(home: Path, newest: datetime) -> set[datetime]:
    """Wait for this one; all that are there then."""
    with trio.fail_after(PATIENCE_S):
        while True:
            *lines, _torn = (home / BUFFER).read_bytes().split(b"\n")
            rows = {
                datetime.fromisoformat(entry["row"]["timestamp"])
                for entry in map(orjson.loads, lines)
                if entry["table"] == PORTFOLIO_GREEKS.name
            }
            if newest in rows:
                return rows
            await trio.sleep(0.01)


async def test_a_second_ctrl_c_leaves_at_once_with_the_spool_intact(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    async with open_tws_simulator(make_book()) as gateway:
        settings = {"IB_SOCKET_PORT": gateway.port, "DATABASE_URL": own_postgres.url}
        async with bridge(tmp_path, **settings) as service:
            await wait_for_rows(own_postgres.conninfo, 5)
            own_postgres.freeze()
            await more_rows(service, 5)
            service.interrupt()
            await service.wait_for_output("ending")
            service.interrupt()
            assert await service.wait() in (0, 130)
        first = Run(service.output)
        own_postgres.thaw()
        async with bridge(tmp_path, **settings) as service:
            await wait_for_rows(own_postgres.conninfo, len(first.rows) + 5)
            service.interrupt()
            assert await service.wait() == 0
    second = Run(service.output)
    await check(tmp_path / BUFFER, own_postgres.conninfo, [first, second], at_least=15)


async def test_a_crash_among_the_sources_keeps_what_the_writer_holds(
    tmp_path: Path, own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug ends the service with a traceback, and every row taken before it is safe."""
    (tmp_path / "sitecustomize.py").write_text(CRASH_AFTER_20_ROWS)
    async with open_tws_simulator(make_book()) as gateway:
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(
                bridge(
                    tmp_path,
                    IB_SOCKET_PORT=gateway.port,
                    DATABASE_URL=own_postgres.url,
                    PYTHONPATH=tmp_path,
                )
            )
            await wait_for_rows(own_postgres.conninfo, 10)
            own_postgres.freeze()
            assert await service.wait() == 1
        own_postgres.thaw()
        first = Run(service.output)
        assert "ZeroDivisionError: a bug" in service.output
        (tmp_path / "sitecustomize.py").unlink()
        async with bridge(
            tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=own_postgres.url
        ) as service:
            await wait_for_rows(own_postgres.conninfo, len(first.rows) + 3)
            service.interrupt()
            assert await service.wait() == 0
    second = Run(service.output)
    await check(tmp_path / BUFFER, own_postgres.conninfo, [first, second], at_least=20)
    assert fetch(own_postgres.conninfo, "SELECT count(*) > 0 FROM api_logs") == [(True,)]


CRASH_AFTER_20_ROWS = """
import trio_bridge.asyncio_compat
import trio_bridge.tasks.ticker as ticker

serve = ticker.Ticker._serve

def crash(self, *arguments):
    serve(self, *arguments)
    if self.status.rows == 20:
        raise ZeroDivisionError("a bug")

ticker.Ticker._serve = crash
"""
