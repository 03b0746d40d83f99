"""`status` tells how things are, from whatever can be reached, and its exit code sums it up."""

from __future__ import annotations

import signal
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import orjson
import pytest
import trio

from tests.support.command import run_command, run_process
from tests.support.database import wait_for_rows
from tests.support.process import PATIENCE_S, running_service
from tests.support.receiver import open_receiver
from tests.support.rows import event, row_as_read, snapshot
from trio_bridge.commands import status as status_module
from trio_bridge.delivery.breaker import BreakerState
from trio_bridge.model import ApiMode, Defect, Verdict
from trio_bridge.rows import EventRow, PortfolioRow
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import open_tws_simulator
from trio_bridge.status import (
    BridgeStatus,
    GatewayStatus,
    RecorderStatus,
    StorageStatus,
    TickerView,
    from_json,
)
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.record import record_of
from trio_bridge.tasks.supervisor import State
from trio_bridge.text import size

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from trio_bridge.config import Settings
    from trio_bridge.model import Snapshot


def a_status(
    verdict: Verdict = Verdict.PARTIAL,
    silent_because: str | None = None,
    recorder: RecorderStatus | None = None,
) -> BridgeStatus:
    now = datetime.now(UTC)
    row = row_as_read(
        PortfolioRow,
        timestamp=now - timedelta(seconds=2),
        account="DU1",
        delta=1234.5,
        gamma=0.5,
        vega=-3.25,
        theta=12.0,
        underlying_price=100.25,
        positions=3,
        priced=2,
        greeks_age_s=0.0,
        data_type="live",
    )
    return BridgeStatus(
        version="9.9.9",
        pid=4242,
        at=now,
        started_at=now - timedelta(hours=3, minutes=20),
        api_mode=ApiMode.SOCKET,
        interval_s=5.0,
        verdict=verdict,
        defects=(Defect("SPX 260116C05000000", "refused", "not subscribed"),),
        gateway=GatewayStatus("127.0.0.1:4001", State.CONNECTED, "", now, 1, 0.001),
        ticker=TickerView(2400, 1, silent_because, row, ("U1",)),
        recorder=recorder or RecorderStatus("pi:7-cd56", False, False, 0, None),
        storage=StorageStatus(
            "localhost:5432/x", BreakerState.OPEN, "/spool", 700, 2, 2398, 3, 4, 5
        ),
        events=(
            row_as_read(
                EventRow,
                timestamp=now,
                api_mode="SOCKET",
                status="warning",
                message="something happened",
            ),
        ),
    )


async def fill(conninfo: str, *, last: datetime, rows: int = 12, right: int | None = None) -> None:
    """Rows five seconds apart up to `last`, and two events; the first ones without Greeks."""
    store = PostgresStore(conninfo)
    await store.ensure_schema()
    records = []
    for number in range(rows):
        one = snapshot(number, last - timedelta(seconds=5 * (rows - 1 - number)))
        if right is not None and number >= right:
            one = without_greeks(one)
        records.append(record_of(one))
    records += [record_of(event("older", last)), record_of(event("newer", last))]
    await store.write(records)
    await store.aclose()


def without_greeks(row: Snapshot) -> Snapshot:
    return replace(row, delta=None, gamma=None, vega=None, theta=None, priced=0, data_type=None)


def test_a_gamma_of_coarse_texts_shows_how_coarse() -> None:
    row = a_status().ticker.last
    assert row is not None
    assert status_module.numbers_of(row) == (
        "delta 1,234.50 gamma 0.50 vega -3.25 theta 12.00, underlying 100.25"
    )
    assert status_module.numbers_of(replace(row, gamma_error=0.1, currency="EUR")) == (
        "delta 1,234.50 gamma 0.50±0.10 vega -3.25 theta 12.00 EUR, underlying 100.25"
    )


def test_the_status_survives_its_json() -> None:
    status = a_status()
    assert from_json(orjson.dumps(status)) == status


async def test_from_the_database_when_there_is_nothing_else(
    tmp_path: Path, fresh_database: str
) -> None:
    await fill(fresh_database, last=datetime.now(UTC))
    done = await run_process(tmp_path, "status", DATABASE_URL=fresh_database)
    assert done.code == 0, done
    verdict, service, last_row, greeks, *lines = done.out.splitlines()
    assert verdict == "verdict   complete"
    assert service.startswith("service   none is recording")
    assert last_row.startswith("last row  ")
    assert "3 of 3 priced, live" in last_row
    assert "delta 11.00" in greeks
    assert "coverage" in done.out
    assert "% of the last" in done.out
    assert lines[-2].endswith("info: older")
    assert lines[-1].endswith("info: newer")
    assert "\x1b" not in done.out


async def test_old_rows_are_not_well(tmp_path: Path, fresh_database: str) -> None:
    await fill(fresh_database, last=datetime.now(UTC) - timedelta(minutes=10))
    done = await run_command(tmp_path, "status", "--json", DATABASE_URL=fresh_database)
    assert done.code == 1
    assert done.json["well"] is False
    assert done.json["verdict"] == "blind"
    assert done.json["database"]["rows"] == 12
    assert done.json["database"]["coverage"] < 0.2


async def test_what_another_program_wrote_may_not_say_how_many_are_priced(
    tmp_path: Path, fresh_database: str
) -> None:
    await fill(fresh_database, last=datetime.now(UTC))
    async with await TrioConnection.connect(fresh_database, autocommit=True) as connection:
        await connection.execute("UPDATE portfolio_greeks SET priced = NULL")
    for command in (["status"], ["tail", "--no-follow"]):
        done = await run_command(tmp_path, *command, DATABASE_URL=fresh_database)
        assert done.code == 0
        assert "None" not in done.out


async def test_a_gap_at_the_beginning_of_the_day_counts(
    tmp_path: Path, fresh_database: str
) -> None:
    now = datetime.now(UTC)
    await fill(fresh_database, last=now - timedelta(hours=25))
    await fill(fresh_database, last=now, rows=720)
    done = await run_command(tmp_path, "status", DATABASE_URL=fresh_database)
    assert "4.1% of the last 1 d 0 h have a valid row" in done.out


async def test_rows_without_greeks_are_not_well(tmp_path: Path, fresh_database: str) -> None:
    await fill(fresh_database, last=datetime.now(UTC), rows=12, right=6)
    done = await run_command(tmp_path, "status", "--json", DATABASE_URL=fresh_database)
    assert done.code == 1
    assert done.json["database"]["right"] == 6
    assert done.json["database"]["last"]["delta"] is None


async def test_nothing_to_be_reached_is_said_part_by_part(tmp_path: Path) -> None:
    done = await run_command(
        tmp_path,
        "status",
        DATABASE_URL="postgresql://u:the-password@127.0.0.1:1/d",
        BRIDGE_STATUS_PORT=1,
    )
    assert done.code == 1
    assert "no answer from http://127.0.0.1:1/api/status" in done.out
    assert "127.0.0.1:1/d: connection" in done.out
    assert ".portfolio_bridge_buffer.jsonl: empty" in done.out
    assert "the-password" not in done.out


async def test_an_endpoint_that_cannot_be_asked_is_no_reason_to_fail(tmp_path: Path) -> None:
    done = await run_command(
        tmp_path,
        "status",
        DATABASE_URL="postgresql://127.0.0.1:1/d",
        BRIDGE_STATUS_HOST="[::1",
        BRIDGE_STATUS_PORT=8650,
        BRIDGE_STATUS_TOKEN="q8-Zk$2v!hL0_xW7",
    )
    assert "no answer from http://[[::1]:8650/api/status" in done.out


async def test_a_running_service_is_asked_itself(tmp_path: Path) -> None:
    async with open_receiver() as receiver:
        receiver.body = orjson.dumps(a_status())
        done = await run_command(
            tmp_path,
            "status",
            DATABASE_URL="postgresql://127.0.0.1:1/d",
            BRIDGE_STATUS_PORT=receiver.port,
            BRIDGE_STATUS_TOKEN="sesame-sesame-sesame",
        )
    assert receiver.targets == ["/api/status"]
    assert receiver.authorizations == ["Bearer sesame-sesame-sesame"]
    assert done.code == 1, done
    assert done.out.startswith("verdict   partial\n")
    assert "SPX 260116C05000000 (refused: not subscribed)\n" in done.out
    assert "trio_bridge 9.9.9, process 4242, up for 3 h 20 min" in done.out
    assert "connected 127.0.0.1:4001 since" in done.out
    assert "2,400 rows taken, 1 slot skipped" in done.out
    assert "circuit   OPEN" in done.out
    assert "2 rows not safe yet" in done.out
    assert "4 quarantined, 5 dropped" in done.out
    assert "2 of 3 priced" in done.out
    assert "warning: something happened" in done.out


@pytest.mark.parametrize(
    ("verdict", "ready", "code"),
    [
        (Verdict.COMPLETE, "complete", 0),
        (Verdict.STALE, "complete", 1),
        (Verdict.STALE, "stale", 0),
        (Verdict.PARTIAL, "stale", 1),
        (Verdict.PARTIAL, "partial", 0),
        (Verdict.BLIND, "partial", 1),
    ],
)
async def test_how_good_a_row_must_be_is_the_users_to_say(
    tmp_path: Path, verdict: Verdict, ready: str, code: int
) -> None:
    async with open_receiver() as receiver:
        receiver.body = orjson.dumps(a_status(verdict))
        done = await run_command(
            tmp_path,
            "status",
            "--json",
            DATABASE_URL="postgresql://127.0.0.1:1/d",
            BRIDGE_STATUS_PORT=receiver.port,
            BRIDGE_READY=ready,
        )
    assert (done.code, done.json["well"], done.json["verdict"]) == (code, not code, verdict)
    assert done.json["service"]["defects"] == [
        {"contract": "SPX 260116C05000000", "state": "refused", "reason": "not subscribed"}
    ]


async def test_a_database_that_is_waited_for_does_not_make_the_last_row_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def ask_service(settings: Settings) -> BridgeStatus:
        asked.append("service")
        return a_status()

    async def read_summary(conninfo: str, **_: object) -> None:
        asked.append("database")
        await trio.sleep(1)

    monkeypatch.setattr(status_module, "DATABASE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(status_module, "ask_service", ask_service)
    monkeypatch.setattr(status_module, "read_summary", read_summary)
    done = await run_command(tmp_path, "status", DATABASE_URL="postgresql://127.0.0.1:1/d")
    assert "no answer within 0.1 s" in done.out
    assert asked == ["database", "service"]


async def test_only_so_many_events_as_asked_for_and_the_latest(tmp_path: Path) -> None:
    status = a_status()
    events = tuple(
        row_as_read(EventRow, timestamp=status.at, status="info", message=f"number {n}")
        for n in range(4)
    )
    async with open_receiver() as receiver:
        receiver.body = orjson.dumps(replace(status, events=events))
        for wanted in (0, 2):
            done = await run_command(
                tmp_path, "status", f"--events={wanted}", BRIDGE_STATUS_PORT=receiver.port
            )
            shown = [line[-8:] for line in done.out.splitlines() if "number" in line]
            assert shown == ["number 2", "number 3"][2 - wanted :]


async def test_a_run_of_attempts_to_connect_is_one_line(
    tmp_path: Path, fresh_database: str
) -> None:
    at = datetime.now(UTC)
    store = PostgresStore(fresh_database)
    await store.ensure_schema()
    tries = [
        event(f"attempt {n}", at + timedelta(seconds=n), "gateway.reconnecting")
        for n in range(1, 51)
    ]
    await store.write([record_of(one) for one in [event("before", at), *tries]])
    await store.aclose()
    done = await run_command(tmp_path, "status", "--events=5", DATABASE_URL=fresh_database)
    shown = [line.partition("info: ")[2] for line in done.out.splitlines() if "info:" in line]
    assert shown == ["before", "attempt 50 (50 times)"]


async def test_a_service_without_rows_is_not_well_and_says_why(tmp_path: Path) -> None:
    async with open_receiver() as receiver:
        receiver.body = orjson.dumps(
            a_status(Verdict.BLIND, "the positions are still being downloaded")
        )
        done = await run_command(tmp_path, "status", BRIDGE_STATUS_PORT=receiver.port)
    assert done.code == 1
    assert "no rows   the positions are still being downloaded" in done.out


@pytest.mark.parametrize(
    ("recorder", "verdict", "lines"),
    [
        (RecorderStatus("pi:7-cd56", False, False, 0, None), Verdict.COMPLETE, ["pi:7-cd56"]),
        (
            RecorderStatus("pi:7-cd56", False, False, 0, "nas:12-ab34"),
            Verdict.COMPLETE,
            ["pi:7-cd56", "nas:12-ab34"],
        ),
        (
            RecorderStatus("pi:7-cd56 (standby)", True, True, 0, "nas:12-ab34"),
            Verdict.STANDBY,
            ["nas:12-ab34"],
        ),
        (
            RecorderStatus("pi:7-cd56 (standby)", True, False, 1, None),
            Verdict.COMPLETE,
            ["pi:7-cd56 (standby)"],
        ),
    ],
)
async def test_it_says_who_records(
    recorder: RecorderStatus, verdict: Verdict, lines: list[str], tmp_path: Path
) -> None:
    async with open_receiver() as receiver:
        receiver.body = orjson.dumps(a_status(verdict, recorder=recorder))
        done = await run_command(tmp_path, "status", BRIDGE_STATUS_PORT=receiver.port)
    assert done.code == 0, "a standby that rests is well"
    found = [line for line in done.out.splitlines() if line.startswith("recorder")]
    assert [line.removeprefix("recorder").strip() for line in found] == lines


async def test_an_endpoint_that_is_something_else_or_wants_another_token(tmp_path: Path) -> None:
    async with open_receiver() as receiver:
        receiver.body = b"<html>"
        done = await run_command(tmp_path, "status", BRIDGE_STATUS_PORT=receiver.port)
        assert "is not this bridge's" in done.out
        receiver.answers = [401]
        done = await run_command(tmp_path, "status", BRIDGE_STATUS_PORT=receiver.port)
        assert "wants another BRIDGE_STATUS_TOKEN" in done.out


async def test_beside_a_real_service(tmp_path: Path, fresh_database: str) -> None:
    async with (
        open_tws_simulator(make_book()) as sim,
        running_service(
            tmp_path, IB_SOCKET_PORT=sim.port, DATABASE_URL=fresh_database, BRIDGE_POLL_INTERVAL=1
        ) as service,
    ):
        await wait_for_rows(fresh_database, 3)
        done = await run_command(
            tmp_path, "status", DATABASE_URL=fresh_database, BRIDGE_POLL_INTERVAL=20
        )
    assert done.code == 0, done
    assert f"process {service.pid} is recording" in done.out
    assert "info: connected to 127.0.0.1" in done.out


async def test_a_real_service_with_an_endpoint_is_asked_by_status_and_by_check(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    """Also while its database is down: it knows best."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with open_tws_simulator(make_book()) as sim:
        settings = {
            "IB_SOCKET_PORT": sim.port,
            "DATABASE_URL": own_postgres.url,
            "BRIDGE_STATUS_PORT": port,
            "BRIDGE_STATUS_TOKEN": "sesame-sesame-sesame",
            "BRIDGE_POLL_INTERVAL": 5,
        }
        async with running_service(tmp_path, **settings) as service:
            await wait_for_rows(own_postgres.conninfo, 1)
            own_postgres.stop("immediate")
            done = await run_command(tmp_path, "status", **settings)
            assert done.code == 0, done
            assert f"process {service.pid}, up for" in done.out
            assert "priced, live" in done.out
            seen = len(sim.transcript)
            checked = await run_command(tmp_path, "check", **settings)
            assert {one.client_id for one in list(sim.transcript)[seen:]} <= {10}
    assert checked.code == 1  # the database
    assert f"the service (process {service.pid}) is connected" in checked.out


async def test_rows_in_the_spool_are_counted(tmp_path: Path, own_postgres: PostgresServer) -> None:
    spool = tmp_path / ".portfolio_bridge_buffer.jsonl"
    own_postgres.stop()
    async with (
        open_tws_simulator(make_book()) as sim,
        running_service(
            tmp_path,
            IB_SOCKET_PORT=sim.port,
            DATABASE_URL=own_postgres.url,
            BRIDGE_POLL_INTERVAL=0.2,
        ) as service,
    ):
        await service.wait_for_output("database does not take rows")
        with trio.fail_after(PATIENCE_S):
            while len(spool.read_bytes().splitlines()) < 2:
                await trio.sleep(0.05)
        service.interrupt(signal.SIGSTOP)
        done = await run_command(tmp_path, "status", DATABASE_URL=own_postgres.url)
        waiting = spool.read_bytes()
    rows = len(waiting.splitlines())
    assert f"{rows} rows wait ({size(len(waiting))})" in done.out


async def test_a_row_from_the_future_is_an_error_and_not_fresh(
    tmp_path: Path, fresh_database: str
) -> None:
    await fill(fresh_database, last=datetime.now(UTC) + timedelta(hours=1, minutes=1))
    done = await run_command(tmp_path, "status", DATABASE_URL=fresh_database)
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[2].startswith("last row  1 h 0 min in the future (")
    assert any(
        line.startswith("error     the database holds a row from the future") for line in lines
    )
    done = await run_command(tmp_path, "status", "--json", DATABASE_URL=fresh_database)
    assert not done.json["well"]
    assert 3_600 < done.json["ahead_s"] < 3_700


async def test_a_clock_a_little_ahead_is_no_error(tmp_path: Path, fresh_database: str) -> None:
    await fill(fresh_database, last=datetime.now(UTC))
    done = await run_command(tmp_path, "status", "--json", DATABASE_URL=fresh_database)
    assert (done.code, done.json["ahead_s"]) == (0, 0.0)
