"""The service as a user meets it: real processes, a real gateway's protocol, a real database."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psutil
import pytest
import trio

from tests.support.command import run_command
from tests.support.database import count_rows, fetch, kinds, messages, wait_for_rows
from tests.support.process import (
    PATIENCE_S,
    ServiceProcess,
    clean_environment,
    descendants,
    postgres_below,
    running_service,
)
from tests.support.still import assert_true_row, hold_still
from trio_bridge.events.gateway import Connected, Reconnecting
from trio_bridge.events.service import ServiceStarted, ServiceStopped
from trio_bridge.policy.schedule import TOLERANCE
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import open_tws_simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Any

    from tests.support.postgres import PostgresServer
    from trio_bridge.events.event import Event

FAST: dict[str, Any] = {"BRIDGE_POLL_INTERVAL": 0.2, "BRIDGE_RECONNECT_BACKOFF": "0.2"}


def first_of(event: type[Event], conninfo: str) -> str:
    """What the first event of this kind says; a busy machine puts others before it."""
    texts = fetch(
        conninfo, "SELECT message FROM api_logs WHERE kind = %s ORDER BY id LIMIT 1", (event.kind,)
    )
    return str(texts[0][0])


async def test_rows_are_true_complete_and_on_the_grid(tmp_path: Path, fresh_database: str) -> None:
    book = make_book(accounts=2)
    async with (
        open_tws_simulator(book) as sim,
        running_service(
            tmp_path,
            IB_SOCKET_PORT=sim.port,
            DATABASE_URL=fresh_database,
            BRIDGE_POLL_INTERVAL=0.5,
        ),
    ):
        await wait_for_rows(fresh_database, 4)
        await hold_still(book, sim, fresh_database)
        before = count_rows(fresh_database)
        await wait_for_rows(fresh_database, before + 2)
        assert_true_row(book, fresh_database)
    rows = fetch(fresh_database, "SELECT timestamp, late_s FROM portfolio_greeks ORDER BY id")
    slots = [at.timestamp() / 0.5 for at, _ in rows]
    assert all(slot % 1 == 0 for slot in slots)
    assert slots == sorted({*slots})
    # The exact figures are scripts/bench's.
    assert all(0 <= late_s <= TOLERANCE * 0.5 for _, late_s in rows)
    started = first_of(ServiceStarted, fresh_database)
    assert "has started: SOCKET mode, a row every 0.5 s" in started
    assert "connected to 127.0.0.1" in first_of(Connected, fresh_database)


@pytest.fixture(params=["a full disk", "a reader that has gone", "a reader that reads nothing"])
def useless_log(request: pytest.FixtureRequest) -> Iterator[int]:
    """A file descriptor that takes no text."""
    with ExitStack() as stack:
        if request.param == "a full disk":
            if not Path("/dev/full").exists():
                pytest.skip("only Linux has a disk that is always full")
            log = os.open("/dev/full", os.O_WRONLY)
        else:
            reader, log = os.pipe()
            if request.param == "a reader that has gone":
                os.close(reader)
            else:
                stack.callback(os.close, reader)
                os.set_blocking(log, False)
                with suppress(BlockingIOError):
                    while True:
                        os.write(log, b"x")
                os.set_blocking(log, True)
        stack.callback(os.close, log)
        yield log


async def test_rows_are_recorded_although_the_log_takes_nothing(
    tmp_path: Path, fresh_database: str, useless_log: int
) -> None:
    async with open_tws_simulator(make_book()) as sim:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trio_bridge"],
            cwd=tmp_path,
            env=clean_environment(
                tmp_path, IB_SOCKET_PORT=sim.port, DATABASE_URL=fresh_database, **FAST
            ),
            stdin=subprocess.DEVNULL,
            stdout=useless_log,
            stderr=useless_log,
        )
        try:
            await wait_for_rows(fresh_database, 3)
            process.send_signal(signal.SIGINT)
            with trio.fail_after(PATIENCE_S):
                assert await process.wait() == 0
        finally:
            process.kill()


async def test_waits_for_a_gateway_that_comes_later(tmp_path: Path, fresh_database: str) -> None:
    async with open_tws_simulator(make_book()) as sim:
        sim.stop_listening()
        async with running_service(
            tmp_path, IB_SOCKET_PORT=sim.port, DATABASE_URL=fresh_database, **FAST
        ) as service:
            await service.wait_for_output("reconnect attempt 2")
            assert count_rows(fresh_database) == 0
            await sim.start_listening()
            await wait_for_rows(fresh_database, 3)
    attempt = first_of(Reconnecting, fresh_database)
    assert attempt.startswith("reconnect attempt 1 in 0.2 s: connection refused")


async def test_waits_for_a_database_that_comes_later(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    own_postgres.stop()
    async with (
        open_tws_simulator(make_book()) as sim,
        running_service(
            tmp_path,
            IB_SOCKET_PORT=sim.port,
            DATABASE_URL=own_postgres.url,
            BRIDGE_FLUSH_INTERVAL=1,
            **FAST,
        ) as service,
    ):
        await service.wait_for_output("CLOSED → OPEN")
        await trio.to_thread.run_sync(own_postgres.start)
        await wait_for_rows(own_postgres.conninfo, 8)
        assert service.process.returncode is None
    assert service.output.count("database does not take rows") <= 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_ends_cleanly_and_says_goodbye(
    number: signal.Signals, tmp_path: Path, fresh_database: str
) -> None:
    async with (
        open_tws_simulator(make_book()) as sim,
        running_service(
            tmp_path, IB_SOCKET_PORT=sim.port, DATABASE_URL=fresh_database, **FAST
        ) as service,
    ):
        await wait_for_rows(fresh_database, 2)
        service.interrupt(number)
        assert await service.wait() == 0
        assert sim.sessions == []
    assert "Traceback" not in service.output
    # A database that is too busy for the last rows leaves them in the spool, which is as safe.
    assert (await run_command(tmp_path, "flush", DATABASE_URL=fresh_database)).code == 0
    assert kinds(fresh_database)[-1] == ServiceStopped.kind


async def test_under_nohup_a_closed_terminal_ends_nothing(
    tmp_path: Path, fresh_database: str
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a child inherits that
    try:
        async with (
            open_tws_simulator(make_book()) as sim,
            running_service(
                tmp_path, IB_SOCKET_PORT=sim.port, DATABASE_URL=fresh_database, **FAST
            ) as service,
        ):
            await wait_for_rows(fresh_database, 1)
            service.interrupt(signal.SIGHUP)
            await wait_for_rows(fresh_database, count_rows(fresh_database) + 5)
            service.interrupt()
            assert await service.wait() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_the_last_rows_are_safe_although_the_database_is_frozen(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    async with open_tws_simulator(make_book()) as sim:
        settings = {"IB_SOCKET_PORT": sim.port, "DATABASE_URL": own_postgres.url, **FAST}
        async with running_service(tmp_path, **settings) as service:
            await wait_for_rows(own_postgres.conninfo, 2)
            own_postgres.freeze()
            await trio.sleep(1)
            service.interrupt()
            assert await service.wait() == 0  # 3 s, on an idle machine
        own_postgres.thaw()
        assert (tmp_path / ".portfolio_bridge_buffer.jsonl").stat().st_size > 0
        async with running_service(tmp_path, **settings) as service:
            rows = count_rows(own_postgres.conninfo)
            await wait_for_rows(own_postgres.conninfo, rows + 5)
            service.interrupt()
            assert await service.wait() == 0
    flushed = await run_command(tmp_path, "flush", DATABASE_URL=own_postgres.url)
    assert flushed.code == 0, flushed
    in_order = fetch(
        own_postgres.conninfo,
        "SELECT bool_and(later) FROM (SELECT timestamp > lag(timestamp) OVER (ORDER BY id)"
        " AS later FROM portfolio_greeks) AS steps WHERE later IS NOT NULL",
    )
    assert in_order == [(True,)]
    assert ServiceStopped.kind in kinds(own_postgres.conninfo)


@asynccontextmanager
async def on_a_fresh_machine(home: Path) -> AsyncIterator[tuple[ServiceProcess, str]]:
    """A service with an empty home and nothing configured but the port; its own database."""
    with TemporaryDirectory() as room:
        # As root the server runs as another account, which must be able to get here.
        Path(room).chmod(0o755)
        async with (
            open_tws_simulator(make_book()) as sim,
            running_service(
                home,
                IB_SOCKET_PORT=sim.port,
                BRIDGE_EMBEDDED_DIR=f"{room}/postgres",
                BRIDGE_FLUSH_INTERVAL=1,
                **FAST,
            ) as service,
        ):
            await service.wait_for_output("recording")
            found = re.search(r"database=(\S+):5432/", service.output)
            assert found is not None
            yield service, f"host={found[1]} dbname=portfolio_engine user=portfolio"


async def test_a_fresh_machine_needs_no_settings_at_all(tmp_path: Path) -> None:
    async with on_a_fresh_machine(tmp_path) as (service, conninfo):
        await wait_for_rows(conninfo, 3)
        assert postgres_below(service.pid)
        servers = descendants(service.pid)
        service.interrupt()
        assert await service.wait() == 0
        _, alive = psutil.wait_procs(servers, timeout=10)
        assert alive == []
    assert "Traceback" not in service.output


async def test_the_embedded_server_is_brought_back_and_the_event_recorded(tmp_path: Path) -> None:
    async with on_a_fresh_machine(tmp_path) as (service, conninfo):
        await wait_for_rows(conninfo, 3)
        before = count_rows(conninfo)
        for process in postgres_below(service.pid):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        await wait_for_rows(conninfo, before + 5)
        assert any("PostgreSQL" in text for text in messages(conninfo))
        service.interrupt()
        assert await service.wait() == 0


BAD_SETTINGS = [
    ({"IB_CLIENT_ID": "0"}, "IB_CLIENT_ID=0"),
    ({"BRIDGE_POLL_INTERVAL": "-1"}, "BRIDGE_POLL_INTERVAL=-1: must be 0.1 or more"),
    ({"BRIDGE_POLL_INTERVAL": "soon"}, "BRIDGE_POLL_INTERVAL=soon: must be a number"),
    ({"IB_SOCKET_PORT": "99999"}, "IB_SOCKET_PORT=99999"),
    ({"DATABASE_URL": "postgresql://u:sesame@host:99999/db"}, "DATABASE_URL"),
    ({"DATABASE_URL": "mysql://u:sesame@host/db"}, "DATABASE_URL"),
    ({"DATABASE_URL": "postgresql://u:sesame@[host/db"}, "DATABASE_URL"),
    ({"DATABASE_URL": "sesame"}, "DATABASE_URL"),
    ({"BRIDGE_RESET_WINDOWS": "midnight"}, "BRIDGE_RESET_WINDOWS=midnight"),
]


@pytest.mark.parametrize(("settings", "said"), BAD_SETTINGS)
async def test_bad_settings_end_in_one_line(
    settings: dict[str, str], said: str, tmp_path: Path
) -> None:
    # A command that needs settings and database as the service does, and no process of its own.
    done = await run_command(tmp_path, "tail", "--no-follow", **settings)
    assert done.code == 2
    assert_one_line(done.err, said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"IB_API_MODE": "TELEPATHY"}, "IB_API_MODE=TELEPATHY: must be SOCKET or PORTAL"),
        ({"DATABASE_URL": "postgresql://u:sesame@host:99999/db"}, "DATABASE_URL"),
        ({"BRIDGE_BUFFER_PATH": "/proc/nowhere/buffer.jsonl"}, "BRIDGE_BUFFER_PATH=/proc/nowhere"),
    ],
)
async def test_a_service_that_cannot_start_ends_in_one_line(
    settings: dict[str, str], said: str, tmp_path: Path
) -> None:
    async with running_service(tmp_path, **settings) as service:
        assert await service.wait() == 2
    assert_one_line(service.output, said)


def assert_one_line(output: str, said: str) -> None:
    assert len(output.splitlines()) == 1
    assert output.startswith("trio_bridge: ")
    assert said in output
    assert "sesame" not in output.replace("DATABASE_URL", "")


async def test_an_unknown_account_is_answered_with_the_known_ones(
    tmp_path: Path, fresh_database: str
) -> None:
    async with (
        open_tws_simulator(make_book(accounts=2)) as sim,
        running_service(
            tmp_path, IB_SOCKET_PORT=sim.port, DATABASE_URL=fresh_database, IB_ACCOUNT="U7"
        ) as service,
    ):
        await service.wait_for_output("reconnect attempt")
        service.interrupt()
        assert await service.wait() == 0
    assert "IB_ACCOUNT=U7: this login does not manage U7; it manages DU" in service.output
    assert "trying for 180 s" in service.output
    assert "Traceback" not in service.output


async def test_an_unknown_account_ends_the_service_when_its_time_is_up(
    tmp_path: Path, fresh_database: str
) -> None:
    # Python runs this file first: one second instead of three minutes.
    (tmp_path / "sitecustomize.py").write_text(
        "from trio_bridge.tasks import supervisor\nsupervisor.ACCOUNTS_PATIENCE_S = 1.0\n"
    )
    async with (
        open_tws_simulator(make_book(accounts=2)) as sim,
        running_service(
            tmp_path,
            IB_SOCKET_PORT=sim.port,
            DATABASE_URL=fresh_database,
            IB_ACCOUNT="U7",
            BRIDGE_RECONNECT_BACKOFF=0.3,
            PYTHONPATH=tmp_path,
        ) as service,
    ):
        assert await service.wait() == 2
    last = service.output.splitlines()[-1]
    assert last.startswith("trio_bridge: IB_ACCOUNT=U7: this login does not manage U7; it manages ")
    assert "trying for 1 s" in service.output
    assert "Traceback" not in service.output


async def test_a_second_service_on_the_same_buffer_is_turned_away(
    tmp_path: Path, fresh_database: str
) -> None:
    async with open_tws_simulator(make_book()) as sim:
        settings = {"IB_SOCKET_PORT": sim.port, "DATABASE_URL": fresh_database, **FAST}
        async with running_service(tmp_path, **settings):
            await wait_for_rows(fresh_database, 1)
            async with running_service(tmp_path, **settings, IB_CLIENT_ID=11) as second:
                assert await second.wait() == 2
            assert "BRIDGE_BUFFER_PATH" in second.output
            rows = count_rows(fresh_database)
            await wait_for_rows(fresh_database, rows + 2)
