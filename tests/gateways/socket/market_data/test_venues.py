"""The exchange that a position names is not always one that has its market data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.socket.market_data.support import exchanges_asked, ids_of
from tests.gateways.socket.support import DETAILS, options_of, socket_rig, still_book
from trio_bridge.events.data import ContractUnknown, ExchangeGivenUp
from trio_bridge.gateways.socket.market_data.refusals import ASK_UNKNOWN_S
from trio_bridge.model import PositionState, Verdict

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock


@pytest.mark.parametrize("served_at", ["SMART", "CBOE", ""], ids=["SMART", "details", "bare id"])
async def test_when_its_exchange_answers_200_the_next_is_asked(
    served_at: str, fast_clock: PatientClock
) -> None:
    book = still_book(options=4)
    option = next(one for one in options_of(book) if one.exchange == "CBOE")
    async with socket_rig(book, connect=False) as rig:
        rig.sim.quirks.position_exchanges[option.con_id] = "AMEX"
        rig.sim.quirks.data_exchanges[option.con_id] = (served_at,)
        await rig.bridge.connect()
        row = await rig.until_right()
        assert (row.greeks_age_s, row.verdict) == (0.0, Verdict.COMPLETE)
        first, *_, last = exchanges_asked(rig, option.con_id)
        assert (first, last) == ("AMEX", served_at)
        await rig.until_told(ExchangeGivenUp)
        (event,) = rig.told(ExchangeGivenUp)
        assert (event.contract, event.instead) == (option.local_symbol, served_at)
        assert event.tried[0] == "AMEX"
        assert rig.told(ContractUnknown) == []
        assert rig.sim.lines_in_use == 4

        asked = len(exchanges_asked(rig, option.con_id))
        rig.sim.lose_upstream()
        rig.sim.restore_upstream(data_kept=False)
        await rig.until(lambda: len(exchanges_asked(rig, option.con_id)) > asked)
        await rig.until_right()
        assert exchanges_asked(rig, option.con_id)[asked:] == [served_at], "it is remembered"
        assert len(rig.told(ExchangeGivenUp)) == 1


async def test_an_exchange_that_only_late_details_name_is_asked_then(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=4)
    option = next(one for one in options_of(book) if one.exchange == "CBOE")
    async with socket_rig(book, connect=False) as rig:
        rig.sim.quirks.position_exchanges[option.con_id] = "AMEX"
        rig.sim.quirks.data_exchanges[option.con_id] = ("CBOE",)
        rig.sim.quirks.details_delay_s = 20.0
        await rig.bridge.connect()

        def is_refused() -> bool:
            trouble = rig.bridge.inputs().troubles.get(option.con_id)
            return trouble is not None and trouble.state is PositionState.REFUSED

        await rig.until(is_refused)
        assert exchanges_asked(rig, option.con_id) == ["AMEX", "SMART", ""]
        await rig.until_right()
        assert exchanges_asked(rig, option.con_id) == ["AMEX", "SMART", "", "CBOE"]


async def test_when_all_have_refused_it_is_given_up_and_all_are_asked_again_an_hour_later(
    faster_clock: PatientClock,
) -> None:
    book = still_book(options=4)
    option = next(one for one in options_of(book) if one.exchange == "CBOE")
    async with socket_rig(book, connect=False) as rig:
        rig.sim.quirks.position_exchanges[option.con_id] = "AMEX"
        rig.sim.quirks.data_exchanges[option.con_id] = ("NOWHERE",)
        await rig.bridge.connect()
        row = await rig.until_right(without={option.con_id})
        assert row.verdict is Verdict.PARTIAL
        await rig.until_told(ContractUnknown)
        await trio.sleep(30)
        asked = exchanges_asked(rig, option.con_id)
        assert sorted(asked) == ["", "AMEX", "CBOE", "SMART"]
        assert asked[0] == "AMEX"
        assert rig.sim.lines_in_use == 3
        details = [one for one in rig.sim.received(DETAILS) if one.fields[3] == str(option.con_id)]
        assert len(details) == 1
        (event,) = rig.told(ContractUnknown)
        assert event.contract == option.local_symbol
        await trio.sleep(ASK_UNKNOWN_S)
        assert sorted(exchanges_asked(rig, option.con_id)) == sorted(2 * asked)
        assert len(rig.told(ContractUnknown)) == 1


async def test_three_hundred_contracts_that_answer_200_are_one_event(
    faster_clock: PatientClock,
) -> None:
    book = still_book(options=300)
    async with socket_rig(book, connect=False) as rig:
        rig.sim.refuse_market_data(ids_of(book), 200)
        await rig.bridge.connect()
        await trio.sleep(200)
        assert rig.bridge.get_portfolio_greeks().verdict is Verdict.PARTIAL
        events = rig.told(ContractUnknown)
        assert sum(event.contracts for event in events) == 300
        assert len(events) <= 2
        assert events[0].contract.count(", ") == 4
        assert len(rig.events) <= len(events) + 1
        assert rig.sim.lines_in_use == 0


@pytest.mark.parametrize("smart_first", [True, False])
async def test_of_two_answers_about_a_contract_smart_is_believed(
    smart_first: bool, fast_clock: PatientClock
) -> None:
    book = still_book(options=4)
    option = next(one for one in options_of(book) if one.exchange == "CBOE")
    answers = (replace(option, exchange="SMART"), replace(option, exchange="AMEX"))
    async with socket_rig(book, connect=False) as rig:
        rig.sim.positions_lack = frozenset({"exchange"})
        rig.sim.quirks.details[option.con_id] = answers if smart_first else answers[::-1]
        await rig.bridge.connect()
        assert (await rig.until_right()).verdict is Verdict.COMPLETE
        assert exchanges_asked(rig, option.con_id) == ["SMART"]
