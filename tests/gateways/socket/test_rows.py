"""What a row of SOCKET mode says is what the simulated gateway's book says, whatever it sends."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.socket.support import (
    DATA_TYPE,
    DETAILS,
    POSITIONS,
    SUBSCRIBE,
    TICK_S,
    agrees,
    options_of,
    socket_rig,
    still_book,
)
from tests.support.heard import with_code
from trio_bridge.errors import ConfigError
from trio_bridge.events.data import CurrenciesMixed, TypeUnknown
from trio_bridge.events.gateway import AccountAppeared, GatewayWarning, UpstreamBack
from trio_bridge.gateways.readiness import Reason
from trio_bridge.model import DataType
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.contracts import AAPL_CON_ID
from trio_bridge.simulator.tws import wire
from trio_bridge.simulator.tws.requests import Requests

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock

DBL_MAX = 1.7976931348623157e308


async def test_a_row_says_what_the_book_says(fast_clock: PatientClock) -> None:
    book = still_book()
    async with socket_rig(book) as rig:
        row = await rig.until_right()
        assert (row.positions, row.priced) == (30, 30)
        assert row.account == book.accounts[0]
        assert (row.greeks_age_s, row.data_type) == (0.0, DataType.LIVE)
        index_price = book.quote(options_of(book)[0].under_con_id).last
        assert row.underlying_price == index_price
        assert len(rig.sim.received(POSITIONS)) == 1, "positions are asked for once"


async def test_rows_follow_a_moving_book(fast_clock: PatientClock) -> None:
    book = still_book()
    async with socket_rig(book) as rig:
        for _ in range(5):
            book.advance(7)
            await rig.until_right()
    assert len(rig.sim.received(SUBSCRIBE)) == 26, "each option is subscribed once"


async def test_a_running_book_is_right_whenever_it_is_held() -> None:
    book = make_book()
    async with socket_rig(book, simulator={"tick_interval_s": 0.02}) as rig:
        for _ in range(3):
            book.thaw()
            await trio.sleep(0.3)
            book.freeze()
            await rig.until_right()


async def test_all_accounts_of_the_login_are_summed(fast_clock: PatientClock) -> None:
    book = still_book(accounts=3)
    async with socket_rig(book) as rig:
        row = await rig.until_right()
        assert row.account == ",".join(book.accounts)


async def test_only_the_accounts_of_ib_account_are_summed(fast_clock: PatientClock) -> None:
    book = still_book(accounts=3)
    first, _, third = book.accounts
    async with socket_rig(book, ib_account=(third, first)) as rig:
        row = await rig.until_right({first, third})
        assert row.account == f"{third},{first}"
        second_only = {held.contract.con_id for held in book.positions(book.accounts[1])} - {
            held.contract.con_id for held in [*book.positions(first), *book.positions(third)]
        }
        assert second_only
        assert not rig.sim.subscribed() & second_only, "nobody pays for data of other accounts"


@pytest.mark.parametrize("named", [False, True])
async def test_an_account_that_appears_counts_unless_the_settings_name_others(
    fast_clock: PatientClock, named: bool
) -> None:
    book = still_book(accounts=2)
    before = ",".join(book.accounts)
    new, option = "DU0000009", options_of(book)[0].con_id
    async with socket_rig(book, ib_account=book.accounts if named else ()) as rig:
        await rig.until_right()
        book.accounts = (*book.accounts, new)
        book.set_position(new, option, 5)
        await rig.settle()
        row = await rig.until_right(before.split(",") if named else book.accounts)
        assert row.account == (before if named else f"{new},{before}")
        book.set_position(new, option, 6)
        await rig.until_right(before.split(",") if named else book.accounts)
        assert len(rig.told(AccountAppeared, account=new)) == (0 if named else 1)


async def test_an_unknown_account_is_one_clear_line_that_names_the_known_ones(
    fast_clock: PatientClock,
) -> None:
    book = still_book(accounts=2)
    async with socket_rig(book, connect=False, ib_account=("DU7", book.accounts[0])) as rig:
        with pytest.raises(ConfigError) as refusal:
            await rig.bridge.connect()
        assert str(refusal.value) == (
            f"IB_ACCOUNT=DU7,{book.accounts[0]}: this login does not manage DU7; "
            f"it manages {', '.join(book.accounts)}"
        )
        await rig.until(lambda: not rig.sim.sessions)
        assert rig.sim.received(POSITIONS) == []


# Values that were not computed ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    list(
        product(("delta", "gamma", "vega", "theta"), (-2.0, DBL_MAX, -DBL_MAX, math.nan, math.inf))
    ),
)
async def test_what_was_not_computed_reaches_no_sum(
    field: str, value: float, fast_clock: PatientClock
) -> None:
    book = still_book(options=4)
    broken = options_of(book)[1]
    async with socket_rig(book) as rig:
        await rig.until_right()
        # It comes while good values are there: the old ones must not be used any more either.
        book.market.override(broken.con_id, **{field: value})
        row = await rig.until_right()
        assert (row.positions, row.priced) == (8, 7)
        book.market.override(broken.con_id)
        await rig.until_right()


async def test_an_option_that_never_had_greeks_is_unpriced_and_the_first_rows_wait_for_it(
    monkeypatch: pytest.MonkeyPatch, fast_clock: PatientClock
) -> None:
    monkeypatch.setattr("trio_bridge.gateways.socket.connection.SETTLE_S", 0.5)
    book = still_book(options=4)
    silent, sentinel, *_ = options_of(book)
    book.market.silence_greeks(silent.con_id)
    book.market.override(sentinel.con_id, vega=-2.0)
    began = trio.current_time()
    async with socket_rig(book) as rig:
        assert rig.blocked() is Reason.SETTLING
        row = await rig.until_right()
        assert trio.current_time() - began >= 0.5
        assert (row.positions, row.priced) == (8, 6)


async def test_without_one_priced_option_the_greeks_are_unknown_not_zero(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=2)
    for option in options_of(book):
        book.market.override(option.con_id, theta=DBL_MAX)
    async with socket_rig(book, ib_market_data_lines=1) as rig:
        rig.bridge.readiness.clear(Reason.SETTLING)
        row = rig.row()
        assert row is not None
        assert (row.delta, row.gamma, row.vega, row.theta) == (None, None, None, None)
        assert (row.positions, row.priced) == (6, 4)


async def test_an_underlying_price_that_was_not_computed_is_unknown(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=3)
    for option in options_of(book):
        book.market.override(option.con_id, underlying_price=-1.0)
    async with socket_rig(book) as rig:
        assert (await rig.until_right()).underlying_price is None


async def test_computations_of_bid_ask_and_last_are_not_the_models(
    fast_clock: PatientClock,
) -> None:
    """The simulator sends them with every tick, each different: a row that took one differs."""
    book = still_book(options=5)
    async with socket_rig(book) as rig:
        await rig.until_right()
        for _ in range(3):
            book.advance(60)
            await rig.until_right()
        for option in options_of(book):
            quote = book.quote(option.con_id)
            assert quote.model is not None
            for other in (quote.bid_greeks, quote.ask_greeks, quote.last_greeks):
                assert other is not None
                assert other.delta != quote.model.delta
                assert other.theta != quote.model.theta


# Positions that come and go ---------------------------------------------------------------------


async def test_positions_that_appear_change_and_close_are_followed_at_once(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=6)
    account, option = book.accounts[0], options_of(book)[0]
    async with socket_rig(book) as rig:
        await rig.until_right()

        book.set_position(account, option.con_id, 0)
        await rig.until_right()
        await rig.until(lambda: option.con_id not in rig.sim.subscribed())

        book.set_position(account, option.con_id, -3)
        await rig.until_right()

        book.set_position(account, option.con_id, 11)
        await rig.until_right()
        book.set_position(account, AAPL_CON_ID, 0)
        assert (await rig.until_right()).positions == 9

    asked = [one.fields[3] for one in rig.sim.received(SUBSCRIBE)]
    assert asked.count(str(option.con_id)) == 2, "a changed quantity needs no new subscription"


async def test_the_last_position_that_closes_leaves_true_zeros(fast_clock: PatientClock) -> None:
    book = still_book(options=2)
    async with socket_rig(book) as rig:
        await rig.until_right()
        for held in book.positions():
            book.set_position(held.account, held.contract.con_id, 0)
        row = await rig.until_right()
        assert (row.positions, row.delta, row.greeks_age_s, row.data_type) == (0, 0.0, None, None)


async def test_an_empty_account_is_a_row_of_zeros(fast_clock: PatientClock) -> None:
    book = still_book(options=0)
    for held in book.positions():
        book.set_position(held.account, held.contract.con_id, 0)
    async with socket_rig(book) as rig:
        assert (await rig.until_right()).delta == 0.0


async def test_a_change_on_the_heels_of_the_download_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, fast_clock: PatientClock
) -> None:
    """It comes in the same packet as the download's end, before anybody could act upon that."""
    book = still_book(options=4)
    held = next(held for held in book.positions() if held.contract.is_option)
    position_end = wire.position_end

    def end_with_a_change() -> bytes:
        book._holdings[held.account, held.contract.con_id] = (77.0, held.average_cost)
        return position_end() + wire.position(held._replace(quantity=77.0))

    monkeypatch.setattr(wire, "position_end", end_with_a_change)
    async with socket_rig(book) as rig:
        await rig.until_right()
        assert 77 in [position.quantity for position in rig.bridge.inputs().positions]


async def test_one_option_in_two_accounts_is_one_subscription_and_two_positions(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=4, accounts=2)
    option = options_of(book)[0]
    for account in book.accounts:
        book.set_position(account, option.con_id, 5)
    async with socket_rig(book) as rig:
        await rig.until_right()
        book.set_position(book.accounts[0], option.con_id, 0)
        await rig.until_right()
        assert option.con_id in rig.sim.subscribed(), "the other account still holds it"
    asked = [one.fields[3] for one in rig.sim.received(SUBSCRIBE)]
    assert asked.count(str(option.con_id)) == 1


async def test_an_option_that_is_bought_is_unpriced_until_its_greeks_come(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=6)
    account, option = book.accounts[0], options_of(book)[2]
    book.set_position(account, option.con_id, 0)
    async with socket_rig(book) as rig:
        await rig.until_right()
        rig.sim.first_tick_delay_s = 0.5
        book.set_position(account, option.con_id, 4)
        row = await rig.until_right(without={option.con_id})
        assert (row.positions, row.priced) == (10, 9)
        await rig.until_right()


# Contracts that lack something ------------------------------------------------------------------


@pytest.mark.parametrize("lacking", [{"exchange"}, {"multiplier"}, {"exchange", "multiplier"}])
async def test_what_positions_leave_out_is_asked_for(
    lacking: set[str], fast_clock: PatientClock
) -> None:
    book = still_book(options=10)
    async with socket_rig(book, connect=False) as rig:
        rig.sim.positions_lack = frozenset(lacking)
        await rig.bridge.connect()
        row = await rig.until_right()
        assert row.priced == 14
        # No option was left out of the wait for the first Greeks because it lacked an exchange.
        details = rig.sim.received(DETAILS)
        assert len(details) == len({one.fields[3] for one in details}) >= 10

        await rig.bridge.disconnect()
        await rig.bridge.connect()
        await rig.until_right()
        assert rig.sim.received(DETAILS) == details, "what a contract is was learned once"


async def test_a_contract_that_is_described_anew_is_asked_for_so(fast_clock: PatientClock) -> None:
    """A corporate action in mid-session: multiplier and exchange are others, the id is the same."""
    book = still_book(options=4)
    account, option = book.accounts[0], options_of(book)[0]
    async with socket_rig(book) as rig:
        await rig.until_right()
        book.market.change_contract(option.con_id, multiplier=150.0, exchange="PHLX")
        book.set_position(account, option.con_id, 3)
        await rig.until_right()
        rig.sim.lose_upstream()
        rig.sim.restore_upstream(data_kept=False)
        await rig.until(lambda: rig.told(UpstreamBack))
        await rig.until(lambda: rig.row() is not None)
        await rig.until_right()
        asked = [one.fields for one in rig.sim.received(SUBSCRIBE)]
        *_, last = [fields for fields in asked if fields[3] == str(option.con_id)]
        assert {"150", "PHLX"} <= set(last)
        assert with_code(rig.events, 200) == []


async def test_details_that_always_come_late_are_believed(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Requests._contract_details

    def answer_late(self: Requests, fields: list[str]) -> None:
        async def late() -> None:
            await trio.sleep(30)
            answer(self, fields)

        self._client.start(late)

    monkeypatch.setattr(Requests, "_contract_details", answer_late)
    async with socket_rig(still_book(options=4), connect=False) as rig:
        rig.sim.positions_lack = frozenset({"multiplier"})
        await rig.bridge.connect()
        await rig.until(lambda: rig.row() is not None)
        with trio.fail_after(60):
            await rig.until_right()


async def test_no_row_is_taken_before_the_details_of_the_first_positions_are_known(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=10)
    async with socket_rig(book, connect=False) as rig:
        rig.sim.positions_lack = frozenset({"exchange"})
        await rig.bridge.connect()
        await rig.until(lambda: rig.row() is not None)
        row = rig.row()
        assert row is not None
        assert agrees(row, book), "the first row is a whole one"


async def test_an_option_without_any_multiplier_is_unpriced_never_taken_as_one(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=4)
    option = options_of(book)[0]
    book.market.change_contract(option.con_id, multiplier=None)
    async with socket_rig(book) as rig:
        row = await rig.until_right()
        assert (row.positions, row.priced) == (8, 7)


async def test_a_contract_that_the_gateway_cannot_describe_is_unpriced_and_said_once(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=4)
    option = options_of(book)[0]
    async with socket_rig(book, connect=False) as rig:
        rig.sim.positions_lack = frozenset({"exchange"})
        known = rig.sim.find

        def find(query: object) -> object:
            return [one for one in known(query) if one.con_id != option.con_id]  # type: ignore[arg-type]

        rig.sim.find = find  # type: ignore[method-assign,assignment]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trio_bridge.gateways.socket.connection.SETTLE_S", 0.5)
            await rig.bridge.connect()
        row = await rig.until_right(without={option.con_id})
        assert (row.positions, row.priced) == (8, 7)
        await rig.until_told(GatewayWarning, code=200)
        assert len([one for one in rig.events if str(option.con_id) in one.message]) == 1


async def test_types_that_are_not_known_add_nothing_and_are_said_once(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=2)
    book.market.change_contract(AAPL_CON_ID, sec_type="ICU")
    async with socket_rig(book) as rig:
        row = await rig.until_right()
        assert row.positions == 6
        await rig.until_right()
        assert rig.told(TypeUnknown) == [TypeUnknown("ICU")]


async def test_options_in_two_currencies_are_said_once(fast_clock: PatientClock) -> None:
    book = still_book(options=2)
    book.market.change_contract(book.market.options()[0].con_id, currency="EUR")
    async with socket_rig(book) as rig:
        await rig.until(rig.row)
        await rig.settle()
        assert rig.row()
        assert rig.told(CurrenciesMixed) == [CurrenciesMixed(("EUR", "USD"))]


# Kinds of data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("best", "setting", "data_type"),
    [
        (DataType.LIVE, DataType.LIVE, DataType.LIVE),
        (DataType.FROZEN, DataType.FROZEN, DataType.FROZEN),
        (DataType.DELAYED, DataType.DELAYED, DataType.DELAYED),
        (DataType.DELAYED_FROZEN, DataType.DELAYED_FROZEN, DataType.DELAYED_FROZEN),
        (DataType.FROZEN, DataType.DELAYED_FROZEN, DataType.FROZEN),
    ],
)
async def test_the_row_tells_the_worst_kind_of_data_that_counted(
    best: DataType, setting: DataType, data_type: DataType, fast_clock: PatientClock
) -> None:
    book = still_book(options=4)
    book.market.set_data_type(options_of(book)[2].con_id, int(best))
    async with socket_rig(book, ib_market_data_type=setting) as rig:
        row = await rig.until_right()
        assert row.data_type is data_type
        assert [one.fields[2] for one in rig.sim.received(DATA_TYPE)] == [str(int(setting))]


async def test_reading_a_row_never_waits_for_the_network() -> None:
    book = still_book()
    async with socket_rig(book) as rig:
        await rig.until_right()
        rig.sim.hang()
        await trio.sleep(2 * TICK_S)
        began = trio.current_time()
        for _ in range(50):
            assert rig.row() is not None
        assert trio.current_time() - began < 1.0
        rig.sim.unhang()
