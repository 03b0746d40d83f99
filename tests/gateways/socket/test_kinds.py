"""What a Greek came from is told with it, and not what comes after: live data or frozen, a gateway
with a link to Interactive Brokers or without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gateways.socket.scripted_gateway import BOOK, VERSION, framed, run_session
from trio_bridge.gateways.readiness import NotReadyError
from trio_bridge.model import DataType
from trio_bridge.simulator.tws import wire

if TYPE_CHECKING:
    from trio_bridge.gateways.socket.bridge import SocketBridge

OPTION = next(held for held in BOOK.positions() if held.contract.is_option)
DOWNLOAD = [wire.position(OPTION), wire.position_end()]
SUBSCRIBE = "1"
REQUESTS = range(1, 5)
"""One of these numbers is the subscription's."""


def kinds_told(*messages: bytes) -> list[DataType | None]:
    """The kind in the row after each message."""
    told: list[DataType | None] = []

    def judge(bridge: SocketBridge) -> None:
        try:
            told.append(bridge.get_portfolio_greeks().data_type)
        except NotReadyError:
            told.append(None)

    serving = [(1.0, b""), *((1.0, message) for message in messages)]
    run_session(DOWNLOAD, serving, judge, described=True)
    return told[5::3]


def kind(data_type: DataType) -> bytes:
    return b"".join(wire.market_data_type(request, int(data_type)) for request in REQUESTS)


def model(delta: float, tick: int = 13) -> bytes:
    values = ["0.2", str(delta), "9.5", "0", "0.01", "0.2", "-0.3", "5300"]
    return b"".join(framed(["21", request, tick, "0", *values]) for request in REQUESTS)


@pytest.mark.parametrize("worse", [DataType.FROZEN, DataType.DELAYED])
def test_yesterdays_greeks_are_not_live_because_the_market_opens(worse: DataType) -> None:
    """TWS tells that it switches to live data before the first live computation comes."""
    opening = [kind(worse), model(0.5), kind(DataType.LIVE), b"", model(0.6)]
    assert kinds_told(*opening) == [None, worse, worse, worse, DataType.LIVE]


@pytest.mark.parametrize("worse", [DataType.FROZEN, DataType.DELAYED])
def test_yesterdays_greeks_are_not_live_either_when_no_row_was_taken_before(
    worse: DataType,
) -> None:
    opening = [kind(worse) + model(0.5) + kind(DataType.LIVE), b"", model(0.6)]
    assert kinds_told(*opening) == [worse, worse, DataType.LIVE]


def test_a_delayed_computation_is_delayed_whatever_was_told_of_its_kind() -> None:
    told = kinds_told(model(0.5, tick=83), kind(DataType.DELAYED_FROZEN), model(0.6, tick=83))
    assert told == [DataType.DELAYED, DataType.DELAYED_FROZEN, DataType.DELAYED_FROZEN]


def test_greeks_freeze_at_once_when_the_market_closes() -> None:
    closing = [kind(DataType.LIVE), model(0.5), kind(DataType.FROZEN), kind(DataType.LIVE)]
    live, frozen = DataType.LIVE, DataType.FROZEN
    assert kinds_told(*closing) == [None, live, frozen, frozen]


@pytest.mark.parametrize("code", [1101, 1102])
def test_greeks_of_a_gateway_that_was_cut_off_are_asked_for_again(code: int) -> None:
    """It may compute from what it still has, which is as old as the outage is long."""
    ages: list[float | None] = []

    def judge(bridge: SocketBridge) -> None:
        try:
            ages.append(bridge.get_portfolio_greeks().greeks_age_s)
        except NotReadyError:
            ages.append(None)

    lost, back = wire.error(VERSION, -1, 1100, ""), wire.error(VERSION, -1, code, "")
    # Asked for after 1101 only: positions, and account values.
    again = b"".join([*DOWNLOAD, *map(wire.account_summary_end, REQUESTS)])
    serving = [b"", model(0.5), lost, model(0.7), back, again, b"", b""]
    sent = run_session(DOWNLOAD, [(5.0, message) for message in serving], judge, described=True)
    assert [fields[0] for fields in sent].count(SUBSCRIBE) == 2
    assert ages[11] is None
    assert ages[-1] == pytest.approx(30, abs=0.5)
