"""What a database has acknowledged and then loses is sent again, and nothing else is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import trio

from tests.faults.ledger import (
    BUFFER,
    Key,
    Run,
    acknowledged,
    bridge,
    check,
    more_rows,
    sent_again,
    stored,
)
from tests.faults.test_database import in_thread, say_goodbye, wait_until_replayed, write_backlog
from tests.support.command import run_command
from tests.support.database import count_rows, wait_for_rows
from tests.support.pgbouncer import PgBouncer, pgbouncer
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import TwsSimulator, open_tws_simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path
    from typing import LiteralString

    from tests.support.postgres import PostgresFactory, PostgresServer

LAG_S = 2.0
"""How long a standby hears nothing: some 20 rows."""


@pytest.fixture
async def gateway() -> AsyncIterator[TwsSimulator]:
    async with open_tws_simulator(make_book()) as sim:
        yield sim


@dataclass(frozen=True)
class Pair:
    """A primary and its standby, which follows asynchronously."""

    primary: PostgresServer
    standby: PostgresServer

    @property
    def url(self) -> str:
        """Of the one that takes rows."""
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in (self.primary, self.standby))
        return f"postgresql://portfolio@{hosts}/portfolio_engine?target_session_attrs=read-write"

    async def lag(self) -> None:
        """From now on the standby hears nothing."""
        await in_thread(self.standby.catch_up, self.primary)
        self.primary.stall("walsender")

    async def fail_over(self, home: Path) -> int:
        """The standby takes over from a primary that has been killed; how many acknowledged rows
        and events are lost by that."""
        await in_thread(self.standby.replay_all)
        lost = acknowledged(home) - stored(self.standby)
        await in_thread(self.standby.promote)
        return len(lost)


@pytest.fixture
def pair(postgres_factory: PostgresFactory) -> Iterator[Pair]:
    primary = postgres_factory.new()
    standby = postgres_factory.standby_of(primary)
    yield Pair(primary, standby)
    primary.close()
    standby.close()


@pytest.fixture
def pooler(own_postgres: PostgresServer) -> Iterator[PgBouncer]:
    with pgbouncer(own_postgres) as pooler:
        yield pooler


@pytest.mark.parametrize("lag_s", [0.05, 3, pytest.param(20, marks=pytest.mark.long)])
async def test_what_a_standby_lacks_is_sent_again(
    lag_s: float, tmp_path: Path, pair: Pair, gateway: TwsSimulator
) -> None:
    async with bridge(tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=pair.url) as service:
        await wait_for_rows(pair.primary.conninfo, 10)
        await pair.lag()
        await trio.sleep(lag_s)
        await in_thread(pair.primary.kill)
        lost = await pair.fail_over(tmp_path)
        await wait_for_rows(pair.standby.conninfo, len(Run(service.output).rows) + 5)
        run = await say_goodbye(service)
    assert lost > 5 * lag_s - 5, "nothing was lost, so nothing is shown"
    assert sent_again(pair.standby) == ([lost] if lost else [])
    assert acknowledged(tmp_path) <= stored(pair.standby)
    await check(tmp_path / BUFFER, pair.standby.conninfo, [run], at_least=15)


@pytest.mark.parametrize(
    "lag_s", [3, *(pytest.param(lag_s, marks=pytest.mark.long) for lag_s in (0.05, 20))]
)
async def test_also_by_the_bridge_that_is_started_after_one_that_died_with_the_primary(
    lag_s: float, tmp_path: Path, pair: Pair, gateway: TwsSimulator
) -> None:
    settings = {"IB_SOCKET_PORT": gateway.port, "DATABASE_URL": pair.url}
    async with bridge(tmp_path, **settings) as service:
        await wait_for_rows(pair.primary.conninfo, 20)
        await pair.lag()
        await trio.sleep(lag_s)
        killed_at = datetime.now(UTC)
        service.process.kill()
        await in_thread(pair.primary.kill)
        await service.wait()
    runs = [Run(service.output, killed_at)]
    lost = await pair.fail_over(tmp_path)
    async with bridge(tmp_path, **settings) as service:
        await wait_for_rows(pair.standby.conninfo, len(runs[0].rows) + 5)
        runs.append(await say_goodbye(service))
    assert lost > 5 * lag_s - 5, "nothing was lost, so nothing is shown"
    assert sent_again(pair.standby) == ([lost] if lost else [])
    assert acknowledged(tmp_path) <= stored(pair.standby)
    await check(tmp_path / BUFFER, pair.standby.conninfo, runs, at_least=5)


async def test_without_the_rows_that_are_kept_they_are_lost(
    tmp_path: Path, pair: Pair, gateway: TwsSimulator
) -> None:
    """What BRIDGE_RESEND=0 asks for; and what the other tests here are about."""
    async with bridge(
        tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=pair.url, BRIDGE_RESEND=0
    ) as service:
        await wait_for_rows(pair.primary.conninfo, 10)
        await pair.lag()
        await trio.sleep(LAG_S)
        taken = stored(pair.primary)
        await in_thread(pair.primary.kill)
        await pair.fail_over(tmp_path)
        before = count_rows(pair.standby.conninfo)
        await wait_for_rows(pair.standby.conninfo, before + 5)
        await say_goodbye(service)
    assert len(taken - stored(pair.standby)) >= 5
    assert sent_again(pair.standby) == []
    assert acknowledged(tmp_path) == set()


async def test_thousands_of_rows_are_sent_again_in_their_order(
    tmp_path: Path, pair: Pair, gateway: TwsSimulator
) -> None:
    """A long outage was just replayed, over several segments of what is kept."""
    backlog = write_backlog(tmp_path / BUFFER, rows=9_000)
    pair.primary.stall("walsender")
    async with bridge(tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=pair.url) as service:
        await wait_for_rows(pair.primary.conninfo, len(backlog) + 10)
        await in_thread(pair.primary.kill)
        await in_thread(pair.standby.promote)
        await wait_for_rows(pair.standby.conninfo, len(backlog) + 20)
        run = await say_goodbye(service)
    run.rows[:0] = backlog
    assert len([*(tmp_path / f"{BUFFER}.sent").iterdir()]) > 2
    [again] = sent_again(pair.standby)
    assert again > len(backlog)
    await check(tmp_path / BUFFER, pair.standby.conninfo, [run], at_least=len(backlog))


async def test_through_a_pooler_that_is_pointed_to_the_standby_between_two_rows(
    tmp_path: Path,
    own_postgres: PostgresServer,
    postgres_factory: PostgresFactory,
    pooler: PgBouncer,
    gateway: TwsSimulator,
) -> None:
    """The bridge's connection to the pooler stays as it is."""
    pair = Pair(own_postgres, postgres_factory.standby_of(own_postgres))
    async with bridge(tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=pooler.url) as service:
        await wait_for_rows(pair.primary.conninfo, 10)
        await pair.lag()
        await trio.sleep(LAG_S)
        await in_thread(pair.standby.promote)
        with pooler.paused():
            await trio.sleep(0.05)  # the last answers are on their way
            lost = acknowledged(tmp_path) - stored(pair.standby)
            clients = pooler.clients()
            pooler.repoint(pair.standby)
        await wait_for_rows(pair.standby.conninfo, len(Run(service.output).rows) + 5)
        assert clients & pooler.clients(), "the connection did not outlive it"
        run = await say_goodbye(service)
    assert "database does not take rows" not in service.output
    assert sent_again(pair.standby) == [len(lost)]
    assert len(lost) >= 5
    await check(tmp_path / BUFFER, pair.standby.conninfo, [run], at_least=20)
    pair.standby.close()


@pytest.mark.parametrize("by", ["service", "flush"])
async def test_after_a_data_directory_was_rolled_back(
    by: str, tmp_path: Path, own_postgres: PostgresServer, gateway: TwsSimulator
) -> None:
    async with bridge(
        tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=own_postgres.url
    ) as service:
        await wait_for_rows(own_postgres.conninfo, 5)
        await in_thread(own_postgres.stop, "immediate")
        own_postgres.keep_copy()
        await in_thread(own_postgres.start)
        await wait_until_replayed(tmp_path)
        await wait_for_rows(own_postgres.conninfo, count_rows(own_postgres.conninfo) + 10)
        if by == "flush":
            run = await say_goodbye(service)
        await in_thread(own_postgres.kill)
        own_postgres.roll_back()
        lost = await in_thread(lost_by, own_postgres, tmp_path)
        await in_thread(own_postgres.start)
        if by == "service":
            await wait_for_rows(own_postgres.conninfo, len(Run(service.output).rows) + 5)
            run = await say_goodbye(service)
            assert sent_again(own_postgres) == [lost]
    assert lost >= 10
    if by == "flush":
        done = await run_command(tmp_path, "flush", DATABASE_URL=own_postgres.url)
        assert done.code == 0, done
        assert f"lost {lost} rows" in done.out
    assert acknowledged(tmp_path) <= stored(own_postgres)
    await check(tmp_path / BUFFER, own_postgres.conninfo, [run], at_least=15)


def lost_by(server: PostgresServer, home: Path) -> int:
    """How many acknowledged rows and events this stopped server will lack."""
    with server.out_of_sight():
        return len(acknowledged(home) - stored(server))


async def test_after_a_crash_of_a_server_that_acknowledges_before_it_writes(
    tmp_path: Path,
    own_postgres: PostgresServer,
    pooler: PgBouncer,
    gateway: TwsSimulator,
) -> None:
    """On its own connection the bridge insists on the disk; a pooler's other ones know nothing of
    that."""
    own_postgres.settings["synchronous_commit"] = "off"
    own_postgres.restart()
    async with bridge(tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=pooler.url) as service:
        await wait_for_rows(own_postgres.conninfo, 5)
        pooler.tell("RECONNECT")
        own_postgres.stall("walwriter")
        await more_rows(service, 15)
        await in_thread(own_postgres.kill)
        lost = await in_thread(lost_by, own_postgres, tmp_path)
        await in_thread(own_postgres.start)
        await wait_for_rows(own_postgres.conninfo, len(Run(service.output).rows) + 5)
        run = await say_goodbye(service)
    assert lost >= 5
    assert sent_again(own_postgres) == [lost]
    await check(tmp_path / BUFFER, own_postgres.conninfo, [run], at_least=20)


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE portfolio_greeks, api_logs",
        pytest.param("DELETE FROM portfolio_greeks; DELETE FROM api_logs", marks=pytest.mark.long),
    ],
)
async def test_what_its_owner_deletes_stays_deleted(
    statement: LiteralString, tmp_path: Path, own_postgres: PostgresServer, gateway: TwsSimulator
) -> None:
    """Also over a new connection, by the next bridge, and when the server is started again."""
    settings = {"IB_SOCKET_PORT": gateway.port, "DATABASE_URL": own_postgres.url}
    deleted: set[Key] = set()

    def delete() -> None:
        nonlocal deleted
        deleted |= stored(own_postgres)
        own_postgres.execute(statement)

    async with bridge(tmp_path, **settings) as service:
        await wait_for_rows(own_postgres.conninfo, 10)
        delete()
        own_postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'trio_bridge'"
        )
        await wait_for_rows(own_postgres.conninfo, 5)
        await say_goodbye(service)
    delete()
    async with bridge(tmp_path, **settings) as service:
        await wait_for_rows(own_postgres.conninfo, 5)
        await in_thread(own_postgres.restart)
        await wait_for_rows(own_postgres.conninfo, 10)
        await say_goodbye(service)
    assert len(deleted) >= 15
    assert sent_again(own_postgres) == []
    assert not deleted & stored(own_postgres)


async def test_a_failover_brings_nothing_back_that_was_deleted_before(
    tmp_path: Path, pair: Pair, gateway: TwsSimulator
) -> None:
    """As a retention policy does: old rows are missing on purpose, the newest by accident."""
    async with bridge(tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=pair.url) as service:
        await wait_for_rows(pair.primary.conninfo, 10)
        pair.primary.execute("TRUNCATE portfolio_greeks, api_logs")
        await wait_for_rows(pair.primary.conninfo, 3)
        await pair.lag()
        kept = acknowledged(tmp_path)
        await trio.sleep(LAG_S)
        await in_thread(pair.primary.kill)
        await in_thread(pair.standby.replay_all)
        there = stored(pair.standby)
        lost = acknowledged(tmp_path) - there - kept
        await in_thread(pair.standby.promote)
        await wait_for_rows(pair.standby.conninfo, len(there) + len(lost) + 5)
        await say_goodbye(service)
    assert len(lost) >= 5
    assert sent_again(pair.standby) == [len(lost)]
    assert not (kept - there) & stored(pair.standby)


async def test_another_database_gets_nothing_that_went_to_the_one_before(
    tmp_path: Path,
    own_postgres: PostgresServer,
    postgres_factory: PostgresFactory,
    gateway: TwsSimulator,
) -> None:
    """Nor does the first one, when it has the rows again and loses some."""
    other = postgres_factory.new_cluster()

    async def record(server: PostgresServer) -> Run:
        before = count_rows(server.conninfo)
        async with bridge(
            tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=server.url
        ) as service:
            await wait_for_rows(server.conninfo, before + 5)
            return await say_goodbye(service)

    runs = [await record(own_postgres)]
    await in_thread(own_postgres.stop)
    own_postgres.keep_copy()
    elsewhere = await record(other)
    await check(tmp_path / BUFFER, other.conninfo, [elsewhere])
    assert sent_again(other) == []
    other.close()
    await in_thread(own_postgres.start)
    runs.append(await record(own_postgres))
    await in_thread(own_postgres.kill)
    own_postgres.roll_back()
    await in_thread(own_postgres.start)
    await check(tmp_path / BUFFER, own_postgres.conninfo, runs, at_least=5)
