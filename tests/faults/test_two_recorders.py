"""Two services on one account and one database, on one gateway or on two: each slot is there once,
and no slot is missing that one of them took."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.faults.ledger import BUFFER, POLL_INTERVAL_S, SETTINGS, Run, bridge, more_rows
from tests.support import skewed
from tests.support.command import run_command
from tests.support.database import fetch
from tests.support.process import PATIENCE_S, running_program
from trio_bridge.identity import account_of, is_key
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import TwsSimulator, open_tws_simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tests.support.process import ServiceProcess

INTERVAL = timedelta(seconds=POLL_INTERVAL_S)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STANDBY_INTERVAL_S = 0.5
"""Of the tests with a standby: on a busy machine it would not rest for long with a shorter one."""

# How the log says it
TOOK_OVER = "the standby takes over"
STEPPED_BACK = "the standby steps back"
CIRCUIT_OPENED = "failures in a row"

in_thread = trio.to_thread.run_sync


class Station:
    """A machine with a gateway, a spool, and one life of a service after the other."""

    def __init__(self, home: Path, gateway: TwsSimulator, conninfo: str, **settings: Any) -> None:
        home.mkdir()
        self.home = home
        self.gateway = gateway
        self.settings = {"IB_SOCKET_PORT": gateway.port, "DATABASE_URL": conninfo, **settings}
        self.runs: list[Run] = []
        self._stack = AsyncExitStack()
        self._service: ServiceProcess | None = None

    @property
    def service(self) -> ServiceProcess:
        assert self._service is not None
        return self._service

    async def start(self) -> None:
        script = ("-P", skewed.__file__)
        service = running_program(self.home, script, **{**SETTINGS, **self.settings})
        self._service = await self._stack.enter_async_context(service)

    async def kill(self) -> None:
        self.service.process.kill()
        await self.service.wait()
        self.runs.append(Run(self.service.output, datetime.now(UTC)))
        self._service = None

    async def end(self) -> None:
        self.service.interrupt()
        assert await self.service.wait() == 0, self.service.output[-2000:]
        assert "Traceback" not in self.service.output
        self.runs.append(Run(self.service.output))
        self._service = None

    async def more_rows(self, rows: int = 20) -> None:
        await more_rows(self.service, rows)

    async def says_again(self, text: str, after: int) -> int:
        """Wait until its log has this more often than `after` times; return how often."""
        await until(lambda: self.service.output.count(text) > after, lambda: self.service.output)
        return self.service.output.count(text)

    async def rests(self) -> None:
        """Wait until it uses no market-data line and has no row to give."""
        await until(lambda: self.lines == 0, lambda: self.service.output)

    @property
    def lines(self) -> int:
        client = self.settings["IB_CLIENT_ID"]
        return sum(
            len(session.market_data.subscriptions)
            for session in self.gateway.sessions
            if session.client_id == client
        )

    async def close(self) -> None:
        await self._stack.aclose()


async def until(condition: Callable[[], object], complaint: Callable[[], str]) -> None:
    with trio.move_on_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.05)
        return
    raise AssertionError(complaint()[-3000:])


@asynccontextmanager
async def stations(
    room: Path,
    conninfo: str,
    *shapes: dict[str, Any],
    gateways: int = 1,
) -> AsyncIterator[list[Station]]:
    """Two of them, on one gateway or on two with the same book; `shapes` are their settings."""
    book = make_book()
    async with AsyncExitStack() as stack:
        simulators = [
            await stack.enter_async_context(open_tws_simulator(book)) for _ in range(gateways)
        ]
        both = [
            Station(
                room / name, simulators[number % gateways], conninfo, IB_CLIENT_ID=client, **shape
            )
            for number, (name, client, shape) in enumerate(
                zip(("one", "other"), (11, 12), shapes, strict=True)
            )
        ]
        try:
            for station in both:
                await station.start()
            yield both
        finally:
            for station in both:
                await station.close()


async def check(conninfo: str, both: Sequence[Station], *, at_least: int = 20) -> None:
    """Each slot once, and all that one of them took, but for the last instants of killed ones."""
    for station in both:
        flushed = await run_command(
            station.home,
            "flush",
            BRIDGE_BUFFER_PATH=station.home / BUFFER,
            DATABASE_URL=conninfo,
        )
        assert flushed.code == 0, flushed
    runs = [run for station in both for run in station.runs]
    slots = [at for (at,) in fetch(conninfo, "SELECT timestamp FROM portfolio_greeks")]
    assert len(slots) == len(set(slots)), "a slot is there twice"
    promised = {row for run in runs for row in run.promised}
    assert len(promised) >= at_least, "the test took too few rows to mean anything"
    assert sorted(promised - set(slots)) == [], "rows are missing"
    unknown = set(slots) - {row for run in runs for row in run.rows}
    # The last log line of a killed process may be torn, its row stored all the same.
    assert len(unknown) <= sum(run.killed_at is not None for run in runs)


@pytest.mark.parametrize("gateways", [1, 2])
async def test_one_dies_the_database_fails_and_the_other_dies_meanwhile(
    gateways: int, tmp_path: Path, own_postgres: PostgresServer
) -> None:
    server = own_postgres
    async with stations(tmp_path, server.conninfo, {}, {}, gateways=gateways) as (one, other):
        for station in (one, other):
            await station.more_rows()
        await one.kill()
        await other.more_rows()
        await one.start()
        await one.more_rows()
        await in_thread(server.stop)
        for station in (one, other):
            await station.says_again(CIRCUIT_OPENED, 0)
            await station.more_rows()
        await other.kill()
        await one.more_rows()
        await other.start()
        await other.more_rows()
        await in_thread(server.start)
        for station in (one, other):
            await station.more_rows()
            await station.end()
        await check(server.conninfo, (one, other))


@pytest.mark.parametrize("skew", [-0.4, 0.4])
async def test_with_a_clock_that_is_wrong(skew: float, tmp_path: Path, fresh_database: str) -> None:
    wrong = {"SKEWED_BY": skew * POLL_INTERVAL_S}
    async with stations(tmp_path, fresh_database, {}, wrong) as both:
        for station in both:
            await station.more_rows(40)
        for station in both:
            await station.end()
    await check(fresh_database, both)
    taken = [{*station.runs[0].rows} for station in both]
    assert len(taken[0] & taken[1]) > 20, "they hardly recorded at the same time"
    assert all((at - EPOCH) % INTERVAL == timedelta() for at in taken[1])


async def test_with_different_intervals(tmp_path: Path, fresh_database: str) -> None:
    slower = {"BRIDGE_POLL_INTERVAL": 2 * POLL_INTERVAL_S}
    async with stations(tmp_path, fresh_database, {}, slower) as both:
        for station in both:
            await station.more_rows(20)
        for station in both:
            await station.end()
    await check(fresh_database, both)
    assert {*both[0].runs[0].rows} & {*both[1].runs[0].rows}


async def test_a_complete_row_gets_its_slot_before_a_partial_one(
    tmp_path: Path, fresh_database: str
) -> None:
    """The clock of the one that lacks an option is ahead: it would be first in every slot."""
    interval_s = 1.0
    settings = {"BRIDGE_POLL_INTERVAL": interval_s}
    ahead = {"SKEWED_BY": 0.05 * interval_s}
    complete = "SELECT count(*) FROM portfolio_greeks WHERE verdict = 'complete'"
    async with stations(tmp_path, fresh_database, settings | ahead, settings, gateways=2) as (
        partial,
        whole,
    ):
        options = [
            held.contract.con_id
            for held in partial.gateway.book.positions()
            if held.contract.is_option
        ]
        await partial.kill()
        partial.gateway.refuse_market_data(options[:1], 354)
        await partial.start()
        await partial.more_rows(2)
        already = fetch(fresh_database, complete)[0][0]
        await until(
            lambda: fetch(fresh_database, complete)[0][0] >= already + 8,
            lambda: partial.service.output,
        )
        for station in (partial, whole):
            await station.end()
    await check(fresh_database, (partial, whole), at_least=5)
    common = {*partial.runs[-1].rows} & {*whole.runs[-1].rows}
    assert common, "they hardly recorded at the same time"


@pytest.mark.parametrize("gateways", [1, 2])
async def test_a_standby_takes_over_and_steps_back(
    gateways: int, tmp_path: Path, own_postgres: PostgresServer
) -> None:
    server = own_postgres
    settings = {"BRIDGE_POLL_INTERVAL": STANDBY_INTERVAL_S}
    shapes = (settings, {**settings, "BRIDGE_STANDBY": 1})
    async with stations(tmp_path, server.conninfo, *shapes, gateways=gateways) as both:
        primary, standby = both
        await primary.more_rows(5)
        await standby.rests()
        # The recorder dies, and comes back
        took, stepped = standby.service.output.count(TOOK_OVER), 0
        stepped = standby.service.output.count(STEPPED_BACK)
        await primary.kill()
        took = await standby.says_again(TOOK_OVER, took)
        await standby.more_rows(8)
        assert standby.lines > 0
        await primary.start()
        stepped = await standby.says_again(STEPPED_BACK, stepped)
        await standby.rests()
        # Nobody knows of anybody while the database is down; the recorder dies meanwhile
        await in_thread(server.stop)
        took = await standby.says_again(TOOK_OVER, took)
        await standby.more_rows(5)
        await primary.kill()
        await standby.more_rows(5)
        await in_thread(server.start)
        await standby.more_rows(5)
        await primary.start()
        await standby.says_again(STEPPED_BACK, stepped)
        await standby.rests()
        await primary.more_rows(5)
        for station in both:
            await station.end()
        await check(server.conninfo, both)
    events = fetch(server.conninfo, "SELECT kind, recorder FROM api_logs WHERE kind ~ '^recorder'")
    assert {kind for kind, _ in events} == {"recorder.took_over", "recorder.stepped_back"}
    assert len({recorder for _, recorder in events}) == 1
    names = fetch(server.conninfo, "SELECT DISTINCT recorder FROM portfolio_greeks")
    assert sum(name.endswith(" (standby)") for (name,) in names) == 1


@pytest.mark.parametrize("accounts", [1, 12])
async def test_each_slot_is_stored_once_whoever_took_it(
    accounts: int, tmp_path: Path, fresh_database: str
) -> None:
    book = make_book(accounts=accounts)
    async with open_tws_simulator(book) as gateway:
        settings = {"IB_SOCKET_PORT": gateway.port, "DATABASE_URL": fresh_database}
        homes = [tmp_path / name for name in ("one", "other")]
        for home in homes:
            home.mkdir()
        async with (
            bridge(homes[0], IB_CLIENT_ID=11, **settings) as one,
            bridge(homes[1], IB_CLIENT_ID=12, **settings) as other,
        ):
            for service in (one, other):
                await more_rows(service, 40)
            for service in (one, other):
                service.interrupt()
                assert await service.wait() == 0
    runs = [Run(service.output) for service in (one, other)]
    both = {*runs[0].rows} & {*runs[1].rows}
    assert len(both) > 20, "they hardly recorded at the same time"
    stored = fetch(
        fresh_database, "SELECT timestamp, late_s, recorder FROM portfolio_greeks ORDER BY id"
    )
    slots = [at for at, _, _ in stored]
    assert sorted(slots) == sorted({*runs[0].rows, *runs[1].rows})
    assert all((at - EPOCH) % INTERVAL == timedelta() for at in slots)
    assert all(late_s >= 0 for _, late_s, _ in stored)
    recorders = {name for (name,) in fetch(fresh_database, "SELECT recorder FROM api_logs")}
    assert len(recorders) == 2
    assert {recorder for _, _, recorder in stored} <= recorders
    for service in (one, other):
        assert any(f":{service.pid}-" in name for name in recorders)
    _check_accounts(fresh_database, book.accounts)


def _check_accounts(conninfo: str, accounts: Sequence[str]) -> None:
    account = account_of(accounts)
    assert fetch(conninfo, "SELECT DISTINCT account FROM portfolio_greeks") == [(account,)]
    sets = fetch(conninfo, "SELECT key, accounts, timestamp FROM account_sets ORDER BY id")
    if not is_key(account):
        assert sets == []
        return
    assert 1 <= len(sets) <= 2
    assert {(key, names) for key, names, _ in sets} == {(account, ",".join(sorted(accounts)))}
    first = fetch(conninfo, "SELECT min(timestamp) FROM portfolio_greeks")
    assert min(at for _, _, at in sets) == first[0][0]
