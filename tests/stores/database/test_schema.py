"""The tables come about from nothing, and from what an earlier system left, with its rows."""

from __future__ import annotations

import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio

from trio_bridge.delivery.commit import Committer
from trio_bridge.errors import OutageError
from trio_bridge.model import ApiEvent, ApiMode, Snapshot
from trio_bridge.rows import TABLES
from trio_bridge.stores.database.catalog import read_table
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.database.schema import ADVISORY_LOCK, ensure_bridge_schema, plan
from trio_bridge.stores.record import Record, record_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresServer

START = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
SNAPSHOTS = [
    record_of(
        Snapshot(START + timedelta(seconds=5 * k), "U1", k + 0.25, 0.5, 1.5, -2.5, 5000.0, 3, 3)
    )
    for k in range(5)
]


def run(conninfo: str, *statements: str) -> list[tuple[Any, ...]]:
    """As another program would: statements on a connection of its own, rows of the last one."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@asynccontextmanager
async def connected(conninfo: str) -> AsyncIterator[TrioConnection]:
    connection = await TrioConnection.connect(conninfo, autocommit=True)
    try:
        yield connection
    finally:
        await connection.close()


async def ensure(conninfo: str) -> None:
    async with connected(conninfo) as connection:
        await ensure_bridge_schema(connection)


async def write(conninfo: str, records: list[Record]) -> int:
    store = PostgresStore(conninfo)
    try:
        return await store.write(records)
    finally:
        await store.aclose()


def shape(conninfo: str) -> list[tuple[Any, ...]]:
    """Everything about the tables that a second run could change."""
    return run(
        conninfo,
        "SELECT c.oid, c.relname, c.xmin::text, c.relfilenode, "
        "(SELECT array_agg(a.attname || a.xmin::text) FROM pg_attribute a WHERE attrelid = c.oid) "
        "FROM pg_class c WHERE relnamespace = 'public'::regnamespace ORDER BY c.oid",
    )


async def test_the_tables_are_made_with_the_columns_that_readers_know(fresh_database: str) -> None:
    await ensure(fresh_database)
    columns = run(
        fresh_database,
        "SELECT table_name, column_name, data_type, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_schema = 'public' "
        "ORDER BY table_name, ordinal_position",
    )
    greeks = [column[1:] for column in columns if column[0] == "portfolio_greeks"]
    assert ", ".join(column[0] for column in greeks) == (
        "id, timestamp, contract, delta, gamma, vega, theta, underlying_price, "
        "event_id, account, positions, priced, greeks_age_s, data_type, "
        "currency, gamma_error, verdict, late_s, recorder"
    )
    assert greeks[:4] == [
        ("id", "bigint", "NO", "nextval('portfolio_greeks_id_seq'::regclass)"),
        ("timestamp", "timestamp with time zone", "NO", "now()"),
        ("contract", "text", "NO", "'PORTFOLIO'::text"),
        ("delta", "double precision", "YES", None),
    ]
    events = [column[1:] for column in columns if column[0] == "api_logs"]
    names = ", ".join(column[0] for column in events)
    assert names == "id, timestamp, api_mode, message, status, event_id, numbers, kind, recorder"
    assert events[4][3] == "'info'::text"
    sets = ", ".join(column[1] for column in columns if column[0] == "account_sets")
    assert sets == "id, timestamp, key, accounts, event_id"
    indexes = {
        definition for (definition,) in run(fresh_database, "SELECT indexdef FROM pg_indexes")
    }
    for table in TABLES:
        assert any(f'public.{table} USING btree ("timestamp" DESC)' in one for one in indexes)


async def test_a_second_run_changes_nothing(fresh_database: str) -> None:
    await ensure(fresh_database)
    before = shape(fresh_database)
    await ensure(fresh_database)
    assert shape(fresh_database) == before


async def test_a_complete_schema_needs_no_lock_that_readers_or_writers_hold(
    fresh_database: str,
) -> None:
    """A start must not wait for a long report, nor make anybody wait behind it."""
    await ensure(fresh_database)
    await write(fresh_database, SNAPSHOTS[:1])
    with psycopg.connect(fresh_database) as report:
        report.execute("SELECT count(*) FROM portfolio_greeks")
        report.execute("LOCK TABLE portfolio_greeks, api_logs IN SHARE ROW EXCLUSIVE MODE")
        report.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        with trio.fail_after(10):
            await ensure(fresh_database)
        locks = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND database > 0"
        assert run(fresh_database, locks) == [(0,)]


async def test_a_complete_schema_needs_no_more_rights_than_to_read_and_write(
    postgres: PostgresServer, fresh_database: str
) -> None:
    await ensure(fresh_database)
    await write(fresh_database, SNAPSHOTS[:3])
    name = psycopg.conninfo.conninfo_to_dict(fresh_database)["dbname"]
    role = f"writer_{name}"
    run(
        fresh_database,
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT, INSERT ON portfolio_greeks, api_logs TO {role}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
    )
    conninfo = postgres.conninfo_of(str(name), user=role)
    await ensure(conninfo)
    assert await write(conninfo, SNAPSHOTS[:5]) == 2
    run(fresh_database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_lacking_the_right_to_create_is_one_line_with_the_remedy(
    postgres: PostgresServer, fresh_database: str
) -> None:
    name = str(psycopg.conninfo.conninfo_to_dict(fresh_database)["dbname"])
    role = f"reader_{name}"
    run(
        fresh_database,
        f"CREATE ROLE {role} LOGIN",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    )
    with pytest.raises(OutageError) as caught:
        await ensure(postgres.conninfo_of(name, user=role))
    message = str(caught.value)
    assert message.startswith("cannot make the tables ready: permission denied for schema public")
    assert "the user needs" in message
    assert "\n" not in message
    run(fresh_database, f"DROP ROLE {role}")


@pytest.mark.parametrize("settings", ["", "-c default_transaction_isolation=serializable"])
async def test_of_many_that_start_at_once_one_makes_the_tables(
    fresh_database: str, settings: str
) -> None:
    conninfo = f"{fresh_database} options='{settings}'"
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(ensure, conninfo)
    assert run(fresh_database, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'") == [
        (9,)
    ]
    assert await write(fresh_database, SNAPSHOTS[:2]) == 2


def test_two_processes_that_start_at_once_both_find_complete_tables(fresh_database: str) -> None:
    script = """
import sys, trio
from trio_bridge.stores.database.postgres import PostgresStore
store = PostgresStore(sys.argv[1])
input()
trio.run(store.ensure_schema)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", script, fresh_database], stdin=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in processes:
        process.communicate(b"\n")
    assert [process.returncode for process in processes] == [0, 0]
    assert run(fresh_database, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'") == [
        (9,)
    ]


EARLIER = {
    "all columns": (
        "CREATE TABLE portfolio_greeks (id serial PRIMARY KEY, timestamp timestamptz NOT NULL "
        "DEFAULT now(), contract text NOT NULL DEFAULT 'PORTFOLIO', delta double precision, "
        "gamma double precision, vega double precision, theta double precision, "
        "underlying_price double precision)"
    ),
    "other types": (
        "CREATE TABLE portfolio_greeks (id bigserial PRIMARY KEY, timestamp timestamp "
        "DEFAULT now(), contract varchar(64), delta numeric, gamma numeric(12, 6), "
        "vega numeric(6, 2), theta real, underlying_price numeric(10, 2))"
    ),
    "some columns": (
        "CREATE TABLE portfolio_greeks (id serial PRIMARY KEY, timestamp timestamptz, delta float)"
    ),
    "without a time": "CREATE TABLE portfolio_greeks (id serial PRIMARY KEY, delta float)",
    "without an id": "CREATE TABLE portfolio_greeks (timestamp timestamptz, delta float)",
    "another primary key": (
        "CREATE TABLE portfolio_greeks (timestamp timestamptz PRIMARY KEY, delta float)"
    ),
    "an id that the program gave": (
        "CREATE TABLE portfolio_greeks (id integer PRIMARY KEY, timestamp timestamptz, delta float)"
    ),
    "an identity": (
        "CREATE TABLE portfolio_greeks (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "timestamp timestamptz, delta float)"
    ),
    "a sequence that no column owns": (
        "CREATE SEQUENCE numbers; CREATE TABLE portfolio_greeks (id bigint PRIMARY KEY "
        "DEFAULT nextval('numbers'), timestamp timestamptz, delta float)"
    ),
    "a key on the event alone": (
        "CREATE TABLE portfolio_greeks (id serial PRIMARY KEY, timestamp timestamptz, delta float, "
        "event_id uuid UNIQUE)"
    ),
    "partitions": (
        "CREATE TABLE portfolio_greeks (timestamp timestamptz NOT NULL, delta float) "
        "PARTITION BY RANGE (timestamp); CREATE TABLE every PARTITION OF portfolio_greeks DEFAULT"
    ),
    "a time in the primary key, as hypertables want it": (
        "CREATE TABLE portfolio_greeks (id bigserial, timestamp timestamptz, delta float, "
        "PRIMARY KEY (id, timestamp))"
    ),
    "another schema": (
        "CREATE SCHEMA risk; CREATE TABLE risk.portfolio_greeks (id serial PRIMARY KEY, "
        "timestamp timestamptz, delta float)"
    ),
}


@pytest.mark.parametrize("ddl", EARLIER.values(), ids=EARLIER.keys())
async def test_tables_of_an_earlier_system_are_adopted_with_their_rows(
    ddl: str, fresh_database: str
) -> None:
    database = f"{fresh_database} options='-c search_path=public,risk'"
    run(database, *ddl.split("; "))
    names = {
        name
        for (name,) in run(
            database,
            "SELECT attname FROM pg_attribute WHERE attrelid = 'portfolio_greeks'::regclass",
        )
    }
    given = {
        "timestamp": ["'2026-03-01 10:00+00'", "'2026-03-01 10:00:05+00'"],
        "delta": ["1.5", "2.5"],
    }
    if "id integer" in ddl:
        given["id"] = ["7", "8"]
    own = ", ".join(names & given.keys())
    for k in range(2):
        values = ", ".join(given[name][k] for name in own.split(", "))
        run(database, f"INSERT INTO portfolio_greeks ({own}) VALUES ({values})")
    before = run(database, f"SELECT {own} FROM portfolio_greeks ORDER BY delta")

    await ensure(database)
    after = shape(database)
    await ensure(database)
    assert shape(database) == after

    kept = f"SELECT {own} FROM portfolio_greeks WHERE event_id IS NULL ORDER BY delta"
    assert run(database, kept) == before
    if "timestamp" not in names:
        unknown = "SELECT count(*) FROM portfolio_greeks WHERE timestamp IS NULL"
        assert run(database, unknown) == [(2,)]  # nobody knows, so nothing is made up
    assert await write(database, SNAPSHOTS[:3]) == 3
    assert await write(database, SNAPSHOTS[:4]) == 1
    rows = run(
        database,
        "SELECT delta, contract, account, positions FROM portfolio_greeks "
        "WHERE event_id IS NOT NULL ORDER BY id",
    )
    assert rows == [(k + 0.25, "PORTFOLIO", "U1", 3) for k in range(4)]


async def test_times_without_a_zone_are_utc(fresh_database: str) -> None:
    run(fresh_database, "CREATE TABLE portfolio_greeks (id serial, timestamp timestamp)")
    await ensure(f"{fresh_database} options='-c timezone=Asia/Tokyo'")
    await write(f"{fresh_database} options='-c timezone=Asia/Tokyo'", SNAPSHOTS[:1])
    rows = run(fresh_database, "SELECT timestamp FROM portfolio_greeks")
    assert rows == [(START.replace(tzinfo=None),)]


async def test_an_old_limit_neither_refuses_a_message_nor_rounds_a_greek(
    fresh_database: str,
) -> None:
    run(
        fresh_database,
        "CREATE TABLE api_logs (id serial PRIMARY KEY, timestamp timestamptz, "
        "api_mode varchar(10), message varchar(20), status varchar(10))",
        "CREATE TABLE portfolio_greeks (id serial PRIMARY KEY, timestamp timestamptz, "
        "delta numeric(6,2))",
    )
    await ensure(fresh_database)
    text = "a message longer than anybody thought of"
    greeks = Snapshot(START, "U1", 123456.123456789, 0.0, 0.0, 0.0, None, 1, 1)
    event = ApiEvent(START, ApiMode.SOCKET, text)
    assert await write(fresh_database, [record_of(greeks), record_of(event)]) == 2
    assert run(fresh_database, "SELECT message FROM api_logs") == [(text,)]
    assert run(fresh_database, "SELECT delta::float FROM portfolio_greeks") == [(greeks.delta,)]


async def test_a_limit_in_tables_made_complete_by_hand_goes_when_it_refuses_a_row(
    fresh_database: str,
) -> None:
    await ensure(fresh_database)
    run(
        fresh_database,
        "ALTER TABLE api_logs ALTER COLUMN message TYPE varchar(20)",
        "ALTER TABLE portfolio_greeks ALTER COLUMN delta TYPE numeric(6,2)",
        "ALTER TABLE portfolio_greeks ALTER COLUMN positions TYPE smallint",
    )
    text = "a message longer than anybody thought of"
    greeks = Snapshot(START, "U1", 123456.123456789, 0.0, 0.0, 0.0, None, 1, 1)
    too_many = Snapshot(START, "U2", 1.0, 0.0, 0.0, 0.0, None, 100_000, 1)
    items: list[Snapshot | ApiEvent] = [greeks, ApiEvent(START, ApiMode.SOCKET, text), too_many]
    store = PostgresStore(fresh_database)
    outcome = await Committer(store).commit([record_of(one) for one in items], batch_timeout_s=20)
    await store.aclose()
    assert (outcome.done, outcome.outage) == (3, None)
    assert [rejected.number for rejected in outcome.rejected] == [2]
    assert run(fresh_database, "SELECT message FROM api_logs") == [(text,)]
    assert run(fresh_database, "SELECT delta::float FROM portfolio_greeks") == [(greeks.delta,)]


async def test_a_view_on_an_old_column_stays_and_stops_nothing(fresh_database: str) -> None:
    run(
        fresh_database,
        "CREATE TABLE api_logs (id serial PRIMARY KEY, timestamp timestamptz, message varchar(50))",
        "CREATE VIEW latest AS SELECT message FROM api_logs",
    )
    await ensure(fresh_database)
    before = shape(fresh_database)
    await ensure(fresh_database)
    assert shape(fresh_database) == before
    assert await write(fresh_database, [record_of(ApiEvent(START, ApiMode.SOCKET, "here"))]) == 1
    assert run(fresh_database, "SELECT * FROM latest") == [("here",)]
    async with connected(fresh_database) as connection:
        assert not plan("api_logs", await read_table(connection, "api_logs"))


async def test_what_only_the_owner_can_improve_is_left_to_the_owner(fresh_database: str) -> None:
    """Else every start of a user with fewer rights would try, and lock the tables for it."""
    await ensure(fresh_database)
    run(fresh_database, "DROP INDEX portfolio_greeks_timestamp_idx")
    async with connected(fresh_database) as connection:
        facts = await read_table(connection, "portfolio_greeks")
    assert facts is not None
    assert plan("portfolio_greeks", facts)
    assert not plan("portfolio_greeks", replace(facts, owned=False))


@pytest.mark.parametrize(
    "id_type", ["bigserial", "bigint GENERATED BY DEFAULT AS IDENTITY"], ids=["serial", "identity"]
)
async def test_a_sequence_behind_its_rows_is_advanced(fresh_database: str, id_type: str) -> None:
    """As after a restore or a copy of rows with their ids."""
    run(
        fresh_database,
        f"CREATE TABLE portfolio_greeks (id {id_type} PRIMARY KEY, timestamp timestamptz)",
        "INSERT INTO portfolio_greeks (id) SELECT generate_series(1, 500)",
    )
    await ensure(fresh_database)
    assert await write(fresh_database, SNAPSHOTS[:2]) == 2
    assert run(fresh_database, "SELECT max(id) FROM portfolio_greeks") == [(502,)]


async def test_a_sequence_ahead_of_its_rows_is_left_alone(fresh_database: str) -> None:
    await ensure(fresh_database)
    run(fresh_database, "SELECT setval('portfolio_greeks_id_seq', 1000)")
    await ensure(fresh_database)
    await write(fresh_database, SNAPSHOTS[:1])
    assert run(fresh_database, "SELECT id FROM portfolio_greeks") == [(1001,)]


@pytest.mark.parametrize(
    ("ddl", "complaint"),
    [
        (
            "CREATE VIEW portfolio_greeks AS SELECT 1",
            "portfolio_greeks is there, but it is not a table",
        ),
        (
            "CREATE TABLE portfolio_greeks (id uuid PRIMARY KEY)",
            "portfolio_greeks.id is a uuid without a default",
        ),
        (
            "CREATE TABLE api_logs (id serial, timestamp timestamptz, host text NOT NULL)",
            "api_logs.host may not be empty, but the bridge does not know it",
        ),
    ],
)
async def test_what_cannot_be_completed_is_told_and_left_alone(
    fresh_database: str, ddl: str, complaint: str
) -> None:
    run(fresh_database, ddl)
    before = shape(fresh_database)
    with pytest.raises(OutageError, match=complaint):
        await ensure(fresh_database)
    assert shape(fresh_database) == before


async def test_a_change_does_not_queue_behind_a_long_reader_for_ever(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits, all new readers and writers wait behind it."""
    monkeypatch.setattr("trio_bridge.stores.database.schema.LOCK_TIMEOUT", "100ms")
    run(fresh_database, "CREATE TABLE api_logs (id serial PRIMARY KEY, timestamp timestamptz)")
    with psycopg.connect(fresh_database) as report:
        report.execute("SELECT count(*) FROM api_logs")
        with pytest.raises(OutageError, match="lock timeout"):
            await ensure(fresh_database)
    await ensure(fresh_database)
    assert await write(fresh_database, [record_of(ApiEvent(START, ApiMode.PORTAL, "x"))]) == 1


async def test_a_dropped_column_comes_back(fresh_database: str) -> None:
    await ensure(fresh_database)
    run(fresh_database, "ALTER TABLE portfolio_greeks DROP COLUMN event_id, DROP COLUMN account")
    await ensure(fresh_database)
    assert await write(fresh_database, SNAPSHOTS[:1]) == 1
