"""Long stretches read back from a real PostgreSQL: thinned out, exact where rows are missing."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio

from tests.support.database import store
from tests.support.rows import event, snapshot
from trio_bridge.errors import OutageError, StoreError
from trio_bridge.events.service import ServiceStarted
from trio_bridge.model import ApiMode
from trio_bridge.stores.reading import gaps as gaps_module
from trio_bridge.stores.reading import history as history_module
from trio_bridge.stores.reading.buckets import Window
from trio_bridge.stores.reading.history import History
from trio_bridge.stores.reading.landing import Landing

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer
    from trio_bridge.model import ApiEvent
    from trio_bridge.stores.reading.history import Chart

START = datetime(2026, 1, 2, 14, 0, tzinfo=UTC)
MONTH_SLOTS = 30 * 17_280


def at(slot: float) -> datetime:
    return START + timedelta(seconds=5 * slot)


async def chart(
    conninfo: str, first: float = 0, end: float = 12, slots_per_bucket: int = 1
) -> Chart:
    reader = History(conninfo)
    try:
        return await reader.chart(Window(at(first), at(end), 5.0 * slots_per_bucket, 5.0))
    finally:
        reader.close()


async def test_rows_come_one_by_one_when_there_are_few(fresh_database: str) -> None:
    await store(fresh_database, [snapshot(n, at(n)) for n in range(12)])

    told = await chart(fresh_database)

    assert [bucket.final[0] for bucket in told.buckets] == [float(n) for n in range(12)]
    assert [bucket.last for bucket in told.buckets] == [at(n) for n in range(12)]
    assert told.gaps == []
    assert told.since == at(0)


async def test_the_window_holds_its_start_and_not_its_end(fresh_database: str) -> None:
    await store(fresh_database, [snapshot(n, at(n)) for n in range(12)])

    told = await chart(fresh_database, 3, 6)

    assert [bucket.final[0] for bucket in told.buckets] == [3.0, 4.0, 5.0]


async def test_a_spike_of_one_row_survives_the_thinning(fresh_database: str) -> None:
    await store(fresh_database, [snapshot(9_999 if n == 7 else n, at(n)) for n in range(24)])

    told = await chart(fresh_database, end=24, slots_per_bucket=12)

    first, second = told.buckets
    assert (first.rows, first.lowest[0], first.highest[0], first.final[0]) == (
        12,
        0.0,
        9_999.0,
        11.0,
    )
    assert (second.lowest[0], second.highest[0], second.final[0]) == (12.0, 23.0, 23.0)


async def test_rows_without_greeks_are_rows_but_not_right_ones(fresh_database: str) -> None:
    await store(fresh_database, [snapshot(n, at(n)) for n in range(4)])
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        connection.execute("UPDATE portfolio_greeks SET delta = NULL WHERE delta IN (1, 3)")

    (bucket,) = (await chart(fresh_database, end=4, slots_per_bucket=12)).buckets

    assert (bucket.rows, bucket.right_rows) == (4, 2)
    assert (bucket.lowest[0], bucket.highest[0], bucket.final[0]) == (0.0, 2.0, None)


@pytest.mark.parametrize("slots_per_bucket", [1, 3, 7, 60, 720])
async def test_a_gap_is_exact_however_wide_the_buckets_are(
    slots_per_bucket: int, fresh_database: str
) -> None:
    missing = {10, 30, 31, 32, *range(50, 80)}
    await store(fresh_database, [snapshot(n, at(n)) for n in range(120) if n not in missing])

    told = await chart(fresh_database, end=120, slots_per_bucket=slots_per_bucket)

    assert [(gap.start, gap.end, gap.is_open) for gap in told.gaps] == [
        (at(9), at(11), False),
        (at(29), at(33), False),
        (at(49), at(80), False),
    ]


async def test_late_rows_are_no_gap(fresh_database: str) -> None:
    late = [0, 0.49, 0, 0.45, 0.02]
    await store(fresh_database, [snapshot(n, at(n + late[n % 5])) for n in range(40)])

    assert (await chart(fresh_database, end=40, slots_per_bucket=9)).gaps == []


def started(slot: float, interval_s: float) -> ApiEvent:
    return ServiceStarted("1.0", ApiMode.SOCKET, interval_s).as_row(at(slot), ApiMode.SOCKET)


@pytest.mark.parametrize("slots_per_bucket", [1, 3, 60, 480])
async def test_rows_at_a_longer_interval_of_the_past_are_no_gaps_but_missing_ones_are(
    slots_per_bucket: int, fresh_database: str
) -> None:
    """Every minute until slot 240, but for three of them; then every 5 s, but for one."""
    slow = [n for n in range(0, 240, 12) if n not in (120, 132, 144)]
    fast = [n for n in range(240, 480) if n != 300]
    await store(fresh_database, [snapshot(n, at(n)) for n in (*slow, *fast)])
    await store(fresh_database, [started(-1, 60), started(239.5, 5)])

    gaps = (await chart(fresh_database, end=480, slots_per_bucket=slots_per_bucket)).gaps

    assert [(gap.start, gap.end, gap.interval_s) for gap in gaps] == [
        (at(108), at(156), 60),
        (at(299), at(301), 5),
    ]


@pytest.mark.parametrize("slots_per_bucket", [1, 720])
@pytest.mark.parametrize(("before_s", "after_s"), [(60, 5), (5, 60)])
async def test_a_change_of_the_interval_is_no_gap(
    slots_per_bucket: int, before_s: int, after_s: int, fresh_database: str
) -> None:
    """The first row comes when the next slot of the new grid is due."""
    numbers = [*range(0, 60, before_s // 5), *range(60, 121, after_s // 5)]
    await store(fresh_database, [snapshot(n, at(n)) for n in numbers])
    await store(fresh_database, [started(-1, before_s), started(59.5, after_s)])

    assert (await chart(fresh_database, end=121, slots_per_bucket=slots_per_bucket)).gaps == []


async def test_the_start_before_the_window_counts_and_the_last_row_before_it(
    fresh_database: str,
) -> None:
    """At the edge the interval at the row before the window: not today's, which is longer."""
    await store(fresh_database, [snapshot(n, at(n)) for n in (*range(5), *range(12, 20))])
    await store(fresh_database, [started(-9, 3600), started(-1, 5), started(6, 5)])
    reader = History(fresh_database)

    gaps = (await reader.chart(Window(at(8), at(20), 60, 60))).gaps

    assert [(gap.start, gap.end) for gap in gaps] == [(at(4), at(12))]
    reader.close()


@pytest.mark.parametrize("slots_per_bucket", [1, 720])
async def test_the_edges_of_a_slow_time_are_no_gaps(
    slots_per_bucket: int, fresh_database: str
) -> None:
    await store(fresh_database, [snapshot(n, at(n)) for n in range(0, 240, 12)])
    await store(fresh_database, [started(-1, 60)])

    told = await chart(fresh_database, 100, 200, slots_per_bucket)

    assert told.gaps == []
    beyond = await chart(fresh_database, 100, 300, slots_per_bucket)
    assert [(gap.start, gap.end, gap.is_open) for gap in beyond.gaps] == [(at(228), at(300), True)]


async def test_gaps_before_and_after_the_first_recorded_start(fresh_database: str) -> None:
    rows = [n for n in range(24) if n not in (5, 17)]
    await store(fresh_database, [*(snapshot(n, at(n)) for n in rows), started(11.5, 5)])
    reader = History(fresh_database)

    gaps = (await reader.chart(Window(at(0), at(24), 60, 5))).gaps

    assert [(gap.start, gap.end) for gap in gaps] == [(at(4), at(6)), (at(16), at(18))]
    reader.close()


async def test_a_service_that_has_just_started_has_no_gap_yet(fresh_database: str) -> None:
    """Its start is later than what is certain: rows may take four seconds until they are safe."""
    await store(fresh_database, [snapshot(0, at(0)), started(-0.1, 5)])
    reader = History(fresh_database)

    assert (await reader.chart(Window(at(-9), at(0.4), 5, 5, now=at(0.4)))).gaps == []
    reader.close()


@pytest.mark.parametrize("slots_per_bucket", [1, 720])
async def test_without_a_recorded_start_todays_interval_judges(
    slots_per_bucket: int, fresh_database: str
) -> None:
    """Tables of an earlier system, whose events have no numbers."""
    await store(fresh_database, [snapshot(n, at(n)) for n in range(0, 240, 12)])
    await store(fresh_database, [event("has started: a row every 60 s", at(-1), "service.started")])

    gaps = (await chart(fresh_database, end=229, slots_per_bucket=slots_per_bucket)).gaps

    assert [gap.end - gap.start for gap in gaps] == [at(12) - at(0)] * 19
    assert {gap.interval_s for gap in gaps} == {5}


async def test_a_row_that_may_still_be_on_its_way_makes_no_gap(fresh_database: str) -> None:
    await store(fresh_database, [snapshot(n, at(n)) for n in range(3)])
    reader = History(fresh_database)

    gaps = {
        late: (await reader.chart(Window(at(0), at(late), 5, 5, now=at(late)))).gaps
        for late in (4.54, 4.56)
    }

    assert gaps[4.54] == []
    assert [(gap.start, gap.end, gap.is_open) for gap in gaps[4.56]] == [(at(2), at(4.56), True)]
    reader.close()


async def test_a_gap_may_reach_beyond_the_window(fresh_database: str) -> None:
    await store(fresh_database, [snapshot(n, at(n)) for n in (0, 10, 11, 20)])

    told = await chart(fresh_database, 5, 16)

    assert [(gap.start, gap.end, gap.is_open) for gap in told.gaps] == [
        (at(0), at(10), False),
        (at(11), at(16), True),
    ]


async def test_before_the_first_row_ever_there_is_no_gap(fresh_database: str) -> None:
    await store(fresh_database, [snapshot(n, at(n)) for n in range(10, 12)])

    told = await chart(fresh_database)

    assert told.gaps == []
    assert told.since == at(10)


async def test_a_window_without_a_row_is_one_gap(fresh_database: str) -> None:
    await store(fresh_database, [snapshot(0, at(0))])

    told = await chart(fresh_database, 5, 9)

    assert told.buckets == []
    assert [(gap.start, gap.end, gap.is_open) for gap in told.gaps] == [(at(0), at(9), True)]


@pytest.mark.parametrize("old", [True, False], ids=["events without a kind", "with kinds"])
async def test_a_gap_comes_with_what_the_log_says_about_it(fresh_database: str, old: bool) -> None:
    def happened(kind: str, text: str, second: float) -> ApiEvent:
        return event(text if old else "a better text", at(second), None if old else kind)

    await store(fresh_database, [snapshot(n, at(n)) for n in (0, 1, 10, 11)])
    await store(
        fresh_database,
        [
            event("before", at(0.5)),
            event("disconnected from gateway:4001: it closed the connection", at(1.2), "a.b"),
            happened("database.circuit_opened", "database circuit CLOSED → OPEN: gone", 1.3),
            event("no rows: not connected", at(2)),
            happened("database.circuit_changed", "database circuit OPEN → HALF_OPEN: gone", 3),
            happened("gateway.connected", "connected to gateway:4001", 9),
            event("rows again", at(10)),
            event("after", at(10.5)),
        ],
    )

    (gap,) = (await chart(fresh_database)).gaps

    assert [reason.message for reason in gap.reasons] == [
        "disconnected from gateway:4001: it closed the connection",
        "no rows: not connected",
        "rows again",
    ]


async def test_only_the_first_reasons_of_a_long_night(fresh_database: str) -> None:
    await store(fresh_database, [snapshot(0, at(0)), snapshot(5_000, at(5_000))])
    await store(fresh_database, [event(f"attempt {n}", at(1 + n)) for n in range(900)])

    (gap,) = (await chart(fresh_database, end=5_001, slots_per_bucket=60)).gaps

    assert [reason.message for reason in gap.reasons] == ["attempt 0", "attempt 1", "attempt 2"]


async def test_the_cause_of_a_gap_comes_before_what_else_happened(fresh_database: str) -> None:
    """However much was said before it."""
    await store(fresh_database, [snapshot(0, at(0)), snapshot(100, at(100))])
    said = [event(f"remark {n}", at(1 + n / 10), "gateway.remark") for n in range(90)]
    cause = event("no rows: cut off", at(50), "rows.missed")
    start = event("has started", at(90), "service.started")
    old = [event("of an older version", at(0.5))]
    await store(fresh_database, [*old, *said, cause, start])

    (gap,) = (await chart(fresh_database, end=101, slots_per_bucket=60)).gaps

    assert [reason.message for reason in gap.reasons] == [
        *("no rows: cut off", "has started", "of an older version")
    ]


async def test_of_very_many_gaps_the_longest_are_told(fresh_database: str) -> None:
    rows = [n for n in range(1_000) if n % 3 != 2 and not 500 < n < 520]
    await store(fresh_database, [snapshot(n, at(n)) for n in rows])

    told = await chart(fresh_database, end=1_000, slots_per_bucket=50)

    assert len(told.gaps) == gaps_module.MOST_GAPS
    assert (at(499), at(520)) in [(gap.start, gap.end) for gap in told.gaps]


async def test_rows_of_single_contracts_are_not_the_portfolios(fresh_database: str) -> None:
    await store(fresh_database, [snapshot(n, at(n)) for n in range(3)])
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        connection.execute("UPDATE portfolio_greeks SET contract = 'SPX' WHERE delta = 1")

    assert [bucket.final[0] for bucket in (await chart(fresh_database)).buckets] == [0.0, 2.0]


async def test_events_are_the_latest_oldest_first(fresh_database: str) -> None:
    await store(fresh_database, [event(str(n), at(n)) for n in range(5)])
    reader = History(fresh_database)

    assert [one.message for one in await reader.events(3)] == ["2", "3", "4"]
    reader.close()


async def test_without_tables_there_is_nothing_and_no_error(fresh_database: str) -> None:
    reader = History(fresh_database)

    told = await reader.chart(Window(at(0), at(12), 5, 5))

    assert (told.buckets, told.gaps, told.since) == ((), (), None)
    assert await reader.events(5) == []
    reader.close()


async def test_reading_leaves_no_setting_behind_on_a_shared_connection(fresh_database: str) -> None:
    """A pooler gives the same server connection to the writer next."""
    await store(fresh_database)
    reader = History(fresh_database)
    await reader.events(1)

    (connection,) = reader._reader._idle
    cursor = await connection.execute(
        "SELECT current_setting('transaction_read_only'), current_setting('statement_timeout')"
    )
    assert await cursor.fetchone() == ("off", "0")
    reader.close()


async def test_a_database_that_is_away_is_said_at_once_and_found_again(
    own_postgres: PostgresServer,
) -> None:
    await store(own_postgres.conninfo, [event("here", at(0))])
    reader = History(own_postgres.conninfo)
    await reader.events(1)
    own_postgres.stop()
    with pytest.raises(StoreError):
        await reader.events(1)
    own_postgres.start()

    assert [one.message for one in await reader.events(1)] == ["here"]
    reader.close()


async def test_a_frozen_database_holds_nobody_longer_than_agreed(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(own_postgres.conninfo)
    monkeypatch.setattr(history_module, "ANSWER_TIMEOUT_S", 0.5)
    reader = History(own_postgres.conninfo)
    await reader.events(1)
    own_postgres.freeze()
    began = trio.current_time()
    with pytest.raises(OutageError, match=r"did not answer within 0\.5 s"):
        await reader.events(1)
    assert trio.current_time() - began < 20  # generous for a busy machine; frozen is for ever
    own_postgres.thaw()
    assert await reader.events(1) == []
    reader.close()


async def test_a_process_out_of_descriptors_gets_an_error_of_ours(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_them(fileno: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("trio_bridge.stores.database.connection.os.dup", out_of_them)
    history, landing = History(fresh_database), Landing(fresh_database)
    for ask in (partial(chart, fresh_database), partial(history.events, 5), landing.look):
        with pytest.raises(StoreError, match="Too many open files"):
            await ask()


async def test_too_many_questions_at_once_are_turned_away(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(own_postgres.conninfo)
    monkeypatch.setattr(history_module, "MOST_WAITING", 3)
    reader = History(own_postgres.conninfo)
    refused: list[str] = []

    async def ask() -> None:
        try:
            await reader.events(1)
        except OutageError as error:
            refused.append(str(error))

    own_postgres.freeze()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)
            while len(refused) < 3:
                await trio.sleep(0.01)
            own_postgres.thaw()
    assert len(refused) == 3  # two are asking, three wait
    assert all("too many questions" in text for text in refused)
    reader.close()


async def test_who_stops_waiting_leaves_no_connection_in_mid_query(fresh_database: str) -> None:
    await store(fresh_database)
    reader = History(fresh_database)
    with trio.move_on_after(0):
        await reader.events(1)
    assert reader._reader._idle == []
    assert await reader.events(1) == []
    assert len(reader._reader._idle) == 1
    reader.close()


async def test_a_month_of_rows_is_read_quickly(postgres: PostgresServer) -> None:
    """The figure is the page's test; this one sees that the plan is no disaster."""
    name = postgres.new_database()
    conninfo = postgres.conninfo_of(name)
    try:
        await store(conninfo)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO portfolio_greeks (timestamp, delta) SELECT %s + n * interval '5 s', n "
                "FROM generate_series(0, %s) AS n WHERE n %% 17280 <> 99",
                [START, MONTH_SLOTS - 1],
            )
            connection.execute("ANALYZE portfolio_greeks")
        with trio.fail_after(10):  # 0.4 s on an idle machine
            told = await chart(conninfo, end=MONTH_SLOTS, slots_per_bucket=864)
        assert len(told.buckets) == 601 or len(told.buckets) == 600
        assert sum(bucket.rows for bucket in told.buckets) == MONTH_SLOTS - 30
        assert len(told.gaps) == 30
    finally:
        postgres.drop_database(name)
