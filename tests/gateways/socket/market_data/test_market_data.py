"""Market data that a gateway refuses, takes away, or gives only in part: what is done, what is
said, what the rows say meanwhile. Every code comes over the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.socket.market_data.support import ticking
from tests.gateways.socket.support import (
    CANCEL,
    DATA_TYPE,
    START,
    SUBSCRIBE,
    Rig,
    agrees,
    options_of,
    socket_rig,
    still_book,
    supervised_rig,
)
from tests.support.heard import with_code
from trio_bridge.events.data import (
    CompetingSession,
    CompetingSessionEnded,
    ContractUnknown,
    DataRefused,
    LinesEnough,
    LinesReturned,
    LinesTaken,
    LinesTooFew,
    NotSubscribed,
)
from trio_bridge.events.gateway import ConnectionLost, GatewayRemark, GatewaySilent
from trio_bridge.gateways.socket.market_data import lines as market_lines
from trio_bridge.gateways.socket.market_data import refusals
from trio_bridge.gateways.socket.market_data import subscriptions as socket_subscriptions
from trio_bridge.model import DataType, Severity

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock
    from trio_bridge.simulator.book import Book
    from trio_bridge.simulator.tws.session import ClientSession

LATE_S = 3.0
"""How late a busy machine may be, on the fast clock."""


def asked_for(rig: Rig, con_id: int) -> int:
    """How often market data of a contract was requested."""
    return [one.fields[3] for one in rig.sim.received(SUBSCRIBE)].count(str(con_id))


def tell(rig: Rig, con_id: int, code: int, *, ended: bool) -> None:
    """Let the gateway say this code of the contract's subscription, and end it or not."""
    session: ClientSession = rig.sim.sessions[0]
    (subscription,) = [
        one for one in session.market_data.subscriptions.values() if one.con_id == con_id
    ]
    if ended:
        del session.market_data.subscriptions[subscription.req_id]
    session.send_error(subscription.req_id, code, "the gateway's words")


def unpriced(rig: Rig) -> int:
    row = rig.row()
    assert row is not None
    return row.positions - row.priced


# No such contract -------------------------------------------------------------------------------


async def test_200_gives_the_contract_up_for_long_and_says_so_once(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=6)
    lost, *_ = options_of(book)
    async with supervised_rig(book) as rig:
        rig.sim.refuse_market_data([lost.con_id], 200)
        began = trio.current_time()
        await rig.until_right(without={lost.con_id})
        assert trio.current_time() - began < 10, "an error is an answer: the rows don't wait for it"
        await trio.sleep(12)
        rig.sim.drop_connections()
        await rig.until_told(ConnectionLost)
        began = trio.current_time()
        await rig.until_right(without={lost.con_id})
        assert trio.current_time() - began < 10, "not after a reconnect either"
        assert asked_for(rig, lost.con_id) == 3, "once at each of its exchanges, and by its id"
        tried = (lost.exchange, "SMART", "")
        assert rig.told(ContractUnknown) == [ContractUnknown(lost.local_symbol, 200, tried)]


async def test_a_contract_that_was_unknown_during_a_reset_is_priced_again_without_a_restart(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "ASK_UNKNOWN_S", 5.0)
    book = still_book(options=6)
    lost, *_ = options_of(book)
    async with socket_rig(book, connect=False) as rig:
        rig.sim.refuse_market_data([lost.con_id], 200)
        await rig.bridge.connect()
        await rig.until_right(without={lost.con_id})
        await trio.sleep(12)
        assert 2 * 3 <= asked_for(rig, lost.con_id) <= 4 * 3
        assert len(rig.told(ContractUnknown)) == 1
        rig.sim.allow_market_data()
        await rig.until_right()


@pytest.mark.parametrize("sign", ["2158", "1101", "1102"])
async def test_an_unknown_contract_is_asked_for_again_when_what_was_lost_is_back(
    sign: str, fast_clock: PatientClock
) -> None:
    book = still_book(options=6)
    lost, *_ = options_of(book)
    async with socket_rig(book, connect=False) as rig:
        rig.sim.refuse_market_data([lost.con_id], 200)
        await rig.bridge.connect()
        await rig.until_right(without={lost.con_id})
        rig.sim.allow_market_data()
        if sign == "2158":
            rig.sim.notify(2158, "secdefil")
        else:
            rig.sim.lose_upstream()
            rig.sim.restore_upstream(data_kept=sign == "1102")
        with trio.fail_after(60):
            await rig.until_right()
        assert asked_for(rig, lost.con_id) == 3 + 1


# Not subscribed ---------------------------------------------------------------------------------

NOT_SUBSCRIBED = (354, 10089, 10091, 10168, 10186)


@pytest.mark.parametrize("code", NOT_SUBSCRIBED)
@pytest.mark.parametrize("setting", [DataType.LIVE, DataType.FROZEN])
async def test_without_live_data_an_option_is_unpriced_where_delayed_is_not_allowed(
    code: int, setting: DataType, fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "ASK_REFUSED_S", 20.0)
    book = still_book(options=6)
    refused = {option.con_id for option in options_of(book)[:2]}
    async with socket_rig(book, connect=False, ib_market_data_type=setting) as rig:
        rig.sim.refuse_market_data(refused, code)
        await rig.bridge.connect()
        row = await rig.until_right(without=refused)
        assert row.data_type is DataType.LIVE
        await rig.until_told(NotSubscribed)
        (event,) = rig.told(NotSubscribed)
        assert event.code == code
        assert "IB_MARKET_DATA_TYPE" in event.remedy

        # The owner subscribes; it is noticed without a restart, and not by asking all the time.
        rig.sim.allow_market_data()
        await rig.until_right()
        for con_id in refused:
            assert asked_for(rig, con_id) == 2
        assert len(rig.sim.received(DATA_TYPE)) == 1
        assert len(rig.sim.subscribed()) == rig.sim.lines_in_use == 6


@pytest.mark.parametrize("code", [354, 10089, 10091, 10168])
@pytest.mark.parametrize("setting", [DataType.DELAYED, DataType.DELAYED_FROZEN])
async def test_with_delayed_data_allowed_the_row_has_them_and_says_so(
    code: int, setting: DataType, fast_clock: PatientClock
) -> None:
    book = still_book(options=6)
    refused = options_of(book)[0].con_id
    async with socket_rig(book, connect=False, ib_market_data_type=setting) as rig:
        rig.sim.refuse_market_data([refused], code)
        await rig.bridge.connect()
        row = await rig.until_right()
        assert row.data_type is DataType.DELAYED
        assert asked_for(rig, refused) == 1


@pytest.mark.parametrize("code", [354, 10089, 10091, 10168])
async def test_live_data_that_end_in_mid_session_are_followed_by_delayed_ones(
    code: int, fast_clock: PatientClock
) -> None:
    book = still_book(options=6)
    refused = options_of(book)[0].con_id
    async with socket_rig(book, ib_market_data_type=DataType.DELAYED) as rig:
        assert (await rig.until_right()).data_type is DataType.LIVE
        book.market.set_data_type(refused, int(DataType.DELAYED))
        tell(rig, refused, code, ended=True)
        await rig.until(lambda: (row := rig.row()) and row.data_type is DataType.DELAYED)
        assert (await rig.until_right()).greeks_age_s == 0.0
        assert asked_for(rig, refused) == 2
        assert rig.sim.lines_in_use == 6


async def test_data_that_are_not_even_delayed_leave_the_option_unpriced(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=6)
    refused = options_of(book)[0].con_id
    async with socket_rig(book, connect=False, ib_market_data_type=DataType.DELAYED) as rig:
        rig.sim.refuse_market_data([refused], 10186)
        await rig.bridge.connect()
        await rig.until_right(without={refused})
        await rig.until_told(NotSubscribed)
        await trio.sleep(12)
        assert asked_for(rig, refused) == 2, "once more for delayed data, then a long pause"
        (event,) = rig.told(NotSubscribed, code=10186)
        assert "IB_MARKET_DATA_TYPE" not in event.remedy


@pytest.mark.parametrize(("code", "data_type"), [(10090, DataType.LIVE), (10167, DataType.DELAYED)])
async def test_remarks_on_data_that_go_on_cancel_nothing(
    code: int, data_type: DataType, fast_clock: PatientClock
) -> None:
    book = still_book(options=6)
    marked = {option.con_id for option in options_of(book)[:3]}
    async with socket_rig(book, connect=False) as rig:
        rig.sim.refuse_market_data(marked, code)
        await rig.bridge.connect()
        assert (await rig.until_right()).data_type is data_type
        await trio.sleep(5)
        book.advance(60)
        await rig.until_right()
        assert rig.sim.received(CANCEL) == []
        assert len(rig.sim.received(SUBSCRIBE)) == 6
        (event,) = rig.told(GatewayRemark)
        assert (event.code, event.severity, event.contracts) == (code, Severity.INFO, 3)


# A competing session ----------------------------------------------------------------------------


@pytest.mark.parametrize("data_return", [False, True], ids=["dead", "revived"])
async def test_10197_is_waited_out_said_once_and_the_data_come_back(
    data_return: bool, fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_lines, "COMPETING_PROBE_S", 2.0)
    book = still_book(options=6)
    async with supervised_rig(book, greeks_max_age_s=5.0) as rig:
        await rig.until_right()
        began = trio.current_time()
        rig.sim.start_competing_session()
        await rig.until_told(CompetingSession)
        row = await rig.until_right()
        assert row.greeks_age_s is not None
        assert 0 < row.greeks_age_s <= trio.current_time() - began, "old from then on"
        await rig.until(lambda: unpriced(rig) == 6)
        await trio.sleep(5)
        assert len(rig.sim.received(SUBSCRIBE)) <= 6 + 8, "one is asked for again now and then"
        assert len(rig.told(CompetingSession)) == 1

        book.advance(60)
        rig.sim.end_competing_session(data_return=data_return)
        await rig.until_right()
        await rig.until_told(CompetingSessionEnded)
        assert (await rig.until_right()).greeks_age_s == 0.0
        assert rig.sim.lines_in_use == 6
        assert rig.told(CompetingSession) == [CompetingSession(10197)]
    assert len(rig.sim.received(START)) == 1


async def test_10197_for_nothing_in_particular_is_for_everything(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_lines, "COMPETING_PROBE_S", 2.0)
    book = still_book(options=6)
    async with supervised_rig(book) as rig:
        await rig.until_right()
        rig.sim.notify(10197)
        await rig.until_told(CompetingSession)
        row = await rig.until_right()
        assert row.greeks_age_s
        await rig.until_told(CompetingSessionEnded)
        await rig.until(lambda: (row := rig.row()) and row.greeks_age_s == 0.0)


async def test_a_competing_session_when_we_connect(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_lines, "COMPETING_PROBE_S", 2.0)
    book = still_book(options=6)
    async with supervised_rig(book) as rig:
        rig.sim.start_competing_session()
        await rig.until(lambda: rig.row() is not None)
        assert unpriced(rig) == 6
        await trio.sleep(5)
        rig.sim.end_competing_session()
        await rig.until_right()
        assert len(rig.told(CompetingSession)) == 1
        assert len(rig.told(CompetingSessionEnded)) == 1


async def test_competing_sessions_come_again(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_lines, "COMPETING_PROBE_S", 2.0)
    book = still_book(options=6)
    async with supervised_rig(book) as rig:
        for times in (1, 2, 3):
            await rig.until_right()
            rig.sim.start_competing_session()
            await rig.until_told(CompetingSession, times)
            await trio.sleep(1)
            book.advance(60)
            rig.sim.end_competing_session()
            await rig.until_told(CompetingSessionEnded, times)
            await rig.until_right()


# Requests that the gateway does not like --------------------------------------------------------


@pytest.mark.parametrize("code", [321, 10999])
async def test_a_request_that_is_not_accepted_is_logged_with_its_contract(
    code: int, fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "ASK_INVALID_S", 2.0)
    book = still_book(options=6)
    option = options_of(book)[0]
    async with socket_rig(book) as rig:
        await rig.until_right()
        for _ in range(2):
            tell(rig, option.con_id, code, ended=False)
            await rig.until(lambda: option.con_id not in rig.sim.subscribed())
            row = await rig.until_right()
            assert row.greeks_age_s, "nobody vouches for its Greeks now"
            await rig.until(lambda: option.con_id in rig.sim.subscribed())
            await rig.until(lambda: (row := rig.row()) and row.greeks_age_s == 0.0)
        (event,) = rig.told(DataRefused)
        assert (event.contract, event.code) == (option.local_symbol, code)
        assert rig.sim.lines_in_use == 6, "no line was left behind"


async def test_a_warning_nobody_has_heard_of_ends_nothing(fast_clock: PatientClock) -> None:
    book = still_book(options=6)
    option = options_of(book)[0]
    async with socket_rig(book) as rig:
        await rig.until_right()
        for _ in range(3):
            tell(rig, option.con_id, 2152, ended=False)
        await rig.until_told(GatewayRemark, code=2152)
        await rig.settle()
        assert len(with_code(rig.events, 2152)) == 1
        assert (await rig.until_right()).greeks_age_s == 0.0
        assert rig.sim.received(CANCEL) == []


@pytest.mark.parametrize("code", [100, 321, 10999])
async def test_complaints_about_nothing_in_particular_are_told_and_change_nothing(
    code: int, fast_clock: PatientClock
) -> None:
    book = still_book(options=6)
    async with supervised_rig(book) as rig:
        await rig.until_right()
        rig.sim.notify(code, "60")
        await rig.until(lambda: with_code(rig.events, code))
        await rig.until_right()
        (event,) = with_code(rig.events, code)
        assert event.severity is Severity.WARNING
        assert rig.sim.received(CANCEL) == []
    assert len(rig.sim.received(START)) == 1


async def test_an_option_that_keeps_silent_is_asked_for_anew_once_in_a_while(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_lines, "RENEWAL_S", 4.0)
    book = still_book(options=6)
    silent = str(options_of(book)[0].con_id)
    book.market.silence_greeks(int(silent))
    async with socket_rig(book) as rig:
        async with ticking(book):
            await rig.until(lambda: asked_for(rig, int(silent)) == 3)
        times = [one.at for one in rig.sim.received(SUBSCRIBE) if one.fields[3] == silent]
        assert 3.5 <= times[1] - times[0] <= 4.0 + LATE_S
        assert len(rig.sim.received(SUBSCRIBE)) == 6 + 2
        book.market.silence_greeks(int(silent), silent=False)
        await rig.until_right()


# Too many lines ---------------------------------------------------------------------------------


def most_lines(rig: Rig) -> int:
    """The most lines that the bridge ever asked for at once, when none was refused."""
    held: set[str] = set()
    most = 0
    for one in rig.sim.transcript:
        if one.message_id == SUBSCRIBE:
            held.add(one.fields[2])
        elif one.message_id == CANCEL:
            held.discard(one.fields[2])
        most = max(most, len(held))
    return most


def given_up_at(rig: Rig, con_id: int) -> float:
    """When the contract's line was last cancelled, by the gateway's watch."""
    requests = {
        one.fields[2] for one in rig.sim.received(SUBSCRIBE) if int(one.fields[3]) == con_id
    }
    return max(one.at for one in rig.sim.received(CANCEL) if one.fields[2] in requests)


def units(book: Book, con_id: int) -> float:
    return sum(
        held.quantity * (held.contract.multiplier or 0)
        for held in book.positions()
        if held.contract.con_id == con_id
    )


async def test_more_options_than_lines_take_turns(fast_clock: PatientClock) -> None:
    book = still_book(options=12)
    largest = max(options_of(book), key=lambda option: abs(units(book, option.con_id)))
    async with supervised_rig(book, ib_market_data_lines=4) as rig:
        began = trio.current_time()
        row = await rig.until_right()
        assert trio.current_time() - began < 10
        await trio.sleep(10)
        row = await rig.until_right()
        assert row.greeks_age_s is not None
        assert 0 < row.greeks_age_s < 10, "each had its turn a moment ago"
        assert most_lines(rig) == 4
        times_asked = {one.con_id: asked_for(rig, one.con_id) for one in options_of(book)}
        average = sum(times_asked.values()) / len(times_asked)
        assert times_asked[largest.con_id] < 0.8 * average, "the largest keeps its line for longer"
        assert rig.only_true_rows()
        for con_id, greeks in rig.bridge.inputs().greeks.items():
            if greeks.current_until is not None:
                assert abs(greeks.current_until - given_up_at(rig, con_id)) < 1.0
        book.advance(60)
        await rig.until_right()
        assert rig.told(LinesTaken) == []


async def test_the_owners_lines_shrink_the_budget_once_and_it_grows_back(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_lines, "GROWTH_WAIT_S", 1.0)
    book = still_book(options=12)
    async with supervised_rig(book, simulator={"market_data_lines": 20}) as rig:
        rig.sim.lines_used_by_owner = 15
        await rig.until_right()
        await rig.until_told(LinesTaken)
        assert rig.sim.lines_in_use <= 20
        await trio.sleep(4)
        assert (await rig.until_right()).priced == 16
        assert rig.told(LinesTaken) == [LinesTaken(5)], "growth that is refused is no news"
        rig.sim.lines_used_by_owner = 0
        await rig.until(lambda: rig.sim.lines_in_use_by_clients == 12)
        await rig.until(lambda: (row := rig.row()) and row.greeks_age_s == 0.0)
        assert len(rig.told(LinesTaken)) == 1


async def test_a_budget_that_is_whole_again_is_told(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_lines, "GROWTH_WAIT_S", 1.0)
    book = still_book(options=8)
    async with supervised_rig(
        book, ib_market_data_lines=6, simulator={"market_data_lines": 10}
    ) as rig:
        rig.sim.lines_used_by_owner = 7
        await rig.until_told(LinesTaken, budget=3)
        rig.sim.lines_used_by_owner = 0
        await rig.until_told(LinesReturned, budget=6)
        await rig.until_right()


async def test_the_owner_takes_lines_while_the_bridge_rotates(fast_clock: PatientClock) -> None:
    book = still_book(options=12)
    async with supervised_rig(
        book, ib_market_data_lines=8, simulator={"market_data_lines": 10}
    ) as rig:
        await rig.until_right()
        rig.sim.lines_used_by_owner = 6
        await rig.until_told(LinesTaken)
        assert rig.told(LinesTaken) == [LinesTaken(4)]
        row = await rig.until_right()
        assert row.greeks_age_s is not None
        assert row.greeks_age_s < 15


async def test_lines_that_cannot_refresh_all_options_in_time_are_told_once_and_so_is_the_end(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_subscriptions, "COUNT_EVERY_S", 1.0)
    book = still_book(options=24)
    async with supervised_rig(book, ib_market_data_lines=4, greeks_max_age_s=0.8) as rig:
        await rig.until_told(LinesTooFew)
        await trio.sleep(3)
        (event,) = rig.told(LinesTooFew)
        assert (event.options, event.lines, event.max_age_s) == (24, 4, 0.8)
        assert event.oldest_s == pytest.approx(1.0, abs=0.005)
        assert unpriced(rig) > 0
        for held in book.positions()[:-6]:
            book.set_position(held.account, held.contract.con_id, 0)
        await rig.until_told(LinesEnough, lines=4)
        await rig.until_right()


async def test_lines_that_refresh_all_options_in_time_are_no_news(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_subscriptions, "COUNT_EVERY_S", 1.0)
    async with supervised_rig(still_book(options=24), ib_market_data_lines=4) as rig:
        await rig.until_right()
        await trio.sleep(3)
        assert rig.told(LinesTooFew) == []


# Hundreds of options ----------------------------------------------------------------------------


async def test_240_options_on_100_lines_are_all_priced_within_30_seconds(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=240)
    async with supervised_rig(book, heartbeat_s=10.0) as rig:
        await rig.until(rig.bridge.is_connected)
        began = trio.current_time()
        await rig.until_right()
        assert trio.current_time() - began <= 30
        assert most_lines(rig) == 90
        await trio.sleep(6)
        row = await rig.until_right()
        assert row.greeks_age_s is not None
        assert row.greeks_age_s < 20
        assert most_lines(rig) == 90
        assert rig.sim.lines_in_use <= 90
        assert rig.told(LinesTaken) == []
        assert rig.told(GatewaySilent) == [], "probes get through beside all that"


@pytest.mark.long
async def test_a_thousand_options_are_all_priced_and_stay_so() -> None:
    """On the real clock: that is what 44 messages a second give. How old Greeks get meanwhile
    depends on the machine, and is a figure of the benchmark `scale`."""
    book = still_book(options=1000)
    async with supervised_rig(book, heartbeat_s=10.0) as rig:
        with trio.fail_after(100):
            while not ((row := rig.row()) and agrees(row, book)):
                await trio.sleep(1)
        for _ in range(20):
            await trio.sleep(1)
            await rig.until_right()
        assert most_lines(rig) == 90
        assert rig.told(LinesTaken) == []
        assert rig.told(GatewaySilent) == []
