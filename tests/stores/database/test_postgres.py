"""Rows go in exactly once and in order; every refusal of a real server gets its right name."""

from __future__ import annotations

import random
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import psycopg
import pytest
import trio
import trio.testing
from psycopg.conninfo import conninfo_to_dict

from tests.support.pgbouncer import pgbouncer
from trio_bridge.delivery.commit import Committer
from trio_bridge.errors import (
    ConfigError,
    OutageError,
    RowRejectedError,
    SchemaMissingError,
    ServerChangedError,
    StoreError,
    UnclearError,
)
from trio_bridge.events.gateway import Connected
from trio_bridge.events.rows import RowsResumed
from trio_bridge.identity import new_event_id
from trio_bridge.model import ApiEvent, ApiMode, DataType, Severity, Snapshot
from trio_bridge.rows import API_LOGS, PORTFOLIO_GREEKS
from trio_bridge.stores.base import Presence
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.postgres import (
    FAST_PATH_ROWS,
    PostgresStore,
    insert,
    log_api_event,
    write_portfolio_snapshot,
)
from trio_bridge.stores.record import Record, decode_line, encode_line, record_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresFactory, PostgresServer

START = datetime(2026, 3, 2, 14, 30, 0, 123456, tzinfo=UTC)
AT_ONCE_S = 20.0
PATIENCE_S = 60.0

few_or_many = pytest.mark.parametrize("count", [2, 2 * FAST_PATH_ROWS], ids=["few", "many"])
"""Rows in a batch: many are written in the hope that all are new."""


def snapshot(k: int = 0) -> Snapshot:
    """A new one at each call, as of an earlier version: by today's ids it would be the same."""
    at = START + timedelta(seconds=5 * k)
    return Snapshot(at, "U1", float(k), 0.5, 1.5, -2.5, 5000.0, 30, 29, event_id=new_event_id(at))


def event(text: str = "connected", k: int = 0) -> ApiEvent:
    return ApiEvent(START + timedelta(seconds=5 * k), ApiMode.SOCKET, text)


def snapshots(count: int) -> list[Record]:
    return [record_of(snapshot(k)) for k in range(count)]


def mixed(count: int) -> list[Record]:
    return [record_of(snapshot(k) if k % 3 else event(str(k), k)) for k in range(count)]


def query(conninfo: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """As another program would, on a connection of its own."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
async def store(fresh_database: str) -> AsyncIterator[PostgresStore]:
    """A store with complete tables in a database of its own."""
    store = PostgresStore(fresh_database)
    await store.ensure_schema()
    yield store
    await store.aclose()


@pytest.fixture
async def own_store(own_postgres: PostgresServer) -> AsyncIterator[PostgresStore]:
    """The same on a server that may be broken."""
    store = PostgresStore(own_postgres.url)
    await store.ensure_schema()
    yield store
    await store.aclose()


# What goes in


async def test_a_snapshot_is_stored_as_it_was_read(
    store: PostgresStore, fresh_database: str
) -> None:
    row = Snapshot(
        START,
        "U1,U2",
        0.1 + 0.2,
        -1e-17,
        1.5e300,
        None,
        5000.25,
        31,
        30,
        12.5,
        DataType.DELAYED_FROZEN,
    )
    assert await write_portfolio_snapshot(store, row)
    assert query(
        fresh_database,
        "SELECT event_id, timestamp, contract, account, positions, priced, greeks_age_s, data_type "
        "FROM portfolio_greeks",
    ) == [(row.event_id, START, "PORTFOLIO", "U1,U2", 31, 30, 12.5, "delayed-frozen")]
    greeks = "SELECT delta, gamma, vega, theta, underlying_price FROM portfolio_greeks"
    assert query(fresh_database, greeks) == [(0.1 + 0.2, -1e-17, 1.5e300, None, 5000.25)]


async def test_an_event_is_stored_with_any_text(store: PostgresStore, fresh_database: str) -> None:
    texts = ["plain", "ünïcödé ✓ 🦉", "a 'quote' \"and\" \\back\\slash %s", "two\nlines", "\ud800"]
    for text in texts:
        assert await log_api_event(store, ApiEvent(START, ApiMode.PORTAL, text, Severity.WARNING))
    rows = query(fresh_database, "SELECT api_mode, message, status FROM api_logs ORDER BY id")
    assert rows == [("PORTAL", text, "warning") for text in [*texts[:-1], "\\ud800"]]


async def test_an_event_is_stored_with_its_kind_and_its_numbers(
    store: PostgresStore, fresh_database: str
) -> None:
    for event in (RowsResumed(19, "a {[ 'reason"), Connected("gateway:4001")):
        await log_api_event(store, event.as_row(START, ApiMode.PORTAL))
    rows = query(fresh_database, "SELECT kind, numbers, message FROM api_logs ORDER BY id")
    assert rows == [
        ("rows.resumed", {"slots": 19}, RowsResumed(19, "a {[ 'reason").message),
        ("gateway.connected", None, Connected("gateway:4001").message),
    ]


async def test_rows_of_the_earlier_system_get_what_they_lack(
    store: PostgresStore, fresh_database: str
) -> None:
    lines = [
        b'{"table":"portfolio_greeks","row":{"timestamp":"2026-03-02T14:30:00","delta":"1.5",'
        b'"strategy":"unknown to us"}}',
        b'{"table":"api_logs","row":{"timestamp":"2026-03-02T15:30:00+01:00","message":"x",'
        b'"status":null}}',
    ]
    assert await store.write([decode_line(line, offset=0) for line in lines]) == 2
    assert query(fresh_database, "SELECT timestamp, contract, delta FROM portfolio_greeks") == [
        (datetime(2026, 3, 2, 14, 30, tzinfo=UTC), "PORTFOLIO", 1.5)
    ]
    assert query(fresh_database, "SELECT timestamp, status FROM api_logs") == [
        (datetime(2026, 3, 2, 14, 30, tzinfo=UTC), "info")
    ]


async def test_a_line_of_a_version_without_the_newest_columns_is_stored(
    store: PostgresStore, fresh_database: str
) -> None:
    row = orjson.loads(snapshots(1)[0].row)
    del row["currency"], row["gamma_error"]
    line = encode_line(Record("portfolio_greeks", orjson.dumps(row)))
    assert await store.write([decode_line(line.rstrip(), offset=0)]) == 1
    assert query(fresh_database, "SELECT delta, currency, gamma_error FROM portfolio_greeks") == [
        (row["delta"], None, None)
    ]


@pytest.mark.parametrize("count", [30, 3 * FAST_PATH_ROWS])
async def test_replaying_the_same_records_inserts_them_once(
    store: PostgresStore, fresh_database: str, count: int
) -> None:
    records = mixed(count)
    known = count * 2 // 3
    assert await store.write(records[:known]) == known
    assert await store.write(records) == count - known
    assert await store.write(records + records) == 0
    again = snapshots(1)
    assert await store.write(again * count) == 1
    for table, rows in (API_LOGS.name, count // 3), (PORTFOLIO_GREEKS.name, known + 1):
        counted = query(fresh_database, f"SELECT count(*), count(DISTINCT event_id) FROM {table}")
        assert counted == [(rows, rows)]


async def test_rows_that_come_a_second_time_leave_the_new_ones_in_their_order(
    store: PostgresStore, fresh_database: str
) -> None:
    records = mixed(3 * FAST_PATH_ROWS)
    await store.write(records[1::7])
    known = {orjson.loads(one.row)["event_id"] for one in records[1::7]}
    await store.write(records)
    for table in (PORTFOLIO_GREEKS.name, API_LOGS.name):
        given = [orjson.loads(one.row)["event_id"] for one in records if one.table == table]
        stored = query(fresh_database, f"SELECT event_id::text FROM {table} ORDER BY id")
        new = [event_id for (event_id,) in stored if event_id not in known]
        assert new == [event_id for event_id in given if event_id not in known]
        assert len(stored) == len(given)


@pytest.mark.parametrize("count", [1, 2, 1000])
async def test_ids_ascend_in_the_order_given(
    store: PostgresStore, fresh_database: str, count: int
) -> None:
    records = mixed(count)
    random.Random(count).shuffle(records)
    assert await store.write(records) == count
    for table in (PORTFOLIO_GREEKS.name, API_LOGS.name):
        given = [orjson.loads(one.row)["event_id"] for one in records if one.table == table]
        stored = query(fresh_database, f"SELECT event_id::text FROM {table} ORDER BY id")
        assert [event_id for (event_id,) in stored] == given


async def test_nothing_to_write_needs_no_database() -> None:
    assert await PostgresStore("postgresql://nobody@127.0.0.1:1/none").write([]) == 0


async def test_several_tasks_take_turns(store: PostgresStore, fresh_database: str) -> None:
    """One's transaction is not another's: what is rolled back for one stays in for the others."""
    records = mixed(60)

    async def fail() -> None:
        with pytest.raises(RowRejectedError):
            await store.write([*mixed(6), poisoned(delta="much")])

    async with trio.open_nursery() as nursery:
        for k in range(0, 60, 6):
            nursery.start_soon(store.write, records[k : k + 6])
            nursery.start_soon(fail)
    assert query(fresh_database, "SELECT count(*) FROM api_logs") == [(20,)]
    assert query(fresh_database, "SELECT count(*) FROM portfolio_greeks") == [(40,)]


async def test_text_is_told_to_a_database_of_another_encoding_as_what_it_is(
    postgres: PostgresServer,
) -> None:
    query(
        postgres.conninfo_of("postgres"),
        "CREATE DATABASE old_town ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    )
    store = PostgresStore(postgres.url_of("old_town"))
    await store.ensure_schema()
    assert await log_api_event(store, event("Zürich"))
    rows = query(postgres.conninfo_of("old_town"), "SELECT message, length(message) FROM api_logs")
    assert rows == [("Zürich", 6)]
    with pytest.raises(RowRejectedError):
        await log_api_event(store, event("✓"))
    await store.aclose()
    postgres.drop_database("old_town")


async def test_a_connection_that_would_not_commit_is_refused(fresh_database: str) -> None:
    connection = await TrioConnection.connect(fresh_database)
    with pytest.raises(ValueError, match="autocommit"):
        await insert(connection, snapshots(1))
    await connection.close()


def test_a_malformed_conninfo_is_told_before_anything_connects() -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL"):
        PostgresStore("mysql://nowhere")


# Rows that will never be taken


def poisoned(table: str = PORTFOLIO_GREEKS.name, **values: object) -> Record:
    row = {"event_id": "01890000-0000-7000-8000-000000000000", "timestamp": START.isoformat()}
    return Record(table, orjson.dumps(row | values))


POISON = {
    "NUL": (poisoned(API_LOGS.name, message="a\0b"), "22P05"),
    "surrogate": (Record(API_LOGS.name, b'{"message":"\\ud800"}'), "22P02"),
    "overflow": (Record(PORTFOLIO_GREEKS.name, b'{"delta":1e999}'), "22003"),
    "integer overflow": (poisoned(positions=2**40), "22003"),
    "not a number": (poisoned(delta="much"), "22P02"),
    "NaN": (Record(PORTFOLIO_GREEKS.name, b'{"delta":NaN}'), "22P02"),
    "no such day": (poisoned(timestamp="2026-02-30T00:00:00Z"), "22008"),
    "no time": (poisoned(timestamp=None), "23502"),
    "time in words": (poisoned(timestamp="noon, about"), "22007"),
    "bad id": (poisoned(event_id="42"), "22P02"),
    "not JSON": (Record(PORTFOLIO_GREEKS.name, b'{"delta":1'), "22P02"),
    "not UTF-8": (Record(API_LOGS.name, b'{"message":"\xff"}'), "22021"),
    "raw NUL": (Record(API_LOGS.name, b'{"message":"a\0b"}'), "22P02"),
    "bottomless": (Record(PORTFOLIO_GREEKS.name, b'{"x":' * 50_000), "54001"),
    "unknown table": (Record("users; DROP TABLE api_logs", b"{}"), "42P01"),
}


@few_or_many
@pytest.mark.parametrize(("poison", "sqlstate"), POISON.values(), ids=POISON.keys())
async def test_a_row_that_will_never_go_in_is_named_and_takes_nothing_with_it(
    store: PostgresStore, fresh_database: str, poison: Record, sqlstate: str, count: int
) -> None:
    neighbours = mixed(count + 2)
    with pytest.raises(RowRejectedError) as caught:
        await store.write([*neighbours[:2], poison, *neighbours[2:]])
    assert caught.value.sqlstate == sqlstate
    assert "\n" not in str(caught.value)
    assert query(fresh_database, "SELECT count(*) FROM portfolio_greeks") == [(0,)]
    assert query(fresh_database, "SELECT count(*) FROM api_logs") == [(0,)]
    with pytest.raises(RowRejectedError):
        await store.write([poison])
    assert await store.write(neighbours) == count + 2


async def test_isolating_poison_keeps_the_connection(
    store: PostgresStore, fresh_database: str
) -> None:
    await store.write(snapshots(1))
    sessions = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'trio_bridge' "
    sessions += "AND datname = current_database()"
    before = query(fresh_database, sessions)
    for _ in range(3):
        with pytest.raises(RowRejectedError):
            await store.write([*mixed(2), poisoned(delta="much")])
    assert query(fresh_database, sessions) == before


async def test_a_rule_that_one_row_breaks_rejects_that_row(
    store: PostgresStore, fresh_database: str
) -> None:
    query(fresh_database, "ALTER TABLE portfolio_greeks ADD CHECK (delta < 5)")
    with pytest.raises(RowRejectedError) as caught:
        await store.write(snapshots(10))
    assert caught.value.sqlstate == "23514"


# Tables that are not as they should be


@few_or_many
@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE portfolio_greeks",
        "ALTER TABLE portfolio_greeks DROP COLUMN account",
        "ALTER TABLE portfolio_greeks DROP COLUMN event_id",
        "ALTER TABLE portfolio_greeks RENAME COLUMN priced TO valued",
        "DROP INDEX portfolio_greeks_event_id_timestamp_idx",
        "ALTER TABLE portfolio_greeks ALTER COLUMN id DROP DEFAULT",
    ],
)
async def test_missing_parts_are_told_apart_from_outages_and_come_back(
    store: PostgresStore, fresh_database: str, damage: str, count: int
) -> None:
    query(fresh_database, damage)
    records = snapshots(count)
    with pytest.raises(SchemaMissingError):
        await store.write(records)
    await store.ensure_schema()
    assert await store.write(records) == count


@few_or_many
async def test_a_clash_of_ids_is_an_error_and_never_a_silent_loss(
    store: PostgresStore, fresh_database: str, count: int
) -> None:
    query(fresh_database, "INSERT INTO portfolio_greeks (id) SELECT generate_series(1, 500)")
    records = snapshots(count)
    with pytest.raises(SchemaMissingError):
        await store.write(records)
    await store.ensure_schema()
    assert await store.write(records) == count


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("ALTER TABLE portfolio_greeks ADD COLUMN host text NOT NULL", "does not know this column"),
        (
            "ALTER TABLE portfolio_greeks ALTER COLUMN priced TYPE boolean USING true",
            "SQLSTATE 42804",
        ),
        ("ALTER SEQUENCE portfolio_greeks_id_seq RESTART 9 MAXVALUE 9", "SQLSTATE 2200H.*bigint"),
        (
            "ALTER TABLE portfolio_greeks ALTER COLUMN id TYPE integer;"
            "SELECT setval('portfolio_greeks_id_seq', 2147483646)",
            "SQLSTATE 22003.*bigint",
        ),
        (
            "ALTER TABLE portfolio_greeks ALTER COLUMN id TYPE smallint;"
            "SELECT setval('portfolio_greeks_id_seq', 32766)",
            "SQLSTATE 22003.*bigint",
        ),
    ],
)
async def test_a_table_that_refuses_every_row_is_no_fault_of_the_rows(
    store: PostgresStore, fresh_database: str, change: str, text: str
) -> None:
    """They wait, loudly, until somebody has repaired the table."""
    query(fresh_database, change)
    with suppress(OutageError):
        await store.write(snapshots(1))  # the last that may have got in
    with pytest.raises(OutageError, match=text):
        await store.write([record_of(snapshot(7))])


async def test_a_server_near_the_wraparound_of_its_transactions_is_an_outage(
    own_store: PostgresStore, own_postgres: PostgresServer
) -> None:
    own_postgres.use_up_transaction_ids()
    with pytest.raises(OutageError, match=r"wraparound.*vacuum the database"):
        await own_store.write(snapshots(1))


async def test_a_missing_partition_is_no_fault_of_the_rows(fresh_database: str) -> None:
    query(
        fresh_database,
        "CREATE TABLE portfolio_greeks (timestamp timestamptz NOT NULL) "
        "PARTITION BY RANGE (timestamp)",
    )
    store = PostgresStore(fresh_database)
    await store.ensure_schema()
    with pytest.raises(OutageError, match="make the missing partition"):
        await store.write(snapshots(1))
    await store.aclose()


# Words of extensions, said here by a trigger


def say_instead(conninfo: str, sqlstate: str, message: str, *, when: str = "true") -> None:
    """Refuse the statements that insert into portfolio_greeks, as an extension does."""
    query(
        conninfo,
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF {when} THEN
                RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = '{message}';
            END IF;
            RETURN NULL;
        END $$
        """,
    )
    query(
        conninfo,
        "CREATE TRIGGER refuse BEFORE INSERT ON portfolio_greeks EXECUTE FUNCTION refuse()",
    )


@few_or_many
@pytest.mark.parametrize(
    ("sqlstate", "message", "expected"),
    [
        ("23502", 'NULL value in column "timestamp" violates not-null', RowRejectedError),
        ("23502", 'null value in column "host" of relation "greeks_102029"', OutageError),
        ("23502", 'null value in column "id" of relation "greeks_102029"', SchemaMissingError),
        ("23514", 'new row violates check constraint "mine_102023"', RowRejectedError),
        ("54000", "not accepting commands to avoid wraparound data loss", OutageError),
        ("54000", "index row size 2712 exceeds the maximum", RowRejectedError),
    ],
)
async def test_a_column_or_rule_that_is_named_in_the_text_only_is_found_there(
    store: PostgresStore,
    fresh_database: str,
    sqlstate: str,
    message: str,
    expected: type[StoreError],
    count: int,
) -> None:
    """TimescaleDB does so, and Citus when it hands on what one of its workers said."""
    say_instead(fresh_database, sqlstate, message)
    with pytest.raises(expected):
        await store.write(snapshots(count))


async def test_a_known_row_that_a_distributed_server_has_no_code_for_is_left_out(
    store: PostgresStore, fresh_database: str
) -> None:
    """Citus answers XX000 where the plain INSERT meets a row that a worker has already."""
    records = snapshots(2 * FAST_PATH_ROWS)
    assert await store.write(records[:FAST_PATH_ROWS]) == FAST_PATH_ROWS
    message = "duplicate key value violates unique constraint"
    say_instead(fresh_database, "XX000", message, when="current_query() ~ 'guard'")
    assert await store.write(records) == FAST_PATH_ROWS


# Outages


async def test_a_refused_connection_is_an_outage_and_ends_with_it(
    own_store: PostgresStore, own_postgres: PostgresServer
) -> None:
    records = snapshots(4)
    await own_store.write(records[:1])
    own_postgres.stop("immediate")
    with pytest.raises(OutageError):
        await own_store.write(records[1:2])
    with pytest.raises(
        OutageError, match=rf"^127.0.0.1:{own_postgres.port}/portfolio_engine: .*refused"
    ):
        await own_store.write(records[1:2])
    with pytest.raises(OutageError):
        await own_store.ensure_schema()
    own_postgres.start()
    assert await own_store.write(records) == 3


async def test_a_restart_between_two_rows_costs_no_failure(
    own_store: PostgresStore, own_postgres: PostgresServer
) -> None:
    await own_store.write(snapshots(1))
    own_postgres.restart("immediate")
    assert await own_store.write(snapshots(1)) == 1


async def test_a_frozen_server_releases_the_writer_at_once(
    own_store: PostgresStore, own_postgres: PostgresServer
) -> None:
    records = mixed(9)
    await own_store.write(records[:3])
    own_postgres.freeze()
    for _ in range(2):  # on the connection that stands, and on a new one
        began = time.monotonic()
        with trio.move_on_after(0.2) as scope:
            await own_store.write(records[3:6])
        assert scope.cancelled_caught
        assert time.monotonic() - began < AT_ONCE_S
    own_postgres.thaw()
    # What the server had been told before it froze may be committed now, or not.
    await own_store.write(records)
    assert own_postgres.execute("SELECT count(*) FROM portfolio_greeks") == [(6,)]
    assert own_postgres.execute("SELECT count(*) FROM api_logs") == [(3,)]


async def test_a_write_cancelled_at_any_moment_is_whole_or_not_at_all(
    store: PostgresStore, fresh_database: str
) -> None:
    chance = random.Random(1)
    records = [mixed(120) for _ in range(60)]
    for batch in records:
        with trio.move_on_after(chance.uniform(0, 0.02)):
            await store.write(batch)
    both = "SELECT (SELECT count(*) FROM portfolio_greeks), (SELECT count(*) FROM api_logs)"
    # A backend that was left in the middle of a commit finishes it in its own time.
    deadline = time.monotonic() + PATIENCE_S
    while query(
        fresh_database,
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
        "AND pid <> pg_backend_pid() AND datname = current_database()",
    ) != [(0,)]:
        assert time.monotonic() < deadline
    [(greeks, events)] = query(fresh_database, both)
    assert (greeks % 80, events % 40) == (0, 0)
    assert greeks // 80 == events // 40
    for batch in records:
        await store.write(batch)
    assert query(fresh_database, both) == [(60 * 80, 60 * 40)]


async def test_killed_in_the_middle_of_a_replay_nothing_is_lost_or_doubled(
    own_store: PostgresStore, own_postgres: PostgresServer
) -> None:
    records = mixed(20_000)
    position = kills = 0

    async def assassin() -> None:
        nonlocal kills
        for seconds in (0.05, 0.2, 0.1):
            await trio.sleep(seconds)
            await trio.to_thread.run_sync(own_postgres.kill)
            kills += 1
            await trio.to_thread.run_sync(own_postgres.start)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(assassin)
            while position < len(records) or kills < 3:
                if position >= len(records):
                    position = 0  # the replay was quicker than the killer: once more
                try:
                    await own_store.write(records[position : position + 500])
                except OutageError:
                    await trio.sleep(0.02)
                else:
                    position += 500
    for table in (PORTFOLIO_GREEKS.name, API_LOGS.name):
        given = [orjson.loads(one.row)["event_id"] for one in records if one.table == table]
        stored = own_postgres.execute(f"SELECT event_id::text FROM {table} ORDER BY id")
        assert [event_id for (event_id,) in stored] == given


async def test_a_write_moves_to_the_promoted_standby(
    own_postgres: PostgresServer, postgres_factory: PostgresFactory
) -> None:
    standby = postgres_factory.standby_of(own_postgres)
    hosts = f"127.0.0.1:{own_postgres.port},127.0.0.1:{standby.port}"
    store = PostgresStore(
        f"postgresql://portfolio@{hosts}/portfolio_engine?target_session_attrs=read-write"
    )
    await store.ensure_schema()
    records = snapshots(5)
    assert await store.write(records[:2]) == 2
    standby.catch_up(own_postgres)
    own_postgres.kill()
    with pytest.raises(OutageError):
        await store.write(records)
    standby.promote()
    assert await store.write(records) == 3
    await store.aclose()
    standby.close()


async def test_a_standby_takes_no_rows_and_the_remedy_is_named(
    own_store: PostgresStore, own_postgres: PostgresServer, postgres_factory: PostgresFactory
) -> None:
    standby = postgres_factory.standby_of(own_postgres)
    standby.catch_up(own_postgres)
    store = PostgresStore(standby.url)
    with pytest.raises(OutageError, match=r"SQLSTATE 25006.*target_session_attrs=read-write"):
        await store.write(snapshots(1))
    await store.aclose()
    standby.close()


async def test_a_connection_that_an_operator_ends_is_replaced(
    store: PostgresStore, fresh_database: str
) -> None:
    await store.write(snapshots(1))
    ended = query(
        fresh_database,
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert ended == [(True,)]
    records = snapshots(1)
    while True:
        try:
            await store.write(records)
        except OutageError:
            continue
        break
    assert query(fresh_database, "SELECT count(*) FROM portfolio_greeks") == [(2,)]


async def test_closing_during_a_write_is_an_outage_for_the_writer(
    store: PostgresStore, fresh_database: str
) -> None:
    with psycopg.connect(fresh_database) as other:
        other.execute("LOCK TABLE portfolio_greeks")
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                with pytest.raises(OutageError):
                    await store.write(mixed(3))

            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked(0.1)
            await store.aclose()
    assert await store.write(mixed(3)) == 3


@pytest.mark.parametrize(
    ("setting", "sqlstate"), [("lock_timeout", "55P03"), ("statement_timeout", "57014")]
)
async def test_a_locked_table_is_an_outage_that_ends_with_the_lock(
    store: PostgresStore, fresh_database: str, setting: str, sqlstate: str
) -> None:
    impatient = PostgresStore(f"{fresh_database} options='-c {setting}=100ms'")
    records = snapshots(1)
    with psycopg.connect(fresh_database) as other:
        other.execute("LOCK TABLE portfolio_greeks")
        with pytest.raises(OutageError, match=f"SQLSTATE {sqlstate}"):
            await impatient.write(records)
    assert await impatient.write(records) == 1
    await impatient.aclose()


async def test_a_table_locked_for_long_does_not_take_a_connection_with_each_attempt(
    store: PostgresStore, fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_bridge.stores.database.connection.LOCK_TIMEOUT", "300ms")
    await store.aclose()
    waiting = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    with psycopg.connect(fresh_database) as other:
        other.execute("LOCK TABLE portfolio_greeks")
        for _ in range(3):
            with trio.move_on_after(0.1) as given_up:
                await store.write(snapshots(1))
            assert given_up.cancelled_caught
        with trio.fail_after(PATIENCE_S):
            while query(fresh_database, waiting) != [(0,)]:
                await trio.sleep(0.02)
    assert await store.write(snapshots(1)) == 1


async def test_a_server_that_ends_long_statements_gets_short_ones(
    store: PostgresStore, fresh_database: str
) -> None:
    """Else the rows of an outage that do not go in at once would never go in."""
    query(
        fresh_database,
        """
        CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_sleep(0.0005);
            RETURN NEW;
        END $$
        """,
    )
    query(
        fresh_database,
        "CREATE TRIGGER take_time BEFORE INSERT ON portfolio_greeks "
        "FOR EACH ROW EXECUTE FUNCTION take_time()",
    )
    impatient = PostgresStore(f"{fresh_database} options='-c statement_timeout=100ms'")
    committer = Committer(impatient)
    left = snapshots(400)
    outages = set()
    with trio.fail_after(PATIENCE_S):
        while left:
            outcome = await committer.commit(left, batch_timeout_s=PATIENCE_S)
            outages.add(outcome.outage)
            left = left[outcome.done :]
            assert not outcome.rejected
    assert any("SQLSTATE 57014" in str(outage) for outage in outages if outage)
    stored = query(fresh_database, "SELECT delta FROM portfolio_greeks ORDER BY id")
    assert stored == [(float(k),) for k in range(400)]
    await impatient.aclose()


async def test_a_full_server_is_an_outage(postgres_factory: PostgresFactory) -> None:
    server = postgres_factory.new(max_connections="5", max_wal_senders="0")
    taken: list[psycopg.Connection] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(taken) < 5 and time.monotonic() < deadline:
        # The place of a connection closed a moment ago may not be free yet.
        with suppress(psycopg.OperationalError):
            taken.append(psycopg.connect(server.conninfo))
    store = PostgresStore(server.url)
    with pytest.raises(OutageError, match="too many clients"):
        await store.ensure_schema()
    for connection in taken:
        connection.close()
    server.close()


async def test_a_wrong_password_is_told_with_the_setting_and_without_the_password(
    own_postgres: PostgresServer,
) -> None:
    own_postgres.execute("CREATE ROLE clerk LOGIN PASSWORD 'right'")
    own_postgres.install("pg_hba.conf", b"local all all trust\nhost all all all scram-sha-256\n")
    own_postgres.restart()
    url = f"127.0.0.1:{own_postgres.port}/portfolio_engine"
    for credentials in ("clerk:hunter2", "clerk", "nobody:hunter2"):
        store = PostgresStore(f"postgresql://{credentials}@{url}")
        with pytest.raises(OutageError, match="check user and password in DATABASE_URL") as caught:
            await store.write(snapshots(1))
        assert "hunter2" not in str(caught.value)
        assert "\n" not in str(caught.value)


async def test_a_missing_database_is_told_with_the_remedy(postgres: PostgresServer) -> None:
    store = PostgresStore(postgres.url_of("atlantis"))
    with pytest.raises(OutageError, match=r'"atlantis" does not exist.*createdb'):
        await store.write(snapshots(1))


async def test_a_missing_right_is_told_with_the_remedy(
    postgres: PostgresServer, store: PostgresStore, fresh_database: str
) -> None:
    name = str(conninfo_to_dict(fresh_database)["dbname"])
    role = f"reader_{name}"
    query(fresh_database, f"CREATE ROLE {role} LOGIN")
    reader = PostgresStore(postgres.conninfo_of(name, user=role))
    with pytest.raises(OutageError, match=r"permission denied.*SQLSTATE 42501.*SELECT and INSERT"):
        await reader.write(snapshots(1))
    await reader.aclose()
    query(fresh_database, f"DROP ROLE {role}")


# A server that takes no writes, in its own words


async def remedy_of(store: PostgresStore) -> str:
    with pytest.raises(OutageError, match="read-only transaction") as refused:
        await store.write(snapshots(1))
    return refused.value.remedy


@pytest.mark.parametrize("by", ["DATABASE portfolio_engine", "ROLE portfolio"])
async def test_read_only_by_default_is_no_standby(
    own_store: PostgresStore, own_postgres: PostgresServer, by: str
) -> None:
    own_postgres.execute(f"ALTER {by} SET default_transaction_read_only = on", database="postgres")
    await own_store.aclose()
    remedy = await remedy_of(own_store)
    assert remedy.startswith("no standby, but default_transaction_read_only is on")


async def test_a_connection_that_was_left_read_only_is_called_so(own_store: PostgresStore) -> None:
    connection = await own_store._connected()
    await connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
    await connection.execute("BEGIN READ ONLY")
    assert "left read-only" in await remedy_of(own_store)


async def test_a_standby_is_called_a_standby(postgres_factory: PostgresFactory) -> None:
    primary = postgres_factory.new()
    standby = postgres_factory.standby_of(primary)
    store = PostgresStore(primary.conninfo)
    await store.ensure_schema()
    await store.aclose()
    standby.catch_up(primary)
    store = PostgresStore(standby.conninfo)
    assert (await remedy_of(store)).startswith("this server is a standby")
    await store.aclose()
    standby.close()
    primary.close()


async def test_a_server_that_wants_encryption_says_so(own_postgres: PostgresServer) -> None:
    own_postgres.install("pg_hba.conf", b"local all all trust\nhostssl all all all trust\n")
    own_postgres.execute("SELECT pg_reload_conf()", database="postgres")
    store = PostgresStore(own_postgres.url)
    with pytest.raises(OutageError, match="no encryption") as refused:
        await store.write(snapshots(1))
    assert "sslmode=require" in refused.value.remedy


# A pooler that shares its connections by the statement


async def statement_pooler(listener: trio.SocketListener, server: PostgresServer) -> None:
    """As PgBouncer with pool_mode=statement: a server that answers a query from within a
    transaction costs the client its connection.
    https://github.com/pgbouncer/pgbouncer/blob/master/src/server.c"""

    async def serve(client: trio.SocketStream) -> None:
        behind = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with behind, trio.open_nursery() as nursery:
            nursery.start_soon(copy, client, behind, nursery)
            nursery.start_soon(copy, behind, client, nursery)
        await client.aclose()

    async def copy(
        source: trio.SocketStream, target: trio.SocketStream, nursery: trio.Nursery
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for piece in source:
                if piece.endswith((b"Z\0\0\0\5T", b"Z\0\0\0\5E")):
                    words = b"SFATAL\0C08P01\0Mtransaction blocks not allowed\0\0"
                    await target.send_all(b"E" + (len(words) + 4).to_bytes(4, "big") + words)
                    break
                await target.send_all(piece)
        nursery.cancel_scope.cancel()

    await trio.serve_listeners(serve, [listener])


@asynccontextmanager
async def our_own_pooler(server: PostgresServer) -> AsyncIterator[str]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(statement_pooler, listener, server)
        yield f"host=127.0.0.1 port={port} user=portfolio dbname=portfolio_engine"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def real_pooler(server: PostgresServer) -> AsyncIterator[str]:
    with pgbouncer(server, "statement") as pooler:
        yield pooler.url


@pytest.mark.parametrize(
    "open_pooler", [our_own_pooler, real_pooler], ids=["as described", "PgBouncer"]
)
async def test_through_a_statement_pooler_rows_of_both_tables_go_together(
    open_pooler: Any, own_store: PostgresStore, own_postgres: PostgresServer
) -> None:
    await own_store.aclose()
    async with open_pooler(own_postgres) as conninfo:
        store = PostgresStore(conninfo)
        for rows in (mixed(9), mixed(300)):
            await store.write(rows)
        assert await store.try_out(record_of(snapshot(1_000)))
        await store.aclose()
    assert query(own_postgres.conninfo, "SELECT count(*) FROM portfolio_greeks") == [(206,)]
    assert query(own_postgres.conninfo, "SELECT count(*) FROM api_logs") == [(103,)]


# Trials


async def test_a_trial_leaves_nothing_behind(store: PostgresStore, fresh_database: str) -> None:
    row = record_of(snapshot(1))
    assert await store.try_out(row)
    assert query(fresh_database, "SELECT count(*) FROM portfolio_greeks") == [(0,)]
    await store.write([row])
    assert not await store.try_out(row), "it is there already"


async def test_a_trial_meets_what_a_commit_would_meet(
    store: PostgresStore, fresh_database: str
) -> None:
    query(
        fresh_database,
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'too late'; END $$",
    )
    query(
        fresh_database,
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON portfolio_greeks "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()",
    )
    with pytest.raises(UnclearError, match="too late"):
        await store.try_out(record_of(snapshot(1)))
    with pytest.raises(UnclearError, match="too late"):
        await store.write(snapshots(1))


# Which server takes rows


@few_or_many
async def test_rows_for_one_server_are_not_taken_by_another(
    own_postgres: PostgresServer, count: int
) -> None:
    """The one that is started again may lack rows, and a pooler may hide that it was."""
    store = PostgresStore(own_postgres.conninfo)
    await store.ensure_schema()
    server = await store.server()
    assert server is not None
    rows = [record_of(snapshot(k)) for k in range(count)]
    rows[-1] = record_of(event())  # a batch of both tables
    assert await store.write(rows, to=server) == count
    assert await store.write(rows, to=server) == 0
    assert await store.find(rows) == [Presence.OURS] * count
    more = [record_of(snapshot(k)) for k in range(count, 2 * count)]
    own_postgres.stop()
    own_postgres.start()
    for batch in (more, more[:1], [*more, record_of(event())]):
        with pytest.raises(ServerChangedError):
            await store.write(batch, to=server)
    assert await store.find(more) == [Presence.MISSING] * count
    assert await store.find([*rows, *more]) == [Presence.OURS] * count + [Presence.MISSING] * count
    assert await store.find([]) == []
    own_postgres.execute("DELETE FROM portfolio_greeks WHERE delta = 0")
    own_postgres.execute("UPDATE portfolio_greeks SET recorder = 'another'")
    anothers = [Presence.ANOTHERS] * (count - 2)
    assert await store.find(rows) == [Presence.MISSING, *anothers, Presence.OURS]
    again = await store.server()
    assert again is not None
    assert again.data == server.data
    assert again.started != server.started
    assert await store.write(more, to=again) == count
    await store.aclose()


async def test_an_engine_that_does_not_tell_who_it_is_gets_rows_without_a_condition(
    own_postgres: PostgresServer,
) -> None:
    with psycopg.connect(own_postgres.conninfo, autocommit=True) as owner:
        owner.execute("CREATE ROLE modest LOGIN")
        owner.execute("GRANT ALL ON SCHEMA public TO modest")
        owner.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    store = PostgresStore(own_postgres.conninfo_of("portfolio_engine", user="modest"))
    await store.ensure_schema()
    assert await store.server() is None
    assert await store.write([record_of(snapshot())]) == 1
    await store.aclose()


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
async def test_the_settings_of_a_session_make_no_other_server(
    own_postgres: PostgresServer, zone: str
) -> None:
    plain = PostgresStore(own_postgres.conninfo)
    server = await plain.server()
    options = f"{own_postgres.conninfo} options='-c TimeZone={zone} -c DateStyle=SQL'"
    other = PostgresStore(options)
    assert await other.server() == server
    await plain.aclose()
    await other.aclose()
