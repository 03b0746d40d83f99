"""`tail` shows what lands, in the order of its time, through outages."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.command import run_command, run_process
from tests.support.process import running_service
from tests.support.rows import event, snapshot
from trio_bridge.stores.postgres import PostgresStore
from trio_bridge.stores.record import record_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from trio_bridge.model import ApiEvent, Snapshot

AT = datetime(2026, 1, 2, 14, 30, tzinfo=UTC)


async def write(conninfo: str, *items: Snapshot | ApiEvent) -> None:
    store = PostgresStore(conninfo)
    await store.ensure_schema()
    await store.write([record_of(item) for item in items])
    await store.aclose()


@pytest.fixture
async def filled(fresh_database: str) -> str:
    """Twenty rows, and an event between the last two."""
    await write(
        fresh_database,
        *(snapshot(number, AT + timedelta(seconds=5 * number)) for number in range(20)),
        event("between", AT + timedelta(seconds=92)),
    )
    return fresh_database


async def test_the_last_ones_in_columns_that_fit_a_terminal(tmp_path: Path, filled: str) -> None:
    done = await run_process(tmp_path, "tail", "-n", "3", "--no-follow", DATABASE_URL=filled)
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert lines[0] == "2026-01-02"
    assert " ".join(lines[1].split()) == "UTC delta gamma vega theta underlying priced"
    assert [line[:8] for line in lines[2:]] == ["14:31:25", "14:31:30", "14:31:32", "14:31:35"]
    assert lines[2].split()[1:] == ["17.00", "0.50", "-3.25", "12.00", "100.25", "3/3"]
    assert lines[4] == "14:31:32 info: between"
    assert max(map(len, lines)) < 80
    assert "\x1b" not in done.out


async def test_as_json_lines(tmp_path: Path, filled: str) -> None:
    done = await run_command(
        tmp_path, "tail", "-n", "1", "--no-follow", "--json", DATABASE_URL=filled
    )
    first, second = (json.loads(line) for line in done.out.splitlines())
    assert first["message"] == "between"
    assert second["delta"] == 19.0
    assert second["timestamp"] == "2026-01-02T14:31:35+00:00"


async def test_rows_alone(tmp_path: Path, filled: str) -> None:
    done = await run_command(tmp_path, "tail", "--no-events", "--no-follow", DATABASE_URL=filled)
    assert "between" not in done.out
    assert len(done.out.splitlines()) == 2 + 10


async def test_it_follows_through_an_outage_until_interrupted(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    await write(own_postgres.conninfo, snapshot(1, AT))
    async with running_service(tmp_path, "tail", DATABASE_URL=own_postgres.url) as tail:
        await tail.wait_for_output("1.00")
        await trio.to_thread.run_sync(own_postgres.stop, "immediate")
        await tail.wait_for_output("; trying again")
        await trio.to_thread.run_sync(own_postgres.start)
        await write(own_postgres.conninfo, snapshot(77, AT + timedelta(seconds=5)))
        await tail.wait_for_output("77.00")
        tail.interrupt()
        assert await tail.wait() == 130
    assert "Traceback" not in tail.output
    assert tail.output.count("  1.00 ") == 1


async def test_without_following_an_outage_is_one_line(tmp_path: Path) -> None:
    done = await run_command(
        tmp_path, "tail", "--no-follow", DATABASE_URL="postgresql://127.0.0.1:1/d"
    )
    assert done.code == 1
    assert done.err.startswith("trio_bridge: ")
    assert done.err.count("\n") == 1


async def test_without_a_database_the_remedy_is_named(tmp_path: Path) -> None:
    done = await run_command(tmp_path, "tail")
    assert done.code == 2
    assert "does not run: start the service" in done.err
