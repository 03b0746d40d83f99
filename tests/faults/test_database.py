"""PostgreSQL stopped, killed, frozen, failed over, altered: no row lost, doubled, reordered."""

from __future__ import annotations

import random
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
    key_of,
    more_rows,
    stored,
)
from tests.support.command import run_command
from tests.support.database import count_rows, fetch, messages, wait_for_rows
from tests.support.pgbouncer import pgbouncer
from tests.support.process import PATIENCE_S
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import TwsSimulator, open_tws_simulator
from trio_bridge.stores.database.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.postgres import PostgresFactory, PostgresServer
    from tests.support.process import ServiceProcess

in_thread = trio.to_thread.run_sync

# How the log says it
CIRCUIT_OPENED = "failures in a row"
FLUSH_FAILED = "replay stopped"
CIRCUIT_CLOSED = "everything is replayed"


@pytest.fixture
async def gateway() -> AsyncIterator[TwsSimulator]:
    async with open_tws_simulator(make_book()) as sim:
        yield sim


async def say_goodbye(service: ServiceProcess) -> Run:
    service.interrupt()
    assert await service.wait() == 0, service.output[-2000:]
    assert "Traceback" not in service.output
    return Run(service.output)


async def wait_until_replayed(home: Path) -> None:
    """Wait until the spool has been emptied."""
    with trio.fail_after(PATIENCE_S):
        while (home / BUFFER).stat().st_size:
            await trio.sleep(0.05)


@pytest.mark.parametrize("until", ["row", CIRCUIT_OPENED, FLUSH_FAILED])
async def test_stopped_and_started_again(
    until: str, tmp_path: Path, own_postgres: PostgresServer, gateway: TwsSimulator
) -> None:
    """Down for a row or two, until the circuit opens, and until a flush has failed."""
    async with bridge(
        tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=own_postgres.url
    ) as service:
        await wait_for_rows(own_postgres.conninfo, 5)
        await in_thread(own_postgres.stop, "immediate")
        if until == "row":
            await more_rows(service, 2)
        else:
            await service.wait_for_output(until)
        await in_thread(own_postgres.start)
        await wait_for_rows(own_postgres.conninfo, count_rows(own_postgres.conninfo) + 20)
        run = await say_goodbye(service)
    await check(tmp_path / BUFFER, own_postgres.conninfo, [run], at_least=25)


async def test_down_at_the_start(
    tmp_path: Path, own_postgres: PostgresServer, gateway: TwsSimulator
) -> None:
    own_postgres.stop()
    async with bridge(
        tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=own_postgres.url
    ) as service:
        await service.wait_for_output(FLUSH_FAILED)
        await more_rows(service, 10)
        await in_thread(own_postgres.start)
        await service.wait_for_output(CIRCUIT_CLOSED)
        await wait_for_rows(own_postgres.conninfo, 25)
        run = await say_goodbye(service)
    await check(tmp_path / BUFFER, own_postgres.conninfo, [run], at_least=25)
    changes = [text for text in messages(own_postgres.conninfo) if "circuit" in text]
    assert "CLOSED → OPEN" in changes[0]
    assert any(text.startswith("database circuit HALF_OPEN → CLOSED") for text in changes)


async def test_killed_in_the_middle_of_a_replay(
    tmp_path: Path, own_postgres: PostgresServer, gateway: TwsSimulator
) -> None:
    backlog = write_backlog(tmp_path / BUFFER, rows=15_000)
    await slow_tables(own_postgres)
    async with bridge(
        tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=own_postgres.url
    ) as service:
        for _ in range(3):
            before = count_rows(own_postgres.conninfo)
            await wait_for_rows(own_postgres.conninfo, before + 1_000)
            await in_thread(own_postgres.kill)
            await in_thread(own_postgres.start)
            assert count_rows(own_postgres.conninfo) < len(backlog), "that was not the middle"
        own_postgres.execute("DROP TRIGGER slow ON portfolio_greeks")
        await wait_for_rows(own_postgres.conninfo, len(backlog) + 10)
        run = await say_goodbye(service)
    run.rows[:0] = backlog
    await check(tmp_path / BUFFER, own_postgres.conninfo, [run], at_least=len(backlog))


async def slow_tables(server: PostgresServer) -> None:
    """Tables that need a tenth of a second for a statement: it can be hit in the middle."""
    store = PostgresStore(server.conninfo)
    await store.ensure_schema()
    await store.aclose()
    server.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$"
    )
    server.execute("CREATE TRIGGER slow AFTER INSERT ON portfolio_greeks EXECUTE FUNCTION slow()")


async def test_failover_to_the_standby(
    tmp_path: Path, postgres_factory: PostgresFactory, gateway: TwsSimulator
) -> None:
    primary = postgres_factory.new()
    standby = postgres_factory.standby_of(primary)
    # What is acknowledged is on the standby: that is replication's promise here.
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'", database="postgres")
    primary.execute("SELECT pg_reload_conf()", database="postgres")
    url = (
        f"postgresql://portfolio@127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        "/portfolio_engine?target_session_attrs=read-write"
    )
    try:
        async with bridge(tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=url) as service:
            await wait_for_rows(primary.conninfo, 10)
            await in_thread(primary.kill)
            await trio.sleep(1)
            await in_thread(standby.promote)
            await wait_for_rows(standby.conninfo, 40)
            run = await say_goodbye(service)
        await check(tmp_path / BUFFER, standby.conninfo, [run], at_least=30)
    finally:
        primary.close()
        standby.close()


@pytest.mark.parametrize("rows", [40, pytest.param(150, marks=pytest.mark.long)])
async def test_frozen(
    rows: int, tmp_path: Path, own_postgres: PostgresServer, gateway: TwsSimulator
) -> None:
    """Ticks go on, each row is soon on disk, and late commits double nothing."""
    async with bridge(
        tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=own_postgres.url
    ) as service:
        await wait_for_rows(own_postgres.conninfo, 5)
        own_postgres.freeze()
        frozen_at = datetime.now(UTC)
        most_unsafe = taken = 0
        with trio.fail_after(PATIENCE_S):
            while taken < rows:
                await trio.sleep(0.1)
                taken, unsafe = rows_since(frozen_at, service, tmp_path)
                most_unsafe = max(most_unsafe, unsafe)
        own_postgres.thaw()
        await wait_until_replayed(tmp_path)
        run = await say_goodbye(service)
    assert most_unsafe <= 2 * ROWS_UNTIL_SAFE
    await check(tmp_path / BUFFER, own_postgres.conninfo, [run], at_least=rows)


def rows_since(frozen_at: datetime, service: ServiceProcess, home: Path) -> tuple[int, int]:
    """Rows taken since then, and those of them not in the spool (the database takes none)."""
    taken = [at for at in Run(service.output).rows if at > frozen_at]
    spooled = {
        datetime.fromisoformat(orjson.loads(line)["row"]["timestamp"])
        for line in (home / BUFFER).read_bytes().splitlines()
        if line.endswith(b"}")
    }
    return len(taken), len([at for at in taken if at not in spooled])


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE portfolio_greeks",
        "DROP TABLE api_logs",
        "ALTER TABLE portfolio_greeks DROP COLUMN event_id",
        "ALTER TABLE portfolio_greeks DROP COLUMN priced, DROP COLUMN vega",
        "DROP INDEX portfolio_greeks_event_key",
    ],
)
async def test_tables_dropped_or_altered_while_running(
    damage: str, tmp_path: Path, fresh_database: str, gateway: TwsSimulator
) -> None:
    import psycopg

    async with bridge(
        tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=fresh_database
    ) as service:
        await wait_for_rows(fresh_database, 3)
        name = await own_key(fresh_database)
        with psycopg.connect(fresh_database, autocommit=True) as connection:
            connection.execute(damage.replace("portfolio_greeks_event_key", name).encode())
        damaged_at = datetime.now(UTC)
        await wait_for_rows(fresh_database, 3)
        await more_rows(service, 5)
        run = await say_goodbye(service)
    flushed = await run_command(tmp_path, "flush", DATABASE_URL=fresh_database)
    assert flushed.code == 0, flushed
    stored = {at for (at,) in fetch(fresh_database, "SELECT timestamp FROM portfolio_greeks")}
    assert {at for at in run.rows if at > damaged_at} <= stored
    assert await own_key(fresh_database)


async def own_key(conninfo: str) -> str:
    """The name of the unique index on the events."""
    found = fetch(
        conninfo,
        "SELECT indexname FROM pg_indexes WHERE tablename = 'portfolio_greeks'"
        " AND indexdef LIKE '%%UNIQUE%%event_id%%'",
    )
    return str(found[0][0])


async def test_a_database_that_comes_and_goes_at_random(
    tmp_path: Path, own_postgres: PostgresServer, gateway: TwsSimulator
) -> None:
    rng = random.Random(3)
    async with bridge(
        tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=own_postgres.url
    ) as service:
        await wait_for_rows(own_postgres.conninfo, 3)
        for _ in range(6):
            await trio.sleep(rng.uniform(0.2, 1.2))
            if rng.random() < 0.5:
                await in_thread(own_postgres.kill)
                await trio.sleep(rng.uniform(0, 1))
                await in_thread(own_postgres.start)
            else:
                own_postgres.freeze()
                await trio.sleep(rng.uniform(0.1, 1.5))
                own_postgres.thaw()
        await wait_until_replayed(tmp_path)
        await wait_for_rows(own_postgres.conninfo, 40)
        run = await say_goodbye(service)
    await check(tmp_path / BUFFER, own_postgres.conninfo, [run], at_least=40)


def write_backlog(path: Path, *, rows: int) -> list[datetime]:
    """A spool as an earlier run of this bridge would have left it; returns its timestamps."""
    from tests.support.rows import record, snapshot
    from trio_bridge.stores.record import encode_line

    with path.open("wb") as spool:
        for number in range(rows):
            spool.write(encode_line(record(number)))
    return [snapshot(number).timestamp for number in range(rows)]


async def test_a_trigger_that_refuses_one_row_stops_no_other(
    tmp_path: Path, own_postgres: PostgresServer, gateway: TwsSimulator
) -> None:
    """Also one that speaks up only at the commit."""
    store = PostgresStore(own_postgres.conninfo)
    await store.ensure_schema()
    await store.aclose()
    own_postgres.execute("CREATE TABLE once (refused timestamptz)")
    own_postgres.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (SELECT FROM once WHERE refused = NEW.timestamp) THEN
                RAISE EXCEPTION 'not this one';
            END IF;
            RETURN NULL;
        END $$
        """
    )
    own_postgres.execute(
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON portfolio_greeks "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    backlog = write_backlog(tmp_path / BUFFER, rows=1_500)
    own_postgres.execute("INSERT INTO once VALUES (%s)", [backlog[700]])
    async with bridge(
        tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=own_postgres.url
    ) as service:
        await wait_for_rows(own_postgres.conninfo, len(backlog) + 10)
        await say_goodbye(service)
    refused = (tmp_path / BUFFER).with_name(BUFFER + ".quarantine.jsonl").read_text()
    assert (
        orjson.loads(orjson.loads(refused)["line"])["row"]["timestamp"] == backlog[700].isoformat()
    )
    assert refused.count("\n") == 1
    assert "not this one" in refused
    assert "P0001" in refused
    rows = fetch(own_postgres.conninfo, "SELECT timestamp FROM portfolio_greeks ORDER BY id")
    assert [at for (at,) in rows[:1_499]] == backlog[:700] + backlog[701:]


@pytest.mark.parametrize("mode", ["statement", "transaction"])
async def test_an_outage_behind_a_pooler_that_shares_its_connections(
    mode: str, tmp_path: Path, own_postgres: PostgresServer, gateway: TwsSimulator
) -> None:
    """Events among the rows, so that each batch of the replay is of both tables."""
    store = PostgresStore(own_postgres.conninfo)
    await store.ensure_schema()
    await store.aclose()
    with pgbouncer(own_postgres, mode) as pooler:
        async with bridge(
            tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=pooler.url
        ) as service:
            await wait_for_rows(own_postgres.conninfo, 5)
            await in_thread(own_postgres.kill)
            await service.wait_for_output(CIRCUIT_OPENED)
            for number in range(10):
                gateway.notify(2103, f"farm{number}")
                await more_rows(service, 3)
            await in_thread(own_postgres.start)
            await service.wait_for_output(CIRCUIT_CLOSED)
            await more_rows(service, 5)
            run = await say_goodbye(service)
    await check(tmp_path / BUFFER, own_postgres.conninfo, [run], at_least=35)
    farms = "SELECT count(DISTINCT message) FROM api_logs WHERE message LIKE '%%farm%%'"
    assert fetch(own_postgres.conninfo, farms)[0][0] >= 10


@pytest.mark.parametrize("how", ["mv", "copytruncate"])
async def test_a_spool_that_is_rotated_away_in_an_outage_is_an_error(
    how: str, tmp_path: Path, own_postgres: PostgresServer, gateway: TwsSimulator
) -> None:
    async with bridge(
        tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=own_postgres.url
    ) as service:
        await wait_for_rows(own_postgres.conninfo, 5)
        await in_thread(own_postgres.kill)
        buffer, rotated = tmp_path / BUFFER, tmp_path / "rotated"
        with trio.fail_after(PATIENCE_S):
            while buffer.stat().st_size < 3_000:
                await trio.sleep(0.05)
        if how == "mv":
            buffer.rename(rotated)
        else:
            rotated.write_bytes(buffer.read_bytes())
            buffer.write_bytes(b"")
        await service.wait_for_output("moved, removed or cut")
        await in_thread(own_postgres.start)
        await wait_until_replayed(tmp_path)
        await say_goodbye(service)
    ((status, numbers),) = fetch(
        own_postgres.conninfo,
        "SELECT status, numbers FROM api_logs WHERE kind = 'spool.taken_away'",
    )
    assert status == "error"
    there = stored(own_postgres)
    lines = rotated.read_bytes().splitlines(keepends=True)
    assert (
        numbers["bytes_gone"] >= sum(len(line) for line in lines if key_of(line) not in there) > 0
    )
    before = count_rows(own_postgres.conninfo)
    done = await run_command(
        tmp_path, "flush", DATABASE_URL=own_postgres.url, BRIDGE_BUFFER_PATH=rotated
    )
    assert done.code == 0, done
    assert count_rows(own_postgres.conninfo) > before
