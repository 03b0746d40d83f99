"""Both modes on one book with both faces: from the same state, the same row.

The book moves and things break; now and then it is held still, and both rows must agree with each
other, and with the book, to the precision of the portal's strings.
"""

from __future__ import annotations

import math
import random
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.gateways.portal import support as portal_support
from tests.gateways.portal.support import QUICK, tolerance
from tests.gateways.socket import support as socket_support
from tests.support.patient_clock import until
from trio_bridge.gateways.portal.bridge import PortalBridge
from trio_bridge.gateways.readiness import NotReadyError
from trio_bridge.gateways.socket.bridge import SocketBridge
from trio_bridge.model import DataType, PositionState
from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.listings import list_corn, list_nikkei
from trio_bridge.simulator.portal.faults import Fault
from trio_bridge.simulator.portal.server import ServedPortal, open_portal_simulator
from trio_bridge.simulator.tws.server import TwsSimulator, open_tws_simulator
from trio_bridge.tasks.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from tests.support.patient_clock import PatientClock
    from trio_bridge.events.event import Event
    from trio_bridge.gateways.base import IBridgeBase
    from trio_bridge.gateways.portal.wire.pacing import Timing
    from trio_bridge.model import Snapshot

STAYS_S = 2.0
"""So long two rows that agree must go on to agree while the book holds still."""

TICK_S = 0.5


class Pair:
    """One book, two simulated gateways, two bridges."""

    def __init__(
        self,
        book: Book,
        tws: TwsSimulator,
        portal: ServedPortal,
        bridges: tuple[SocketBridge, PortalBridge],
        events: list[Event],
    ) -> None:
        self.book = book
        self.tws = tws
        self.portal = portal
        self.bridges = bridges
        self.events = events

    async def agree(self) -> tuple[Snapshot, Snapshot]:
        """Hold the book and wait for two rows that say the same, and what the book says."""
        self.book.freeze()

        def agreed() -> bool:
            rows = self.rows()
            return rows is not None and self.differences(*rows) == []

        await until(agreed, every_s=0.2, complaint=self.state)
        for _ in range(10):
            rows = self.rows()
            assert rows is not None, self.state()
            assert self.differences(*rows) == [], self.state()
            await trio.sleep(STAYS_S / 10)
        assert rows is not None
        self.book.thaw()
        return rows

    def rows(self) -> tuple[Snapshot, Snapshot] | None:
        socket, portal = map(row_of, self.bridges)
        return None if socket is None or portal is None else (socket, portal)

    def states(self, number: int) -> dict[tuple[str, int], PositionState]:
        """What one of the bridges says of each position."""
        found = self.bridges[number].states()
        return {(one.position.account, one.position.con_id): one.state for one in found}

    def state(self) -> str:
        """For whoever must find out why the rows do not agree."""
        reasons = [bridge.readiness.why(trio.current_time()) for bridge in self.bridges]
        return f"{reasons}, {self.rows()}, {self.book.net_greeks()}, {self.events[-20:]}"

    def differences(self, socket: Snapshot, portal: Snapshot) -> list[str]:
        """Columns in which the rows differ from each other or from the book."""
        truth = self.book.net_greeks()
        allowed = tolerance(self.book, self.portal.quirks.decimals)
        found = [
            name
            for name in ("account", "positions", "priced", "data_type", "currency")
            if getattr(socket, name) != getattr(portal, name)
        ]
        if socket.priced != truth.priced or socket.positions != truth.positions:
            found.append("priced of the book")
        for name in ("delta", "gamma", "vega", "theta"):
            one, other, true = getattr(socket, name), getattr(portal, name), getattr(truth, name)
            if one is None or other is None:
                alike = one is other
            else:
                alike = math.isclose(one, true, rel_tol=1e-9) and math.isclose(
                    one, other, rel_tol=1e-9, abs_tol=allowed
                )
            if not alike:
                found.append(name)
        if self.states(0) != self.states(1):
            found.append("states")
        prices = (socket.underlying_price, portal.underlying_price)
        if prices != (None, None) and prices[0] != pytest.approx(prices[1], abs=0.006):
            found.append("underlying_price")
        return found


def row_of(bridge: IBridgeBase) -> Snapshot | None:
    try:
        return bridge.get_portfolio_greeks()
    except NotReadyError:
        return None


@asynccontextmanager
async def pair_of(
    book: Book, *, decimals: int = 3, timing: Timing = QUICK, **settings: Any
) -> AsyncGenerator[Pair]:
    """Both bridges, each kept connected by its supervisor."""
    events: list[Event] = []
    async with AsyncExitStack() as stack:
        tws = await stack.enter_async_context(open_tws_simulator(book, tick_interval_s=TICK_S))
        portal = await stack.enter_async_context(open_portal_simulator(book))
        portal.quirks.decimals = decimals
        bridges = (
            SocketBridge(socket_support.make_settings(tws.port, **settings), emit=events.append),
            PortalBridge(
                portal_support.make_settings(portal.url, **settings),
                emit=events.append,
                timing=timing,
            ),
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        for bridge in bridges:
            await stack.enter_async_context(bridge)
            supervisor = Supervisor(
                bridge, delays_s=(0.5,), windows=(), heartbeat_s=5.0, emit=events.append
            )
            nursery.start_soon(supervisor.run)
        yield Pair(book, tws, portal, bridges, events)
        nursery.cancel_scope.cancel()


def moving_book(**shape: Any) -> Book:
    """It moves by Trio's clock, so the faster one moves it faster, too. It holds options quoted in
    cents, options in yen, and one that stopped trading two days ago."""
    book = make_book(clock=trio.current_time, **shape)
    list_corn(book, book.accounts[0])
    list_nikkei(book, book.accounts[-1])
    expired = book.market.options()[-5]
    book.market.end_trading(expired.con_id, datetime.now(UTC) - timedelta(days=2))
    return book


# What happens to them ------------------------------------------------------------------------


async def trade(pair: Pair, rng: random.Random) -> None:
    """Positions change, close and open."""
    book = pair.book
    for _ in range(3):
        con_id = rng.choice(
            [one.con_id for one in book.contracts.values() if one.sec_type != "IND"]
        )
        quantity = float(rng.choice((0, 0, -7, 3, 25)))
        book.set_position(rng.choice(book.accounts), con_id, quantity)


async def fail_snapshots(pair: Pair, rng: random.Random) -> None:
    with pair.portal.faults(Fault("/iserver/marketdata/snapshot", status=503)):
        await trio.sleep(4)


async def fail_positions(pair: Pair, rng: random.Random) -> None:
    with pair.portal.faults(Fault("/positions/", html=True)):
        await trade(pair, rng)
        await trio.sleep(4)


async def log_out(pair: Pair, rng: random.Random) -> None:
    pair.portal.login.log_out()
    await trio.sleep(3)
    await trade(pair, rng)
    pair.portal.rules.person_logs_in()


async def restart_portal(pair: Pair, rng: random.Random) -> None:
    await pair.portal.stop()
    await trio.sleep(rng.uniform(0, 8))
    await pair.portal.start()


async def drop_websocket(pair: Pair, rng: random.Random) -> None:
    pair.portal.websocket.drop()


async def lose_upstream(pair: Pair, rng: random.Random) -> None:
    pair.tws.lose_upstream()
    await trio.sleep(3)
    await trade(pair, rng)
    pair.tws.restore_upstream(data_kept=rng.random() < 0.5)


async def drop_tws(pair: Pair, rng: random.Random) -> None:
    pair.tws.drop_connections()


EVENTS: tuple[Callable[[Pair, random.Random], Awaitable[None]], ...] = (
    trade,
    fail_snapshots,
    lose_upstream,
    fail_positions,
    log_out,
    drop_tws,
    drop_websocket,
    restart_portal,
)


async def live_together(pair: Pair, rng: random.Random, rounds: int) -> None:
    await pair.agree()
    for number in range(rounds):
        await EVENTS[number % len(EVENTS)](pair, rng)
        await trio.sleep(rng.uniform(0, 5))
        await pair.agree()


@pytest.mark.parametrize(("decimals", "accounts"), [(3, 2), (6, 1)])
async def test_both_modes_give_the_same_row_through_movement_trades_and_faults(
    fast_clock: PatientClock, decimals: int, accounts: int
) -> None:
    book = moving_book(options=40, accounts=accounts)
    async with pair_of(book, decimals=decimals) as pair:
        await live_together(pair, random.Random(decimals), rounds=len(EVENTS))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
async def test_both_modes_give_the_same_row_for_minutes(seed: int) -> None:
    rng = random.Random(seed)
    book = moving_book(options=60, accounts=2, seed=seed)
    async with pair_of(book, decimals=3 + 3 * seed) as pair:
        await live_together(pair, rng, rounds=4 * len(EVENTS))


async def test_both_modes_price_a_theta_that_rounds_to_minus_2(fast_clock: PatientClock) -> None:
    book = moving_book(options=60, accounts=2, seed=0)
    book.freeze(at=112.0)
    options = [held.contract.con_id for held in book.positions() if held.contract.is_option]
    thetas = [book.moment.true_value(con_id).theta for con_id in options]
    assert "-2.000" in [f"{theta:.3f}" for theta in thetas], "the book no longer has such an option"
    async with pair_of(book, decimals=3, timing=QUICK._replace(settle_s=5.0)) as pair:
        _, portal = await pair.agree()
        assert portal.priced == portal.positions - 1


async def test_both_modes_leave_out_the_same_options(fast_clock: PatientClock) -> None:
    book = moving_book(options=30, accounts=2)
    market = book.market
    options = [held.contract.con_id for held in book.positions() if held.contract.is_option]
    market.silence_greeks(options[0])
    market.override(options[1], vega=-2.0)
    market.override(options[2], theta=-2.0)
    market.override(options[3], delta=1.7976931348623157e308)
    market.override(options[4], gamma=math.nan)
    market.change_contract(options[5], multiplier=None)
    market.set_data_type(options[6], int(DataType.FROZEN))
    # Some options never have Greeks: the first rows need not wait for them for long.
    async with pair_of(book, timing=QUICK._replace(settle_s=5.0)) as pair:
        socket, portal = await pair.agree()
        assert portal.priced == portal.positions - 7
        assert socket.data_type is portal.data_type is DataType.FROZEN
