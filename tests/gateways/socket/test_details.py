from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from ib_async import Contract, Position

from trio_bridge.gateways.accounts import Accounts
from trio_bridge.gateways.base import discard_event
from trio_bridge.gateways.socket.holdings import (
    AGAIN_S,
    LOOK_AGAIN_S,
    Details,
    Holdings,
    learn_details,
)

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


@pytest.fixture
def holdings() -> Holdings:
    return Holdings(Accounts((), discard_event), {})


@pytest.mark.parametrize(
    ("held", "answer"),
    [
        (WITHOUT_MULTIPLIER, Details("SMART", None, "conid:1")),
        (FUTURES_OPTION, Details("CME", 50.0, "")),
    ],
    ids=["multiplier", "underlying"],
)
async def test_what_an_answer_leaves_out_is_asked_for_again(
    held: Position, answer: Details, holdings: Holdings, autojump_clock: MockClock
) -> None:
    """A gateway that is just logging in may not know it yet; the service runs for months."""
    asked = 0

    async def ask(con_id: int) -> None:
        nonlocal asked
        asked += 1
        holdings.learn(con_id, answer if asked == 1 else Details("X", 50.0, "conid:2"))

    holdings.update(held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(learn_details, holdings, ask)
        await trio.sleep(10 * AGAIN_S)
        assert asked == 2
        nursery.cancel_scope.cancel()


def test_what_was_known_is_not_forgotten_and_no_news_changes_nothing(holdings: Holdings) -> None:
    holdings.update(WITHOUT_MULTIPLIER)
    holdings.learn(7, Details("SMART", 100.0, "conid:1"))
    view = holdings.view
    holdings.learn(7, Details("SMART", None, ""))
    assert holdings.view is view
    assert holdings.details == {7: Details("SMART", 100.0, "conid:1")}


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
        nursery.start_soon(learn_details, holdings, ask)
        await trio.sleep(1)
        holdings.update(WITHOUT_EXCHANGE)
        await trio.sleep(AGAIN_S + LOOK_AGAIN_S + 1)
        (first, at), (second, again_at) = asked
        assert (first, second) == (7, 7)
        assert at == pytest.approx(1)
        assert AGAIN_S <= again_at - at <= AGAIN_S + LOOK_AGAIN_S
        holdings.learn(7, Details("SMART", 100.0, ""))
        await trio.sleep(2 * AGAIN_S)
        assert len(asked) == 2
        nursery.cancel_scope.cancel()
