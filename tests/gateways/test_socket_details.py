from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from ib_async import Contract, Position

from trio_bridge.gateways.accounts import Accounts
from trio_bridge.gateways.base import discard_event
from trio_bridge.gateways.socket_details import AGAIN_S, LOOK_AGAIN_S, learn_details
from trio_bridge.gateways.socket_positions import Details, Holdings

if TYPE_CHECKING:
    from trio.testing import MockClock

WITHOUT_EXCHANGE = Position(
    "U1", Contract(secType="OPT", conId=7, symbol="S", multiplier="100"), 1.0, 1.0
)


@pytest.fixture
def holdings() -> Holdings:
    return Holdings(Accounts((), discard_event), {})


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
