"""The promises, one short test each, through the public names. Everything deeper stands beside."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio

import trio_bridge
from tests.delivery.sinks import running, spooled
from tests.support.database import fetch, messages
from tests.support.time import WallClock, eastern
from trio_bridge.config import ENVIRONMENT_NAMES
from trio_bridge.delivery.delivery import Delivery
from trio_bridge.delivery.flusher import run_flusher
from trio_bridge.delivery.outlet import Outlet
from trio_bridge.gateways.fake import FakeBridge
from trio_bridge.model import ApiEvent, ApiMode, Position, Snapshot
from trio_bridge.policy.reset_window import hold_until, parse_reset_windows
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import open_tws_simulator
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.fake import FakeStore, Mishap
from trio_bridge.stores.record import record_of
from trio_bridge.stores.spool.fake_disk import FakeDisk
from trio_bridge.stores.spool.spool import Spool
from trio_bridge.tasks.supervisor import Supervisor
from trio_bridge.tasks.ticker import Ticker

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from trio.testing import MockClock

NIGHTLY = parse_reset_windows("23:40-00:05")
PAYLOAD = {"timestamp", "contract", "delta", "gamma", "vega", "theta", "underlying_price"}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the person who runs the tests, and no `.env`."""
    for name in ENVIRONMENT_NAMES.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def snapshot(at: datetime) -> Snapshot:
    return Snapshot(at, "DU1", 1.0, 2.0, 3.0, 4.0, 100.0, positions=1, priced=1)


# Two modes, chosen by IB_API_MODE alone


def test_socket_mode_is_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IB_API_MODE", "SOCKET")
    assert isinstance(trio_bridge.build_bridge_from_env(), trio_bridge.SocketBridge)


def test_portal_mode_is_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IB_API_MODE", "portal  # the web one")
    assert isinstance(trio_bridge.build_bridge_from_env(), trio_bridge.PortalBridge)


def test_socket_mode_is_the_default() -> None:
    assert isinstance(trio_bridge.build_bridge_from_env(), trio_bridge.SocketBridge)


def test_an_invalid_mode_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IB_API_MODE", "TELEPATHY")
    with pytest.raises(ValueError, match="IB_API_MODE=TELEPATHY: must be SOCKET or PORTAL"):
        trio_bridge.build_bridge_from_env()


def test_both_bridges_keep_one_contract() -> None:
    for bridge in (trio_bridge.SocketBridge, trio_bridge.PortalBridge):
        assert issubclass(bridge, trio_bridge.IBridgeBase)
        for method in ("connect", "disconnect", "is_connected", "get_portfolio_greeks"):
            assert callable(getattr(bridge, method))


# The tables


async def test_both_tables_are_made_and_again_without_harm(fresh_database: str) -> None:
    connection = await TrioConnection.connect(fresh_database, autocommit=True)
    async with connection:
        await trio_bridge.ensure_bridge_schema(connection)
        await trio_bridge.log_api_event(connection, event("kept"))
        await trio_bridge.ensure_bridge_schema(connection)
    assert messages(fresh_database) == ["kept"]
    assert fetch(fresh_database, "SELECT count(*) FROM portfolio_greeks") == [(0,)]


async def test_a_portfolio_row_is_persisted(fresh_database: str) -> None:
    at = eastern(2026, 3, 2, 12)
    connection = await TrioConnection.connect(fresh_database, autocommit=True)
    async with connection:
        await trio_bridge.ensure_bridge_schema(connection)
        row = snapshot(at)
        assert await trio_bridge.write_portfolio_snapshot(connection, row)
        assert not await trio_bridge.write_portfolio_snapshot(connection, row)
    assert fetch(
        fresh_database,
        "SELECT contract, delta, gamma, vega, theta, underlying_price, timestamp"
        " FROM portfolio_greeks",
    ) == [("PORTFOLIO", 1.0, 2.0, 3.0, 4.0, 100.0, at)]


def event(message: str) -> ApiEvent:
    return ApiEvent(eastern(2026, 3, 2, 12), ApiMode.SOCKET, message)


# The payload and its pace


async def test_the_payload_has_its_keys() -> None:
    async with open_tws_simulator(make_book()) as gateway:
        settings = trio_bridge.load_settings(ib_socket_port=gateway.port)
        async with trio_bridge.SocketBridge(settings) as bridge:
            await bridge.connect()
            assert bridge.is_connected()
            payload = await first_payload(bridge)
            await bridge.disconnect()
            assert not bridge.is_connected()
    assert set(Snapshot.__dataclass_fields__) >= PAYLOAD
    assert payload.contract == "PORTFOLIO"
    assert (payload.positions, payload.priced) == (30, 30)
    for name in PAYLOAD - {"contract", "timestamp"}:
        assert isinstance(getattr(payload, name), float)


async def first_payload(bridge: trio_bridge.IBridgeBase) -> Snapshot:
    with trio.fail_after(60):
        while bridge.readiness.why(trio.current_time()):
            await trio.sleep(0.05)
    return bridge.get_portfolio_greeks()


async def test_the_ticker_keeps_its_interval(autojump_clock: MockClock) -> None:
    wall = WallClock(eastern(2026, 3, 2, 12))
    bridge = FakeBridge(trio_bridge.load_settings(), now=wall)
    await bridge.connect()
    rows: list[Snapshot] = []
    with trio.move_on_after(59):
        await Ticker(bridge, rows.append, interval_s=5, emit=bridge.emit).run()
    assert [row.timestamp.timestamp() % 60 for row in rows] == list(range(0, 60, 5))


async def test_no_row_while_disconnected(autojump_clock: MockClock) -> None:
    bridge = FakeBridge(trio_bridge.load_settings())
    bridge.positions = [Position("DU1", 1, "STK", "SPY", 100.0, None)]
    rows: list[Snapshot] = []
    with trio.move_on_after(60):
        await Ticker(bridge, rows.append, interval_s=5, emit=bridge.emit).run()
    assert rows == []


# Nothing lost


async def test_a_failed_write_is_buffered_to_the_jsonl_path(autojump_clock: MockClock) -> None:
    store, disk = FakeStore(), FakeDisk()
    store.trouble = Mishap.REFUSED
    async with running(store, disk) as sinks:
        sinks.send(1)
        await trio.sleep(3)
        assert [row["delta"] for row in spooled(disk)] == [1.0]
        assert spooled(disk)[0].keys() >= PAYLOAD


async def test_buffered_rows_flush_in_order(fresh_database: str, tmp_path: Path) -> None:
    start = eastern(2026, 3, 2, 12)
    rows = [snapshot(start + timedelta(seconds=5 * slot)) for slot in range(50)]
    spool = await Spool.open(tmp_path / "buffer.jsonl")
    await spool.append([record_of(row) for row in rows])
    store = PostgresStore(fresh_database)
    delivery = Delivery(store, spool, trio_bridge.DBCircuitBreaker(), Outlet(), db_timeout_s=2)
    await delivery.flush()
    assert delivery.backlog_bytes == 0
    spool.close()
    await store.aclose()
    landed = fetch(fresh_database, "SELECT timestamp FROM portfolio_greeks ORDER BY id")
    assert [at for (at,) in landed] == [row.timestamp for row in rows]


async def test_the_flusher_comes_every_60_seconds(
    autojump_clock: MockClock,
) -> None:
    settings = trio_bridge.load_settings()
    flushes: list[float] = []

    class Counting:
        ended = False

        async def flush(self) -> None:
            flushes.append(trio.current_time() - began)

    began = trio.current_time()
    with trio.move_on_after(200):
        await run_flusher(Counting(), settings.flush_interval_s)  # type: ignore[arg-type]
    assert flushes == [0, 60, 120, 180]


def test_three_failures_open_the_circuit() -> None:
    breaker = trio_bridge.DBCircuitBreaker()
    changes = [breaker.record_failure("down") for _ in range(3)]
    assert [change and change.after.value for change in changes] == [None, None, "OPEN"]


# The nightly reset and the way back


@pytest.mark.parametrize("clock", [(23, 40), (23, 45), (23, 59)])
def test_2340_to_2359_eastern_is_inside_the_window(clock: tuple[int, int]) -> None:
    assert hold_until(eastern(2026, 3, 2, *clock), NIGHTLY) is not None


@pytest.mark.parametrize("clock", [(23, 39), (0, 5), (12, 0)])
def test_other_times_are_outside(clock: tuple[int, int]) -> None:
    assert hold_until(eastern(2026, 3, 2, *clock), NIGHTLY) is None


def test_the_wait_ends_at_five_past_midnight_eastern() -> None:
    assert hold_until(eastern(2026, 3, 2, 23, 50), NIGHTLY) == eastern(2026, 3, 3, 0, 5)


async def test_the_backoff_is_5_10_20_and_each_attempt_is_in_api_logs(
    autojump_clock: MockClock,
) -> None:
    wall = WallClock(eastern(2026, 3, 2, 12))
    settings = trio_bridge.load_settings()
    bridge = FakeBridge(settings, now=wall)
    bridge.refusal = "connection refused"
    store = FakeStore()
    async with running(store, FakeDisk()) as sinks:
        supervisor = Supervisor(
            bridge,
            delays_s=settings.reconnect_backoff_s,
            windows=settings.reset_windows,
            heartbeat_s=settings.heartbeat_s,
            emit=lambda event: sinks.put(event.as_row(wall(), bridge.mode)),
            now=wall,
        )
        with trio.move_on_after(36):
            await supervisor.run()
    seconds = [(at - bridge.attempts[0]).total_seconds() for at in bridge.attempts]
    assert seconds == [0, 5, 15, 35]
    attempts = store.tables["api_logs"][:3]
    assert {row["kind"] for row in attempts} == {"gateway.reconnecting"}
    assert [row["numbers"] for row in attempts] == [
        {"attempt": 1, "delay_s": 5.0},
        {"attempt": 2, "delay_s": 10.0},
        {"attempt": 3, "delay_s": 20.0},
    ]
    assert all("connection refused" in row["message"] for row in attempts)
