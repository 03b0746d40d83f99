"""What a portal says while it is cut off, or by halves, never passes for the truth, and what it
leaves out once is not left out for ever."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.gateways.portal.support import QUICK, portal_rig
from trio_bridge.events.portal import LoginCutOff
from trio_bridge.gateways.portal.wire.pacing import USUAL_TIMING
from trio_bridge.model import DataType
from trio_bridge.simulator.book import FIRST_FUTURE_CON_ID, Book, make_book
from trio_bridge.simulator.contracts import SPX_CON_ID
from trio_bridge.simulator.portal.faults import Fault

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock

STATUS, SNAPSHOT = "/iserver/auth/status", "/iserver/marketdata/snapshot"


@pytest.fixture
def book() -> Book:
    """Held still, so that every row can be judged."""
    book = make_book(accounts=2)
    book.freeze(at=10)
    return book


async def test_an_empty_list_of_a_gateway_that_is_cut_off_is_no_book(
    fast_clock: PatientClock, book: Book
) -> None:
    """Two lists in a row may come between two looks at its status."""
    # Nothing but the positions is asked for meanwhile.
    seldom = USUAL_TIMING._replace(status_s=60.0, quotes_s=60.0, streamed_quotes_s=60.0)
    async with portal_rig(book, timing=seldom) as rig:
        await rig.until_right()
        assert rig.bridge._connection is not None
        memory = rig.bridge._connection._memory
        seen = memory.downloads
        await rig.until(lambda: memory.downloads > seen)  # none is under way
        with rig.sim.faults(Fault("/positions/0", text="[]")) as fault:
            rig.sim.login.connected = False
            await rig.until(lambda: fault.hits >= 2 and rig.row() is None)
            await rig.until(lambda: rig.told(LoginCutOff))
        rig.sim.login.connected = True
        await rig.until_right()
        assert rig.only_true_rows()


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"connected": False}, {"connected": True}),
        ({"competing": True}, {"competing": False}),
        ({"logged_in": False, "brokerage": False}, {"logged_in": True, "brokerage": True}),
    ],
    ids=str,
)
async def test_what_a_tickle_says_counts_while_the_status_cannot_be_asked(
    fast_clock: PatientClock, book: Book, worse: dict[str, bool], better: dict[str, bool]
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        with rig.sim.faults(Fault(STATUS, status=500)):
            vars(rig.sim.login).update(worse)
            await trio.sleep(QUICK.tickle_s + 2)
            assert rig.row() is None
            vars(rig.sim.login).update(better)
            await rig.until_right()
        await rig.until_right()
        assert rig.only_true_rows()


async def test_a_session_that_nobody_has_called_well_for_long_is_not_taken_for_it(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, timing=QUICK._replace(status_stale_s=10.0)) as rig:
        await rig.until_right()
        with rig.sim.faults(Fault(STATUS, status=500)):
            await trio.sleep(15)
            assert rig.row() is not None, "the tickles tell it, too"
            with rig.sim.faults(Fault("/tickle", status=500)):
                await rig.until(lambda: rig.row() is None)
                assert "could not be asked" in str(rig.bridge.readiness.why(trio.current_time()))
        await rig.until_right()


@pytest.mark.parametrize("found", [{"brokerage": False}, {"brokerage": False, "competing": True}])
async def test_a_session_that_is_gone_is_not_well_while_a_new_one_is_waited_for(
    fast_clock: PatientClock, book: Book, found: dict[str, bool]
) -> None:
    async with portal_rig(book, timing=QUICK._replace(slow_answer_s=5.0)) as rig:
        await rig.until_right()
        with rig.sim.faults(Fault("/iserver/auth/ssodh/init", hang=True)) as fault:
            vars(rig.sim.login).update(found)
            await rig.until(lambda: fault.hits)
            assert rig.row() is None
            await rig.until(lambda: any(event.stops_rows for event in rig.events))
        rig.sim.login.competing = False
        await rig.until_right()


@pytest.mark.parametrize("loss", ["login", "brokerage session"])
async def test_definitions_are_asked_for_again_in_a_new_session(
    fast_clock: PatientClock, book: Book, loss: str
) -> None:
    options = {held.contract.con_id for held in book.positions() if held.contract.is_option}
    async with portal_rig(book, connect=False, timing=QUICK._replace(settle_s=3.0)) as rig:
        rig.sim.quirks.definition_first.update(options)
        await rig.bridge.connect()
        await rig.until_right()
        rig.sim.streams.stop()
        rig.sim.streams.defined.clear()
        if loss == "login":
            rig.sim.login.log_out()
            await rig.until(lambda: rig.row() is None)
            rig.sim.rules.person_logs_in()
        else:
            rig.sim.login.brokerage = False
            await rig.until(lambda: rig.sim.login.brokerage)
            await rig.until(lambda: rig.row() is None)
        rig.rows.distinct.clear()
        await rig.until_right()


async def test_rows_of_fifty_accounts_have_no_holes(fast_clock: PatientClock) -> None:
    book = make_book(accounts=50)
    book.freeze(at=10)
    async with portal_rig(book, timing=USUAL_TIMING) as rig:
        await rig.until_right()
        reasons = set()
        for _ in range(200):
            await trio.sleep(1)
            reasons.add(rig.bridge.readiness.why(trio.current_time()))
        assert reasons == {None}


async def test_the_first_list_of_accounts_may_lack_one(
    fast_clock: PatientClock, book: Book
) -> None:
    first, second = book.accounts
    async with portal_rig(book, connect=False, ib_account=(first, second)) as rig:
        told = json.dumps([{"id": first}])
        with rig.sim.faults(Fault("/portfolio/accounts", text=told)) as fault:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.bridge.connect)
                await rig.until(lambda: fault.hits)
                fault._text = json.dumps([{"id": first}, {"id": second}])
        await rig.until_right()


async def test_a_delayed_price_does_not_stand_beside_live_greeks(
    fast_clock: PatientClock, book: Book
) -> None:
    book.market.set_data_type(SPX_CON_ID, int(DataType.DELAYED))
    async with portal_rig(book) as rig:
        row = await rig.until_right()
        assert (row.data_type, row.underlying_price) == (DataType.LIVE, None)
        book.market.set_data_type(SPX_CON_ID, int(DataType.LIVE))
        price = book.quote(SPX_CON_ID).last
        await rig.until(lambda: (row := rig.row()) is not None and row.underlying_price == price)


async def test_options_on_a_future_that_only_their_data_name_are_told_apart_by_it(
    fast_clock: PatientClock,
) -> None:
    """Those on the next future have the same symbol: together they would look like most."""
    book = make_book(options=100)
    book.freeze(at=10)
    left = {SPX_CON_ID: 8, FIRST_FUTURE_CON_ID: 7, FIRST_FUTURE_CON_ID + 1: 7}
    for held in book.positions():
        if held.contract.is_option:
            left[held.contract.under_con_id] -= 1
            if left[held.contract.under_con_id] < 0:
                book.set_position(held.account, held.contract.con_id, 0)
    async with portal_rig(book, connect=False) as rig:
        futures_options = {con for con, one in book.contracts.items() if one.sec_type == "FOP"}
        rig.sim.quirks.hidden_underlyings.update(futures_options)
        await rig.bridge.connect()
        price = book.quote(SPX_CON_ID).last
        await rig.until_right()
        await trio.sleep(10)
        assert rig.only_true_rows()
        told = {row.underlying_price for row in rig.rows.distinct.values()}
        assert told <= {None, price}
        row = rig.row()
        assert row is not None
        assert row.underlying_price == price


@pytest.mark.parametrize("told", [{"status": 400}, {"text": "[]"}], ids=str)
async def test_another_login_brings_its_own_accounts(
    fast_clock: PatientClock, book: Book, told: dict[str, Any]
) -> None:
    """As when somebody changes from the paper account to the live one."""
    new = "U7654321"
    async with portal_rig(book, timing=QUICK._replace(accounts_s=60.0)) as rig:
        await rig.until_right()
        rig.sim.login.log_out()
        await rig.until(lambda: rig.row() is None)
        held = [(one.contract.con_id, one.quantity) for one in book.positions(book.accounts[0])]
        for one in book.positions():
            book.set_position(one.account, one.contract.con_id, 0)
        book.accounts = (new,)
        for con_id, quantity in held[:5]:
            book.set_position(new, con_id, quantity)
        rig.rows.distinct.clear()
        rig.sim.rules.person_logs_in()
        with rig.sim.faults(Fault("/portfolio/DU100000", **told)):
            await rig.until_right()
        assert {row.account for row in rig.rows.distinct.values()} == {new}


async def test_positions_of_another_account_are_no_answer(
    fast_clock: PatientClock, book: Book
) -> None:
    first = book.accounts[0]
    async with portal_rig(book) as rig:
        await rig.until_right()
        page = rig.sim.portfolio.page
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rig.sim.portfolio, "page", lambda account, number: page(first, number))
            await trio.sleep(10)
        await rig.until_right()
        assert rig.only_true_rows()


async def test_greeks_are_no_younger_than_the_last_word_that_the_session_is_well(
    fast_clock: PatientClock, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that is cut off may go on to tell what it knew, until its status is looked at."""
    timing = USUAL_TIMING._replace(quotes_s=0.5, streamed_quotes_s=0.5)
    async with portal_rig(book, timing=timing) as rig:
        await rig.until_right()
        monkeypatch.setattr(rig.sim.rules, "_order", lambda path: None)
        rig.sim.login.connected = False
        cut_off_at = trio.current_time()
        seen = 0
        while (row := rig.row()) is not None:
            assert row.greeks_age_s is not None
            assert row.greeks_age_s >= trio.current_time() - cut_off_at
            seen += 1
            await trio.sleep(0.5)
        assert seen > 1
        assert trio.current_time() - cut_off_at < 10


SILENT = QUICK._replace(settle_s=3.0, silent_s=10.0)


async def test_options_asked_for_before_their_definition_are_priced_in_the_end(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False, timing=SILENT) as rig:
        rig.sim.quirks.definition_first.update(book.contracts)
        with rig.sim.faults(Fault("/trsrv/secdef", status=500)):
            await rig.bridge.connect()
            await rig.until(lambda: rig.row() is not None)
            await trio.sleep(5)
        await rig.until_right()


async def test_options_are_priced_again_after_a_session_that_was_renewed_unnoticed(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, timing=SILENT) as rig:
        await rig.until_right()
        rig.sim.quirks.definition_first.update(book.contracts)
        rig.sim.streams.stop()
        rig.sim.streams.defined.clear()
        book.advance(300)
        await rig.until_right()


async def test_an_option_without_greeks_is_asked_for_its_definition_now_and_then(
    fast_clock: PatientClock, book: Book
) -> None:
    option = next(one.contract.con_id for one in book.positions() if one.contract.is_option)
    book.market.silence_greeks(option)
    async with portal_rig(book, timing=SILENT) as rig:
        await rig.until(lambda: rig.row() is not None)
        asked = rig.sim.rules.counts["/trsrv/secdef"]
        await trio.sleep(60)
        assert asked + 3 <= rig.sim.rules.counts["/trsrv/secdef"] <= asked + 6
        assert rig.only_true_rows()


async def test_a_stream_is_not_flooded_when_many_options_start_anew(
    fast_clock: PatientClock,
) -> None:
    book = make_book(options=130)
    book.freeze(at=10)
    async with portal_rig(book, timing=SILENT) as rig:
        await rig.until_right()
        await rig.until(lambda: len(rig.sim.websocket.messages) >= 130)
        rig.sim.quirks.definition_first.update(book.contracts)
        rig.sim.streams.stop()
        rig.sim.streams.defined.clear()
        messages, most = rig.sim.websocket.messages, 0
        for _ in range(30):
            before = len(messages)
            await trio.sleep(1)
            most = max(most, len(messages) - before)
        assert any(message.startswith("umd") for message in messages)
        assert most <= 25
        await rig.until_right()
