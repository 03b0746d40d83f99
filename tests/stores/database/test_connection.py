"""psycopg on Trio: against real servers that answer, refuse, freeze and die."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio
import trio.testing
import trustme

from trio_bridge.stores.database.connection import TrioConnection

if TYPE_CHECKING:
    from tests.support.postgres import PostgresFactory, PostgresServer

AT_ONCE_S = 20.0
"""Generous for a busy machine, far below the minutes that a frozen server would hold us."""


async def one(connection: TrioConnection, statement: str) -> object:
    row = await (await connection.execute(statement)).fetchone()
    assert row is not None
    return row[0]


async def goodbye(connection: TrioConnection) -> None:
    """Wait until the last of what a server does when it ends has reached us."""
    with trio.fail_after(AT_ONCE_S):
        while connection.looks_usable():
            await trio.sleep(0.01)


async def test_statements_larger_than_any_socket_buffer_go_both_ways(fresh_database: str) -> None:
    connection = await TrioConnection.connect(fresh_database, autocommit=True)
    text = "x" * 20_000_000
    cursor = await connection.execute("SELECT %s::text || 'y'", [text])
    assert await cursor.fetchone() == (text + "y",)
    await connection.close()


async def test_other_tasks_run_while_a_statement_does(fresh_database: str) -> None:
    """The statement waits for a lock that another task gives back after some turns."""
    connection = await TrioConnection.connect(fresh_database)
    await connection.execute(f"SET lock_timeout = '{AT_ONCE_S:g}s'")
    with psycopg.connect(fresh_database) as holder:
        holder.execute("SELECT pg_advisory_lock(1)")

        async def give_it_back() -> None:
            for _ in range(5):
                await trio.sleep(0.01)
            holder.execute("SELECT pg_advisory_unlock(1)")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_it_back)
            await connection.execute("SELECT pg_advisory_lock(1)")
    await connection.close()


async def test_a_failed_statement_leaves_the_connection_usable(fresh_database: str) -> None:
    connection = await TrioConnection.connect(fresh_database, autocommit=True)
    with pytest.raises(psycopg.errors.UndefinedTable):
        await connection.execute("SELECT * FROM nowhere")
    assert await one(connection, "SELECT 1") == 1
    await connection.close()


async def test_sessions_speak_utc_and_commit_to_disk(
    postgres_factory: PostgresFactory,
) -> None:
    server = postgres_factory.new(timezone="Asia/Tokyo", synchronous_commit="off")
    connection = await TrioConnection.connect(server.conninfo)
    assert await one(connection, "SHOW timezone") == "UTC"
    assert await one(connection, "SHOW synchronous_commit") == "local"
    await connection.close()
    server.close()


async def test_no_session_waits_for_a_lock_for_ever(fresh_database: str) -> None:
    connection = await TrioConnection.connect(fresh_database)
    assert await one(connection, "SHOW lock_timeout") == "30s"
    await connection.close()
    own = f"{fresh_database} options='-c lock_timeout=70s'"
    connection = await TrioConnection.connect(own)
    assert await one(connection, "SHOW lock_timeout") == "70s"
    await connection.close()


async def test_a_cancelled_statement_drops_the_connection_at_once(
    own_postgres: PostgresServer,
) -> None:
    connection = await TrioConnection.connect(own_postgres.conninfo)
    own_postgres.freeze()
    began = time.monotonic()
    with trio.move_on_after(0.2) as scope:
        await connection.execute("SELECT 1")
    assert scope.cancelled_caught
    assert time.monotonic() - began < AT_ONCE_S
    assert connection.closed


async def test_connecting_to_a_frozen_server_ends_with_the_callers_patience(
    own_postgres: PostgresServer,
) -> None:
    own_postgres.freeze()
    open_files = len(list(Path("/dev/fd").iterdir()))
    began = time.monotonic()
    with trio.move_on_after(0.2) as scope:
        await TrioConnection.connect(own_postgres.conninfo)
    assert scope.cancelled_caught
    assert time.monotonic() - began < AT_ONCE_S
    assert len(list(Path("/dev/fd").iterdir())) == open_files


async def test_connecting_to_a_frozen_server_ends_with_connect_timeout(
    own_postgres: PostgresServer,
) -> None:
    own_postgres.freeze()
    with pytest.raises(psycopg.OperationalError, match=rf"127.0.0.1:{own_postgres.port} did not"):
        await TrioConnection.connect(f"{own_postgres.conninfo} connect_timeout=1")


async def test_a_frozen_first_host_leaves_time_for_the_second(
    postgres: PostgresServer, own_postgres: PostgresServer
) -> None:
    own_postgres.freeze()
    both = (
        f"postgresql://portfolio@127.0.0.1:{own_postgres.port},127.0.0.1:{postgres.port}/postgres"
    )
    with trio.fail_after(4):
        connection = await TrioConnection.connect(both)
    assert connection.info.port == postgres.port
    await connection.close()


async def test_a_read_write_connection_follows_the_failover(
    own_postgres: PostgresServer, postgres_factory: PostgresFactory
) -> None:
    primary, standby = own_postgres, postgres_factory.standby_of(own_postgres)
    both = (
        f"postgresql://portfolio@127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
        "/portfolio_engine?target_session_attrs="
    )
    connection = await TrioConnection.connect(both + "read-write")
    assert connection.info.port == primary.port
    reader = await TrioConnection.connect(both + "prefer-standby")
    assert reader.info.port == standby.port
    await reader.close()

    primary.kill()
    await goodbye(connection)
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError) as caught:
        await TrioConnection.connect(both + "read-write")
    assert "read-only" in str(caught.value)
    assert "refused" in str(caught.value)
    standby.promote()
    again = await TrioConnection.connect(both + "read-write")
    assert again.info.port == standby.port
    await again.close()
    standby.close()


async def test_host_names_are_looked_up_and_all_their_addresses_tried(
    postgres: PostgresServer,
) -> None:
    """`localhost` is ::1 as well, where the server does not listen."""
    connection = await TrioConnection.connect(
        f"host=localhost port={postgres.port} user=portfolio dbname=postgres"
    )
    await connection.close()


async def test_an_unknown_host_is_named() -> None:
    with pytest.raises(psycopg.OperationalError, match=r"cannot find the host 'no\.such\.host"):
        await TrioConnection.connect("postgresql://u@no.such.host.invalid/db")


async def test_a_unix_socket_works(postgres: PostgresServer) -> None:
    connection = await TrioConnection.connect(
        f"host={postgres.socket_directory} port={postgres.port} user=portfolio dbname=postgres"
    )
    assert connection.looks_usable()
    await connection.close()


async def test_a_server_that_said_goodbye_is_noticed_without_asking(
    own_postgres: PostgresServer,
) -> None:
    connection = await TrioConnection.connect(own_postgres.conninfo)
    assert connection.looks_usable()
    own_postgres.stop()
    await goodbye(connection)
    await connection.close()
    assert not connection.looks_usable()


async def test_closing_wakes_the_task_that_waits_for_an_answer(fresh_database: str) -> None:
    connection = await TrioConnection.connect(fresh_database)
    with trio.fail_after(AT_ONCE_S):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await connection.execute("SELECT pg_sleep(60)")

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await connection.close()


async def test_a_second_try_with_tls_opens_a_second_socket(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """sslmode=allow: refused in plain text, libpq reconnects, often on the same descriptor."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    own_postgres.install("server.crt", certificate.cert_chain_pems[0].bytes())
    own_postgres.install("server.key", certificate.private_key_pem.bytes())
    own_postgres.install("pg_hba.conf", b"hostssl all all all trust\nlocal all all trust\n")
    own_postgres.settings["ssl"] = "on"
    own_postgres.stop()
    try:
        own_postgres.start()
    except RuntimeError as error:
        if "not supported by this build" in str(error):
            pytest.skip("this PostgreSQL cannot speak TLS")
        raise
    connection = await TrioConnection.connect(
        f"{own_postgres.conninfo} sslmode=allow sslrootcert={tmp_path / 'ca.pem'}"
    )
    assert await one(connection, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await connection.close()
