"""A connection that cannot be ended, and yet the rows are safe and the process ends in time."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.faults.ledger import BUFFER, Run, bridge, check, more_rows
from tests.support.database import fetch
from trio_bridge.events.service import ConnectionStuck, ServiceStopped
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import open_tws_simulator

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer

ENDS_WITHIN_S = 20.0
"""3 s on an idle machine."""


async def test_an_attempt_that_swallows_everything_does_not_keep_the_service_from_its_end(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SWALLOWS_EVERYTHING)
    async with bridge(
        tmp_path, IB_SOCKET_PORT=1, DATABASE_URL=own_postgres.url, PYTHONPATH=tmp_path
    ) as service:
        await service.wait_for_output("the attempt has begun")
        service.interrupt(signal.SIGTERM)
        assert await service.wait(ENDS_WITHIN_S) == 0
    assert "an asyncio task does not end although it was cancelled" in service.output
    kinds = fetch(own_postgres.conninfo, "SELECT kind FROM api_logs ORDER BY id")
    assert kinds[-1] == (ServiceStopped.kind,)


async def test_a_connection_that_cannot_be_cancelled_is_left_behind_when_all_rows_are_safe(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CANNOT_BE_CLOSED)
    async with (
        open_tws_simulator(make_book()) as gateway,
        bridge(
            tmp_path,
            IB_SOCKET_PORT=gateway.port,
            DATABASE_URL=own_postgres.url,
            PYTHONPATH=tmp_path,
        ) as service,
    ):
        await more_rows(service, 10)
        service.interrupt(signal.SIGTERM)
        assert await service.wait(ENDS_WITHIN_S) == 1
    await check(tmp_path / BUFFER, own_postgres.conninfo, [Run(service.output)], at_least=10)
    kinds = fetch(own_postgres.conninfo, "SELECT kind FROM api_logs")
    assert kinds.count((ConnectionStuck.kind,)) == 1


async def test_a_bug_beside_such_a_connection_is_told_and_ends_the_service_by_itself(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CANNOT_BE_CLOSED + A_BUG)
    async with (
        open_tws_simulator(make_book()) as gateway,
        bridge(
            tmp_path,
            IB_SOCKET_PORT=gateway.port,
            DATABASE_URL=own_postgres.url,
            PYTHONPATH=tmp_path,
        ) as service,
    ):
        assert await service.wait() == 1
    assert '"exc_type": "ZeroDivisionError"' in service.output
    await check(tmp_path / BUFFER, own_postgres.conninfo, [Run(service.output)], at_least=20)


SWALLOWS_EVERYTHING = """
import asyncio
import trio_bridge.asyncio_compat
from ib_async.client import Client

async def connect(self, *arguments):
    print("the attempt has begun", flush=True)
    loop = asyncio.get_running_loop()
    while True:
        try:
            await loop.create_future()
        except BaseException:
            pass

Client.connectAsync = connect
"""

CANNOT_BE_CLOSED = """
import trio_bridge.asyncio_compat
import trio
from trio_bridge.gateways.socket.client import GatewayClient

async def close(self):
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

GatewayClient.close = close
"""

A_BUG = """
import trio_bridge.tasks.ticker as ticker

serve = ticker.Ticker._serve

def crash(self, *arguments):
    serve(self, *arguments)
    if self.status.rows == 20:
        raise ZeroDivisionError("a bug")

ticker.Ticker._serve = crash
"""
