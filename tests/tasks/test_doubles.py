"""A second service in the same database is told once, from what the database really holds."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio

from tests.support.database import fetch, kinds, store, wait_for_rows
from tests.support.rows import snapshot
from trio_bridge.config import load_settings
from trio_bridge.errors import OutageError, StoreError
from trio_bridge.events.rows import SlotsDoubled, SlotsSingle
from trio_bridge.identity import NO_ID, account_of, recorder
from trio_bridge.model import AccountSet, RecentRow, Snapshot
from trio_bridge.policy.doubles import doubled_slots
from trio_bridge.service import run_service
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import open_tws_simulator
from trio_bridge.stores.database.reader import Reader
from trio_bridge.stores.reading.summary import recent_rows
from trio_bridge.tasks import doubles
from trio_bridge.tasks.doubles import (
    FIRST_LOOK_S,
    LOOK_EVERY_S,
    LOOK_TIMEOUT_S,
    watch_for_doubles,
)
from trio_bridge.tasks.ticker import TickerStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trio.testing import MockClock

    from trio_bridge.events.event import Event
    from trio_bridge.service import Service, Stopper

NOW = datetime(2026, 1, 2, 14, 30, tzinfo=UTC)
TOLD = SlotsDoubled(12, ("U1",))


async def read_rows(conninfo: str, since: datetime, until: datetime) -> list[RecentRow]:
    with closing(Reader(conninfo)) as reader:
        return await recent_rows(reader, since, until)


class Bench:
    """What the database answers, look by look, and what is said of it."""

    def __init__(self) -> None:
        self.ticker = TickerStatus(last=snapshot(1), accounts=("U1",))
        self.said: list[tuple[float, Event]] = []
        self.looks: list[float] = []
        self.doubled = True
        self.fails: Exception | None = None
        self.hangs = False
        self.is_empty = False

    async def read(self, since: datetime, until: datetime) -> Sequence[RecentRow]:
        self.looks.append(trio.current_time())
        assert (since, until) == (NOW - timedelta(seconds=60), NOW + timedelta(seconds=60))
        if self.fails is not None:
            raise self.fails
        if self.hangs:
            await trio.sleep_forever()
        slots = [NOW - timedelta(seconds=5 * slot) for slot in range(12, 0, -1)]
        rows = [RecentRow(at, "U1", None) for at in slots for _ in range(1 + self.doubled)]
        return [] if self.is_empty else rows

    def emit(self, event: Event) -> None:
        self.said.append((trio.current_time(), event))

    async def run(self, seconds: float) -> None:
        began = trio.current_time()
        with trio.move_on_after(seconds):
            await watch_for_doubles(
                self.read, self.ticker, interval_s=5.0, emit=self.emit, now=lambda: NOW
            )
        self.looks = [at - began for at in self.looks]
        self.said = [(at - began, event) for at, event in self.said]


async def test_it_is_told_once_after_a_minute(autojump_clock: MockClock) -> None:
    bench = Bench()
    await bench.run(2000)
    assert bench.looks == [FIRST_LOOK_S + turn * LOOK_EVERY_S for turn in range(4)]
    assert bench.said == [(60.0, TOLD)]


async def test_its_end_is_told_and_then_it_would_be_news_again(autojump_clock: MockClock) -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, 2500)
        for doubled, is_empty in ((True, False), (True, True), (False, False), (True, False)):
            bench.doubled, bench.is_empty = doubled, is_empty
            await trio.sleep(LOOK_EVERY_S)
    assert [event for _, event in bench.said] == [TOLD, SlotsSingle(), TOLD]


async def test_a_database_that_is_away_or_frozen_is_asked_again(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.fails = OutageError("connection refused")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, 2000)
        await trio.sleep(100)
        bench.fails, bench.hangs = None, True
        await trio.sleep(600)
        bench.hangs = False
    assert bench.looks == [60.0, 660.0, 1260.0 + LOOK_TIMEOUT_S, 1860.0 + LOOK_TIMEOUT_S]
    assert [at for at, _ in bench.said] == [1260.0 + LOOK_TIMEOUT_S]


async def test_nobody_looks_before_there_is_a_row_of_ours(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.ticker.last = None
    await bench.run(1000)
    assert (bench.looks, bench.said) == ([], [])


async def test_the_rows_are_read_in_their_order_and_no_others(fresh_database: str) -> None:
    with pytest.raises(StoreError, match="portfolio_greeks"):
        await read_rows(fresh_database, NOW, NOW)
    slots = [NOW + timedelta(seconds=5 * number) for number in range(5)]
    await store(fresh_database, [snapshot(n, at) for n, at in reversed([*enumerate(slots)])])
    assert await read_rows(fresh_database, slots[1], slots[3]) == [
        RecentRow(at, "U1", recorder()) for at in slots[1:4]
    ]


async def test_a_key_of_many_accounts_is_read_as_their_names(fresh_database: str) -> None:
    one = [f"DU{number:07}" for number in range(20)]
    keys = {account_of(names): ",".join(names) for names in (one, one[5:])}
    rows = [replace(snapshot(n, NOW), account=key, event_id=NO_ID) for n, key in enumerate(keys)]
    unknown = replace(rows[0], account=account_of(one[1:]), event_id=NO_ID)
    sets = [AccountSet(NOW, key, names) for key, names in keys.items()]
    await store(fresh_database, [*sets, *rows, unknown, AccountSet(NOW, *next(iter(keys.items())))])
    read = [row[:2] for row in await read_rows(fresh_database, NOW, NOW)]
    assert read == [*((NOW, names) for names in keys.values()), (NOW, unknown.account)]
    shared = [(NOW + timedelta(seconds=5 * slot), row[1]) for slot in range(9) for row in read[:2]]
    found = doubled_slots(shared, 5.0, ours=one[4:6])
    assert found is not None
    assert found.accounts == (one[5],)


@pytest.mark.parametrize(
    "change",
    [
        "account TYPE integer USING 1",
        "account TYPE text[] USING ARRAY[account]",
        "account TYPE jsonb USING to_jsonb(account)",
        '"timestamp" TYPE timestamp',
        '"timestamp" TYPE date',
        '"timestamp" TYPE text',
    ],
)
async def test_columns_of_other_types_are_nothing_to_stumble_over(
    fresh_database: str, change: str
) -> None:
    slots = [NOW + timedelta(seconds=5 * number) for number in range(5)]
    await store(fresh_database, [snapshot(n, at) for n, at in enumerate(slots)])
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE portfolio_greeks ALTER COLUMN {change}".encode())
    with suppress(StoreError):
        rows = await read_rows(fresh_database, slots[0], slots[-1])
        doubled_slots([row[:2] for row in rows], 5.0)


async def test_a_bug_in_the_look_does_not_end_the_recording(
    tmp_path: Path, fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("trio_bridge.service.watch_for_doubles", bug)

    async def stay(service: Service, stopper: Stopper) -> None:
        await wait_for_rows(fresh_database, 3)
        stopper.stop()

    async with open_tws_simulator(make_book()) as sim:
        settings = load_settings(
            ib_socket_host=sim.host,
            ib_socket_port=sim.port,
            database_url=fresh_database,
            buffer_path=tmp_path / "buffer",
            poll_interval_s=0.2,
        )
        await run_service(settings, stay)
    assert "service.part_broke" in kinds(fresh_database)


async def test_a_service_sees_another_one_in_its_database(
    tmp_path: Path, fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubles, "FIRST_LOOK_S", 0.5)
    monkeypatch.setattr(doubles, "LOOK_EVERY_S", 0.5)
    book = make_book()
    account = ",".join(book.accounts)

    async def be_the_other(service: Service, stopper: Stopper) -> None:
        """As it would record, a little later in each slot."""
        await wait_for_rows(fresh_database, 1)
        at = fetch(fresh_database, "SELECT min(timestamp) FROM portfolio_greeks")[0][0]
        await store(
            fresh_database,
            [
                Snapshot(
                    at + timedelta(seconds=0.2 * slot + 0.02),
                    account,
                    0.0,
                    0.0,
                    0.0,
                    0.0,
                    None,
                    0,
                    0,
                )
                for slot in range(100)
            ],
        )
        with trio.move_on_after(30):
            while not any(event.kind == SlotsDoubled.kind for event in service.events):
                await trio.sleep(0.05)
        stopper.stop()

    async with open_tws_simulator(book) as sim:
        settings = load_settings(
            ib_socket_host=sim.host,
            ib_socket_port=sim.port,
            database_url=fresh_database,
            buffer_path=tmp_path / "buffer",
            poll_interval_s=0.2,
        )
        await run_service(settings, be_the_other)
    assert kinds(fresh_database).count(SlotsDoubled.kind) == 1
