"""`tail` shows what lands, in the order of its time, through outages."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.command import run_command, run_process
from tests.support.process import running_service
from tests.support.rows import event, row_as_read, snapshot
from trio_bridge.commands import tail as tail_module
from trio_bridge.commands.tail import Screen, run_tail
from trio_bridge.config import load_settings
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.reading.landing import LandedEvent, LandedRow
from trio_bridge.stores.record import record_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from trio_bridge.model import Item

AT = datetime(2026, 1, 2, 14, 30, tzinfo=UTC)


async def write(conninfo: str, *items: Item) -> None:
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
    assert lines[0] == "2026-01-02 UTC"
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


async def test_without_following_a_frozen_database_is_one_line(
    tmp_path: Path, own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "LOOK_TIMEOUT_S", 0.5)
    own_postgres.freeze()
    done = await run_command(tmp_path, "tail", "--no-follow", DATABASE_URL=own_postgres.url)
    assert done.code == 1
    assert done.err == "trio_bridge: no answer from the database within 0.5 s\n"


async def test_without_a_database_the_remedy_is_named(tmp_path: Path) -> None:
    done = await run_command(tmp_path, "tail")
    assert done.code == 2
    assert "does not run: start the service" in done.err


def a_row(at: datetime, positions: int | None = 3) -> LandedRow:
    return row_as_read(
        LandedRow,
        id=1,
        timestamp=at,
        account="U1",
        delta=1.0,
        gamma=0.5,
        theta=12.0,
        underlying_price=100.25,
        positions=positions,
        priced=positions,
        greeks_age_s=0.0,
        data_type="live",
    )


def an_event(at: datetime) -> LandedEvent:
    return row_as_read(LandedEvent, id=1, timestamp=at, status="info", message="x")


def test_each_day_is_named_once_with_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(events=True, as_json=False)
    for days in (0, 0, 1):
        at = AT + timedelta(days=days)
        screen.show(
            [a_row(at)],
            [
                row_as_read(
                    LandedEvent,
                    id=1,
                    timestamp=at + timedelta(seconds=1),
                    status="info",
                    message="x",
                )
            ],
        )
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        *("2026-01-02", "UTC", "14:30:00", "14:30:01", "14:30:00", "14:30:01"),
        *("2026-01-03", "UTC", "14:30:00", "14:30:01"),
    ]


def test_a_run_of_attempts_to_connect_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ["gateway.lost", *["gateway.reconnecting"] * 30, "gateway.connected"]
    events = [
        row_as_read(
            LandedEvent,
            id=n,
            timestamp=AT + timedelta(seconds=n),
            status="info",
            message=f"number {n}",
            kind=kind,
        )
        for n, kind in enumerate(kinds)
    ]
    Screen(events=True, as_json=False).show([], events)
    shown = [line[15:] for line in capsys.readouterr().out.splitlines()[2:]]
    assert shown == ["number 0", "number 30 (30 times)", "number 31"]
    Screen(events=True, as_json=True).show([], events)
    assert len(capsys.readouterr().out.splitlines()) == 32


def test_what_is_not_known_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    """A row without vega; and one of an earlier system, which did not count positions."""
    Screen(events=True, as_json=False).show([a_row(AT, positions=None)], [])
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.split()[3:] == ["–", "12.00", "100.25", "–"]


def test_a_gamma_of_coarse_texts_shows_how_coarse(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (0.004, 0.1):
        row = replace(a_row(AT), gamma_error=error)
        Screen(events=True, as_json=False).show([row], [])
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.split()[2] == ("0.50" if error < 0.005 else "0.50±0.10")


async def test_a_frozen_database_is_said_and_waited_out(
    own_postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await write(own_postgres.conninfo, snapshot(1, AT))
    monkeypatch.setattr(tail_module, "RETRY_S", 0.1)
    settings = load_settings(database_url=own_postgres.url)
    said = ""

    async def until(text: str) -> None:
        nonlocal said
        with trio.fail_after(30):
            while text not in said:
                await trio.sleep(0.05)
                read = capsys.readouterr()
                said += read.out + read.err

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(run_tail, settings, lines=5, follow=True, events=True, as_json=False)
        )
        await until(" 1.00 ")
        monkeypatch.setattr(tail_module, "LOOK_TIMEOUT_S", 0.5)
        await trio.to_thread.run_sync(own_postgres.freeze)
        await until("no answer from the database within 0.5 s; trying again")
        await trio.to_thread.run_sync(own_postgres.thaw)
        monkeypatch.setattr(tail_module, "LOOK_TIMEOUT_S", 30.0)
        await write(own_postgres.conninfo, snapshot(77, AT + timedelta(seconds=5)))
        await until(" 77.00 ")
        nursery.cancel_scope.cancel()
    assert said.count(" 1.00 ") == 1
