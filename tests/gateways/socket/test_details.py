from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio
from ib_async import Contract, ContractDetails, Position

from trio_bridge.gateways.accounts import Accounts
from trio_bridge.gateways.base import discard_event
from trio_bridge.gateways.keys import Product
from trio_bridge.gateways.socket.details import (
    Details,
    LastTrade,
    details_from,
    read_last_trade,
)
from trio_bridge.gateways.socket.holdings import (
    AGAIN_S,
    GAP_S,
    LOOK_AGAIN_S,
    TIME_AGAIN_S,
    Holdings,
    learn_details,
)
from trio_bridge.model import utc_now

if TYPE_CHECKING:
    from trio.testing import MockClock

WITHOUT_EXCHANGE = Position(
    "U1", Contract(secType="OPT", conId=7, symbol="S", multiplier="100"), 1.0, 1.0
)


WITHOUT_MULTIPLIER = Position(
    "U1", Contract(secType="OPT", conId=7, symbol="S", exchange="SMART"), 1.0, 1.0
)
FUTURES_OPTION = Position(
    "U1", Contract(secType="FOP", conId=7, symbol="ES", multiplier="50", exchange="CME"), 1.0, 1.0
)


PRODUCT = Product("OPT", "S", "S", "USD", 100.0)
FRIDAY = datetime(2026, 1, 16, 21, tzinfo=UTC)


def option(con_id: int, trading_class: str = "S", last_day: str = "") -> Position:
    """One that can be priced but for its price magnifier."""
    contract = Contract(
        secType="OPT",
        conId=con_id,
        symbol="S",
        currency="USD",
        tradingClass=trading_class,
        multiplier="100",
        exchange="SMART",
        lastTradeDateOrContractMonth=last_day,
    )
    return Position("U1", contract, 1.0, 1.0)


@pytest.fixture
def holdings() -> Holdings:
    return Holdings(Accounts((), discard_event), {})


@pytest.mark.parametrize(
    ("held", "answer"),
    [
        (WITHOUT_MULTIPLIER, Details("SMART", None, "conid:1", magnifier=1.0)),
        (FUTURES_OPTION, Details("CME", 50.0, "", magnifier=1.0)),
        (FUTURES_OPTION, Details("CME", 50.0, "conid:2", magnifier=None)),
    ],
    ids=["multiplier", "underlying", "magnifier"],
)
async def test_what_an_answer_leaves_out_is_asked_for_again(
    held: Position, answer: Details, holdings: Holdings, autojump_clock: MockClock
) -> None:
    """A gateway that is just logging in may not know it yet; the service runs for months."""
    asked = 0

    async def ask(con_id: int) -> None:
        nonlocal asked
        asked += 1
        full = Details("X", 50.0, "conid:2", magnifier=1.0)
        holdings.learn(con_id, answer if asked == 1 else full)

    holdings.update(held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(learn_details, holdings, ask, utc_now)
        await trio.sleep(10 * AGAIN_S)
        assert asked == 2
        nursery.cancel_scope.cancel()


def test_what_was_known_is_not_forgotten_and_no_news_changes_nothing(holdings: Holdings) -> None:
    holdings.update(WITHOUT_MULTIPLIER)
    known = Details("SMART", 100.0, "conid:1", 100.0, PRODUCT, LastTrade(FRIDAY, timed=True))
    holdings.learn(7, known)
    view = holdings.view
    holdings.learn(7, Details("SMART", None, ""))
    midnight = FRIDAY + timedelta(hours=8)
    holdings.learn(7, Details("SMART", None, "", last_trade=LastTrade(midnight, timed=False)))
    assert holdings.view is view
    assert holdings.details == {7: known}


def test_options_on_a_future_that_is_not_known_share_no_underlying(holdings: Holdings) -> None:
    """Those on the next future have the same symbol and another price."""
    holdings.update(FUTURES_OPTION)
    assert [position.underlying for position in holdings.view.positions] == [""]
    holdings.learn(7, Details("CME", 50.0, "conid:2"))
    assert [position.underlying for position in holdings.view.positions] == ["conid:2"]


async def test_a_new_contract_is_asked_about_at_once_and_again_until_it_is_known(
    holdings: Holdings, autojump_clock: MockClock
) -> None:
    asked: list[tuple[int, float]] = []
    start = trio.current_time()

    async def ask(con_id: int) -> None:
        asked.append((con_id, trio.current_time() - start))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(learn_details, holdings, ask, utc_now)
        await trio.sleep(1)
        holdings.update(WITHOUT_EXCHANGE)
        await trio.sleep(AGAIN_S + LOOK_AGAIN_S + 1)
        (first, at), (second, again_at) = asked
        assert (first, second) == (7, 7)
        assert at == pytest.approx(1)
        assert AGAIN_S <= again_at - at <= AGAIN_S + LOOK_AGAIN_S
        holdings.learn(7, Details("SMART", 100.0, "", magnifier=1.0))
        await trio.sleep(2 * AGAIN_S)
        assert len(asked) == 2
        nursery.cancel_scope.cancel()


async def test_one_contract_tells_the_price_magnifier_of_its_product(
    holdings: Holdings, autojump_clock: MockClock
) -> None:
    asked: list[int] = []

    async def ask(con_id: int) -> None:
        asked.append(con_id)
        await trio.sleep(GAP_S / 2)
        product = PRODUCT._replace(trading_class="SW" if con_id > 100 else "S")
        details = Details("SMART", 100.0, "", magnifier=float(con_id), product=product)
        if con_id != 1:  # one that the gateway does not know any more
            holdings.learn(con_id, details)

    for con_id in range(1, 101):
        holdings.update(option(con_id))
    for con_id in range(101, 201):
        holdings.update(option(con_id, "SW"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(learn_details, holdings, ask, utc_now)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert asked == [1, 101, 2], "one of each product first"
    magnifiers = {one.con_id: one.magnifier for one in holdings.view.positions}
    assert {magnifiers[con_id] for con_id in range(1, 101)} == {2.0}
    assert {magnifiers[con_id] for con_id in range(101, 201)} == {101.0}


def test_contracts_without_a_trading_class_share_nothing(holdings: Holdings) -> None:
    holdings.update(option(1, ""))
    holdings.update(option(2, ""))
    holdings.learn(
        1, details_from(ContractDetails(contract=option(1, "").contract, priceMagnifier=100))
    )
    assert [one.magnifier for one in holdings.view.positions] == [100.0, None]
    assert holdings.view.lacking_details == [2]


@pytest.mark.parametrize(("days_before", "asks"), [(8, 0), (6, 3), (0.1, 3), (-0.5, 3), (-2, 0)])
async def test_the_time_of_the_last_trade_is_asked_for_when_the_day_is_near(
    days_before: float, asks: int, holdings: Holdings, autojump_clock: MockClock
) -> None:
    """TWS tells it only then."""
    asked = 0
    contract = option(7, last_day="20260116").contract

    async def ask(con_id: int) -> None:
        nonlocal asked
        asked += 1
        clock = "16:00" if asked == 3 else ""
        answer = ContractDetails(
            contract=contract, priceMagnifier=1, lastTradeTime=clock, timeZoneId="US/Eastern"
        )
        holdings.learn(con_id, details_from(answer))

    holdings.learn(7, details_from(ContractDetails(contract=contract, priceMagnifier=1)))
    holdings.update(option(7, last_day="20260116"))
    now = FRIDAY - timedelta(days=days_before)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(learn_details, holdings, ask, lambda: now)
        await trio.sleep(6 * TIME_AGAIN_S)
        nursery.cancel_scope.cancel()
    assert asked == asks
    (position,) = holdings.view.positions
    assert position.last_trade == FRIDAY + timedelta(hours=0 if asks else 1)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("20260116", LastTrade(FRIDAY + timedelta(hours=1), timed=False)),
        ("20260116 16:00", LastTrade(FRIDAY, timed=True)),
        ("20260117 05:00:00 Asia/Shanghai", LastTrade(FRIDAY, timed=True)),
        ("20260117-05:00:00-Asia/Shanghai", LastTrade(FRIDAY, timed=True)),
        ("20260116 16:00:00 EST (Eastern Standard Time)", LastTrade(FRIDAY, timed=True)),
        ("202601", None),
        ("NOEXP", None),
        ("", None),
    ],
)
def test_a_position_may_say_when_it_stops_trading(text: str, at: LastTrade | None) -> None:
    assert read_last_trade(option(7, last_day=text).contract) == at
