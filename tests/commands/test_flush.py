"""`flush` brings the spool in, once, in order, and never beside a service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.command import run_command, run_process
from tests.support.database import fetch
from tests.support.process import running_service
from tests.support.rows import record
from trio_bridge.commands.flush import flush
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.record import encode_line
from trio_bridge.stores.spool.fake_disk import FakeDisk
from trio_bridge.stores.spool.spool import Spool

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.support.postgres import PostgresServer

ROWS = 2_500


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A spool of an earlier run, where a service looks for it."""
    path = tmp_path / ".portfolio_bridge_buffer.jsonl"
    path.write_bytes(b"".join(encode_line(record(number)) for number in range(ROWS)))
    return path


async def test_everything_gets_in_once_and_in_order(
    tmp_path: Path, spool: Path, fresh_database: str
) -> None:
    done = await run_process(tmp_path, "flush", DATABASE_URL=fresh_database)
    assert done.code == 0, done
    assert done.out.startswith("2,500 rows replayed into 127.0.0.1:")
    assert "missing" not in done.err  # a new database is no trouble
    assert spool.stat().st_size == 0
    landed = fetch(fresh_database, "SELECT delta FROM portfolio_greeks ORDER BY id")
    assert landed == [(float(number),) for number in range(ROWS)]
    again = await run_command(tmp_path, "flush", DATABASE_URL=fresh_database)
    assert again.code == 0
    assert again.err == ""
    assert again.out == f"nothing to do: {spool} is empty\n"


async def test_tables_may_take_minutes_to_complete(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    class LargeTables(FakeStore):
        async def ensure_schema(self) -> None:
            await trio.sleep(300)
            await super().ensure_schema()

    path = Path("/state/buffer.jsonl")
    disk = FakeDisk()
    disk.put(path, encode_line(record(1)))
    store = LargeTables()
    store.drop_schema()
    assert await flush(await Spool.open(path, disk=disk), store, "a slow server")
    assert capsys.readouterr().out.endswith("1 row replayed into a slow server in 5 min\n")


async def test_what_cannot_be_stored_is_set_aside_and_said(
    tmp_path: Path, spool: Path, fresh_database: str
) -> None:
    with spool.open("ab") as file:
        file.write(b'{"table":"portfolio_greeks","row":{"torn\n' + encode_line(record(ROWS)))
    done = await run_command(tmp_path, "flush", DATABASE_URL=fresh_database)
    assert done.code == 0
    assert "2,501 rows replayed" in done.out
    assert "1 line could not be stored: see" in done.out
    assert (tmp_path / f"{spool.name}.quarantine.jsonl").exists()


async def test_a_database_that_is_away_leaves_the_rows_where_they_are(
    tmp_path: Path, spool: Path
) -> None:
    before = spool.read_bytes()
    done = await run_command(tmp_path, "flush", DATABASE_URL="postgresql://127.0.0.1:1/d")
    assert done.code == 1
    assert "stay in the spool, the database takes no more: 127.0.0.1:1/d:" in done.err
    assert spool.read_bytes() == before


async def test_it_refuses_beside_a_service_and_names_it(
    tmp_path: Path, spool: Path, own_postgres: PostgresServer
) -> None:
    own_postgres.stop()
    settings = {"DATABASE_URL": own_postgres.url, "IB_SOCKET_PORT": 1}
    async with running_service(tmp_path, **settings) as service:
        await service.wait_for_output("recording")
        done = await run_command(tmp_path, "flush", **settings)
        assert service.process.returncode is None
    assert done.code == 2
    assert f"is in use by process {service.pid}" in done.err
    assert done.err.count("\n") == 1


async def test_a_spool_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    done = await run_command(tmp_path, "flush", BRIDGE_BUFFER_PATH=tmp_path)
    assert done.code == 2
    assert done.err.startswith(f"trio_bridge: BRIDGE_BUFFER_PATH={tmp_path}: ")
    assert done.err.count("\n") == 1
