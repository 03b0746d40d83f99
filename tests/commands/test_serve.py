"""The service among its neighbours: a service manager, a webhook; real processes all of them."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import psutil
import trio

from tests.support.database import count_rows, fetch, wait_for_rows
from tests.support.process import PATIENCE_S, postgres_below, running_service
from tests.support.receiver import open_receiver
from trio_bridge.events.gateway import ConnectionLost
from trio_bridge.events.rows import CircuitOpened, RowsBegun, RowsOverdue, RowsPartial
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import open_tws_simulator
from trio_bridge.tasks.alerts import ROWS
from trio_bridge.tasks.webhook import POST_TIMEOUT_S

if TYPE_CHECKING:
    from tests.support.process import ServiceProcess

FAST: dict[str, Any] = {"BRIDGE_POLL_INTERVAL": 0.2, "BRIDGE_RECONNECT_BACKOFF": "0.2"}


class Manager:
    """systemd's end of the notify socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard: list[str] = []

    async def listen(self) -> None:
        with self._socket:
            await self._socket.bind(str(self.path))
            while True:
                self.heard.append((await self._socket.recv(4096)).decode())

    async def wait_for(self, text: str) -> None:
        with trio.fail_after(PATIENCE_S):
            while not any(text in one for one in self.heard):
                await trio.sleep(0.05)


async def test_the_service_manager_is_told_of_start_life_and_end(
    tmp_path: Path, fresh_database: str
) -> None:
    manager = Manager(tmp_path / "notify")
    async with trio.open_nursery() as nursery, open_tws_simulator(make_book()) as sim:
        nursery.start_soon(manager.listen)
        async with running_service(
            tmp_path,
            IB_SOCKET_PORT=sim.port,
            DATABASE_URL=fresh_database,
            NOTIFY_SOCKET=manager.path,
            WATCHDOG_USEC=1_000_000,
            **FAST,
        ) as service:
            await manager.wait_for("READY=1")
            await manager.wait_for("WATCHDOG=1")
            await manager.wait_for("STATUS=connected, ")
            await manager.wait_for("database circuit CLOSED")
            service.interrupt(signal.SIGTERM)
            await manager.wait_for("STOPPING=1")
            assert await service.wait() == 0
        nursery.cancel_scope.cancel()


async def test_a_postgresql_of_ours_does_not_report_in_our_name(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "notify")
    with TemporaryDirectory() as room:
        Path(room).chmod(0o755)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.listen)
            async with running_service(
                tmp_path,
                IB_SOCKET_PORT=1,
                BRIDGE_EMBEDDED_DIR=f"{room}/postgres",
                NOTIFY_SOCKET=manager.path,
            ) as service:
                await manager.wait_for("READY=1")
                servers = postgres_below(service.pid)
                assert servers
                assert all("NOTIFY_SOCKET" not in environment_of(one) for one in servers)
                service.interrupt()
                assert await service.wait() == 0
            nursery.cancel_scope.cancel()
        psutil.wait_procs(servers, timeout=10)
    assert sum("READY=1" in one for one in manager.heard) == 1


def environment_of(process: psutil.Process) -> dict[str, str]:
    found: dict[str, str] = process.environ()
    return found


async def test_a_lost_gateway_and_missing_rows_call_a_person(
    tmp_path: Path, fresh_database: str
) -> None:
    async with (
        open_receiver() as receiver,
        open_tws_simulator(make_book()) as sim,
        running_service(
            tmp_path,
            IB_SOCKET_PORT=sim.port,
            DATABASE_URL=fresh_database,
            BRIDGE_ALERT_URL=receiver.url(),
            BRIDGE_ALERT_AFTER=1,
            **FAST,
        ) as service,
    ):
        await wait_for_rows(fresh_database, 2)
        sim.stop_listening()
        sim.drop_connections()
        await receiver.wait_for(ConnectionLost.kind)
        await receiver.wait_for(RowsOverdue.kind)
        assert await clean_end(service) == 0
    assert "the-secret" not in service.output


async def test_a_database_outage_calls_a_person_although_no_row_of_it_can_be_written(
    tmp_path: Path, own_postgres: Any
) -> None:
    async with (
        open_receiver() as receiver,
        open_tws_simulator(make_book()) as sim,
        running_service(
            tmp_path,
            IB_SOCKET_PORT=sim.port,
            DATABASE_URL=own_postgres.url,
            BRIDGE_ALERT_URL=receiver.url(),
            **FAST,
        ) as service,
    ):
        await wait_for_rows(own_postgres.conninfo, 2)
        await trio.to_thread.run_sync(own_postgres.stop, "immediate")
        await receiver.wait_for(CircuitOpened.kind)
        assert await clean_end(service) == 0


async def test_a_receiver_that_hangs_slows_no_row(tmp_path: Path, fresh_database: str) -> None:
    async with (
        open_receiver() as receiver,
        open_tws_simulator(make_book()) as sim,
        running_service(
            tmp_path,
            IB_SOCKET_PORT=sim.port,
            DATABASE_URL=fresh_database,
            BRIDGE_ALERT_URL=receiver.url(),
            **FAST,
        ) as service,
    ):
        receiver.silent = True
        await wait_for_rows(fresh_database, 2)
        sim.notify(2103, "usopt")  # a warning
        with trio.fail_after(PATIENCE_S):
            while not receiver.targets:
                await trio.sleep(0.05)
        before = count_rows(fresh_database)
        await wait_for_rows(fresh_database, before + 6)
        assert await clean_end(service) == 0
    ((longest,),) = fetch(
        fresh_database,
        "SELECT max(step) FROM (SELECT timestamp - lag(timestamp) OVER (ORDER BY id) AS step"
        " FROM portfolio_greeks) AS steps",
    )
    assert longest.total_seconds() < POST_TIMEOUT_S, "a row waited for the post"


async def test_an_end_that_nobody_wanted_calls_a_person(
    tmp_path: Path, fresh_database: str
) -> None:
    no_certificate = tmp_path / "ca.pem"
    no_certificate.write_text("none")
    async with (
        open_receiver() as receiver,
        running_service(
            tmp_path,
            IB_API_MODE="PORTAL",
            IBKR_GATEWAY_URL="https://127.0.0.1:9",
            IBKR_CA_FILE=no_certificate,
            DATABASE_URL=fresh_database,
            BRIDGE_ALERT_URL=receiver.url(),
        ) as service,
    ):
        assert await service.wait() == 2
    assert f"IBKR_CA_FILE={no_certificate}" in service.output
    assert "the service ended without being asked to" in receiver.text


async def test_good_news_after_a_restart_follows_bad_news_before_it(
    tmp_path: Path, fresh_database: str
) -> None:
    """The new process knows nothing of what the old one said; its receiver remembers."""
    async with open_receiver() as receiver, open_tws_simulator(make_book()) as sim:
        settings: dict[str, Any] = {
            "IB_SOCKET_PORT": sim.port,
            "DATABASE_URL": fresh_database,
            "BRIDGE_ALERT_URL": receiver.url(),
            **FAST,
        }
        option = sim.book.market.options()[0].con_id
        sim.book.market.override(option, delta=40.0)
        async with running_service(tmp_path, **settings) as service:
            await receiver.wait_for(RowsPartial.kind)
            service.interrupt(signal.SIGKILL)
            await service.wait()
        assert RowsBegun.kind not in receiver.text
        sim.book.market.override(option)
        async with running_service(tmp_path, **settings) as service:
            await receiver.wait_for(RowsBegun.kind)
            assert await clean_end(service) == 0
    told = [one["kind"] for post in receiver.posts for one in post["events"]]
    assert [kind for kind in told if kind in ROWS][-1] == RowsBegun.kind


async def clean_end(service: ServiceProcess) -> int:
    service.interrupt()
    return await service.wait()
