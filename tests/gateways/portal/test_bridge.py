"""PORTAL mode from end to end, against the simulated gateway over TLS."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import trio
from httpx import AsyncClient

from tests.gateways.portal.support import (
    QUICK,
    make_settings,
    portal_rig,
    supervised_rig,
)
from trio_bridge.errors import ConfigError, GatewayError
from trio_bridge.events.data import CurrenciesMixed, MultipliersKnown, MultipliersUnknown
from trio_bridge.events.gateway import (
    AccountAppeared,
    AccountGone,
    Connected,
    ConnectionLost,
    Reconnecting,
)
from trio_bridge.events.portal import AnswersUnusable, RequestsPaused
from trio_bridge.gateways.portal.bridge import PortalBridge
from trio_bridge.gateways.readiness import Blocked, Reason
from trio_bridge.model import ApiMode, DataType
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.contracts import SPX_CON_ID
from trio_bridge.simulator.portal.faults import Fault
from trio_bridge.simulator.portal.server import open_portal_simulator

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock
    from trio_bridge.simulator.book import Book


@pytest.fixture
def book() -> Book:
    """Held still, so that every row can be judged."""
    book = make_book(accounts=2)
    book.freeze(at=10)
    return book


def first_option(book: Book) -> int:
    return next(held.contract.con_id for held in book.positions() if held.contract.is_option)


async def test_a_row_says_what_the_book_says(fast_clock: PatientClock, book: Book) -> None:
    async with portal_rig(book) as rig:
        row = await rig.until_right()
        assert rig.bridge.mode is ApiMode.PORTAL
        assert rig.bridge.endpoint == rig.sim.url
        assert row.account == "DU1000001,DU1000002"
        assert row.positions == row.priced == 33
        assert row.data_type is DataType.LIVE
        assert row.greeks_age_s is not None
        assert row.greeks_age_s < 10
        assert row.underlying_price == book.quote(SPX_CON_ID).last
        assert rig.sim.rules.out_of_order == 0
        assert rig.only_true_rows()


async def test_no_row_before_every_option_has_answered(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False) as rig:
        rig.sim.quirks.field_delay_s = 0.5
        assert rig.bridge.readiness.why(trio.current_time()) == Blocked(Reason.NOT_CONNECTED)
        await rig.bridge.connect()
        await rig.until_right()
        # Each row there was is whole: none with some Greeks, none with no positions.
        assert rig.only_true_rows()


async def test_rows_follow_the_market(fast_clock: PatientClock, book: Book) -> None:
    async with portal_rig(book) as rig:
        for _ in range(3):
            row = await rig.until_right()
            book.advance(300)
            assert not rig.is_right(row)
        await rig.until_right()


async def test_an_option_without_greeks_is_unpriced_and_holds_up_the_first_rows_only_so_long(
    fast_clock: PatientClock, book: Book
) -> None:
    book.market.silence_greeks(first_option(book))
    async with portal_rig(book, timing=QUICK._replace(settle_s=3.0)) as rig:
        began = trio.current_time()
        assert rig.bridge.readiness.why(trio.current_time()) == Blocked(Reason.SETTLING)
        row = await rig.until_right()
        assert trio.current_time() - began > 2
        assert (row.positions, row.priced) == (33, 32)
        assert rig.only_true_rows()


async def test_a_position_that_appears_vanishes_or_changes_shows_in_the_row(
    fast_clock: PatientClock, book: Book
) -> None:
    option = first_option(book)
    account = book.accounts[1]
    async with portal_rig(book) as rig:
        await rig.until_right()
        book.set_position(account, option, 5)
        row = await rig.until_right()
        assert row.positions == 34
        book.set_position(account, option, -7)
        await rig.until_right()
        book.set_position(account, option, 0)
        row = await rig.until_right()
        assert row.positions == 33


async def test_only_the_accounts_of_the_settings_count(
    fast_clock: PatientClock, book: Book
) -> None:
    account = book.accounts[1]
    async with portal_rig(book, ib_account=(account,)) as rig:
        row = await rig.until_right((account,))
        assert row.account == account
        assert not any(book.accounts[0] in request.path for request in rig.sim.rules.requests)


async def test_an_account_that_appears_counts_and_is_told(
    fast_clock: PatientClock, book: Book
) -> None:
    new, option = "DU0000009", first_option(book)
    async with portal_rig(book) as rig:
        before = await rig.until_right()
        book.accounts = (*book.accounts, new)
        book.set_position(new, option, 5)
        with rig.sim.faults(Fault("/positions/0", late_s=1.0)):
            row = await rig.until_right()
        assert row.account == f"{new},{before.account}"
        assert len(rig.told(AccountAppeared, account=new)) == 1
        # None names the account without its position, or counts it without the name.
        assert {(one.account, one.positions) for one in rig.rows.distinct.values()} == {
            (before.account, 33),
            (row.account, 34),
        }


async def test_an_account_that_goes_is_told_and_rows_go_on_without_it(
    fast_clock: PatientClock, book: Book
) -> None:
    gone, left = book.accounts
    async with portal_rig(book) as rig:
        await rig.until_right()
        with rig.sim.faults(Fault("/portfolio/accounts", text=f'[{{"id": "{left}"}}]')) as once:
            await rig.until(lambda: once.hits == 1)
        await trio.sleep(20)
        assert not rig.told(AccountGone)
        assert rig.only_true_rows()
        for held in book.positions(gone):
            book.set_position(gone, held.contract.con_id, 0)
        book.accounts = (left,)
        row = await rig.until_right()
        await rig.until(lambda: (row := rig.row()) is not None and row.account == left)
        assert row.positions == len(book.positions(left))
        assert len(rig.told(AccountGone, account=gone)) == 1


async def test_rows_go_on_while_the_accounts_cannot_be_asked_for_again(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, timing=QUICK._replace(positions_stale_s=25.0)) as rig:
        await rig.until_right()
        with rig.sim.faults(Fault("/portfolio/accounts", status=500)) as fault:
            await rig.until(lambda: fault.hits >= 8)
            assert rig.is_right(rig.row())
            book.set_position(book.accounts[0], first_option(book), 77)
            await rig.until_right()


async def test_an_empty_account_is_zeros(fast_clock: PatientClock) -> None:
    book = make_book(options=0)
    for held in book.positions():
        book.set_position(held.account, held.contract.con_id, 0)
    async with portal_rig(book) as rig:
        row = await rig.until_right()
        assert (row.delta, row.positions, row.priced) == (0.0, 0, 0)
        assert rig.only_true_rows()


async def test_options_in_two_currencies_are_said_once(
    fast_clock: PatientClock, book: Book
) -> None:
    book.market.change_contract(first_option(book), currency="EUR")
    async with portal_rig(book) as rig:
        await rig.until(rig.row)
        await trio.sleep(5)
        assert rig.row()
        assert rig.told(CurrenciesMixed) == [CurrenciesMixed(("EUR", "USD"))]


@pytest.mark.parametrize("options", [1, 100, 230])
async def test_any_number_of_options(fast_clock: PatientClock, options: int) -> None:
    book = make_book(options=options)
    book.freeze(at=10)
    async with portal_rig(book) as rig:
        row = await rig.until_right()
        assert row.priced >= options
        assert rig.only_true_rows()


@pytest.mark.long
async def test_a_thousand_options_in_two_accounts(fast_clock: PatientClock) -> None:
    book = make_book(options=1_000, accounts=2)
    book.freeze(at=10)
    async with portal_rig(book, timing=QUICK._replace(positions_s=5.0, quotes_s=2.5)) as rig:
        row = await rig.until_right()
        assert row.priced == row.positions == 1_007
        book.advance(60)
        await rig.until_right()
        assert rig.sim.rules.most_in_a_second <= 10


async def test_missing_multipliers_are_looked_up_and_never_taken_as_one(
    fast_clock: PatientClock, book: Book
) -> None:
    options = [held.contract.con_id for held in book.positions() if held.contract.is_option]
    async with portal_rig(book, connect=False) as rig:
        quirks = rig.sim.quirks
        for con_id, missing in zip(options, (None, 0, 0.0, "", "0"), strict=False):
            quirks.multiplier_in_positions[con_id] = missing
        quirks.multiplier_in_secdef[options[0]] = None
        quirks.multiplier_in_secdef[options[1]] = 0.0
        quirks.bare_positions.update(options[5:8])
        quirks.bare_positions.add(book.positions()[0].contract.con_id)
        quirks.definition_first.update(options[8:])
        with rig.sim.faults(Fault("/trsrv/secdef", late_s=2.0)):
            await rig.bridge.connect()
            await rig.until_right()
        asked = {path for path in rig.sim.rules.counts if path.endswith("/info")}
        assert asked == {f"/iserver/contract/{con_id}/info" for con_id in options[:2]}
        assert rig.only_true_rows()


async def test_a_multiplier_that_nobody_tells_leaves_the_option_unpriced_and_is_told(
    fast_clock: PatientClock, book: Book
) -> None:
    option = first_option(book)
    multiplier = book.market.contract(option).multiplier
    book.market.change_contract(option, multiplier=None)
    async with portal_rig(book) as rig:
        row = await rig.until_right()
        assert (row.positions, row.priced) == (33, 32)
        await rig.until(lambda: rig.told(MultipliersUnknown))
        book.market.change_contract(option, multiplier=multiplier)
        await rig.until_right()
        await rig.until(lambda: rig.told(MultipliersKnown))
        assert len(rig.told(MultipliersUnknown) + rig.told(MultipliersKnown)) == 2


async def test_multipliers_are_looked_up_although_definitions_do_not_come(
    fast_clock: PatientClock, book: Book
) -> None:
    known, unknown = [held.contract.con_id for held in book.positions()][-2:]
    async with portal_rig(book, connect=False, timing=QUICK._replace(settle_s=3.0)) as rig:
        rig.sim.quirks.multiplier_in_positions.update({known: None, unknown: None})
        rig.sim.quirks.multiplier_in_info[unknown] = None
        with rig.sim.faults(Fault("/trsrv/secdef", status=500)):
            await rig.bridge.connect()
            await rig.until(lambda: (row := rig.row()) is not None and row.priced == 32)
            await rig.until(lambda: rig.told(MultipliersUnknown, con_ids=(unknown,)))
        await rig.until_right()
        await rig.until(lambda: rig.told(MultipliersKnown))


async def test_a_gateway_that_wants_a_pause_is_not_said_to_know_no_multiplier(
    fast_clock: PatientClock, book: Book
) -> None:
    option = first_option(book)
    async with portal_rig(book, connect=False, timing=QUICK._replace(settle_s=3.0)) as rig:
        rig.sim.quirks.multiplier_in_positions[option] = None
        with (
            rig.sim.faults(Fault("/trsrv/secdef", status=500)),
            rig.sim.faults(Fault("/iserver/contract/", status=429)),
        ):
            await rig.bridge.connect()
            await rig.until(lambda: rig.told(RequestsPaused))
        await trio.sleep(30)
        assert not rig.told(MultipliersUnknown)


async def test_the_kind_of_data_shows_and_counts_only_if_allowed(
    fast_clock: PatientClock, book: Book
) -> None:
    option = first_option(book)
    book.market.set_data_type(option, int(DataType.FROZEN))
    async with portal_rig(book) as rig:
        row = await rig.until_right()
        assert row.data_type is DataType.FROZEN
        book.market.set_data_type(option, int(DataType.DELAYED))
        await rig.until(lambda: (found := rig.row()) is not None and found.priced == 32)
        book.market.set_data_type(option, int(DataType.LIVE))
        # Once each of its Greeks was told as live.
        await rig.until(
            lambda: (found := rig.row()) is not None and found.data_type is DataType.LIVE
        )


async def test_a_prior_close_of_the_underlying_is_read(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False) as rig:
        rig.sim.quirks.prior_close_prefix = True
        await rig.bridge.connect()
        row = await rig.until_right()
        assert row.underlying_price is not None


async def test_values_that_are_no_numbers_make_an_option_unpriced(
    fast_clock: PatientClock, book: Book
) -> None:
    options = [held.contract.con_id for held in book.positions() if held.contract.is_option]
    for con_id in options[:10]:
        book.market.override(con_id, vega=-2.0)
    async with portal_rig(book, timing=QUICK._replace(settle_s=3.0)) as rig:
        row = await rig.until_right()
        assert row.priced == row.positions - 10
        assert rig.only_true_rows()


async def test_an_unknown_account_is_an_error_that_names_the_known_ones(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False, ib_account=("U9", "DU1000001")) as rig:
        with pytest.raises(ConfigError) as caught:
            await rig.bridge.connect()
        assert str(caught.value) == (
            "IB_ACCOUNT=U9,DU1000001: this login does not manage U9; "
            "it manages DU1000001, DU1000002"
        )
        assert not rig.bridge.is_connected()


async def test_an_unknown_account_found_after_the_login_ends_the_connection(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False, ib_account=("U9",)) as rig:
        rig.sim.login.log_out()
        await rig.bridge.connect()
        rig.sim.rules.person_logs_in()
        with trio.fail_after(20):
            assert "does not manage U9" in await rig.bridge.wait_lost()
        assert not rig.bridge.is_connected()


async def test_a_gateway_that_is_not_there_is_a_clear_error(fast_clock: PatientClock) -> None:
    async with open_portal_simulator(make_book()) as sim:
        url = sim.url
    async with PortalBridge(make_settings(url)) as bridge:
        with pytest.raises(GatewayError, match="refused"):
            await bridge.connect()
        assert not bridge.is_connected()
        with pytest.raises(GatewayError):
            await bridge.probe()


async def test_a_bridge_connects_again_after_a_disconnect(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        with pytest.raises(RuntimeError):
            await rig.bridge.connect()
        await rig.bridge.disconnect()
        await rig.bridge.disconnect()
        assert rig.row() is None
        assert not rig.bridge.is_connected()
        await rig.bridge.connect()
        await rig.until_right()
        assert rig.only_true_rows()


async def test_nothing_is_left_behind_when_the_block_is_left_connected(
    fast_clock: PatientClock, book: Book
) -> None:
    async with open_portal_simulator(book) as sim:
        with trio.fail_after(10):
            async with PortalBridge(make_settings(sim.url), timing=QUICK) as bridge:
                await bridge.connect()
        assert not bridge.is_connected()


async def test_a_connect_can_be_cancelled(fast_clock: PatientClock, book: Book) -> None:
    async with portal_rig(book, connect=False) as rig:
        with rig.sim.faults(Fault("/iserver/auth/status", hang=True)):
            with trio.move_on_after(1) as scope:
                await rig.bridge.connect()
            assert scope.cancelled_caught
        await rig.bridge.connect()
        await rig.until_right()


async def test_the_gateway_that_goes_and_comes_back_is_found_again(
    fast_clock: PatientClock, book: Book
) -> None:
    async with supervised_rig(book) as rig:
        await rig.until_right()
        for _ in range(2):
            await rig.sim.stop()
            await rig.until(lambda: not rig.bridge.is_connected())
            assert rig.row() is None
            await rig.sim.start()
            await rig.until_right()
        assert rig.only_true_rows()
        assert len(rig.told(ConnectionLost)) == 2
        assert len(rig.told(Connected)) == 3
        assert rig.told(Reconnecting)


async def test_what_attempts_and_connections_leave_is_gone_when_the_next_one_is_made(
    fast_clock: PatientClock, book: Book
) -> None:
    async with supervised_rig(book) as rig:

        def attempts() -> int:
            return len(rig.told(Reconnecting))

        gc.disable()
        try:
            for _ in range(3):
                await rig.until_right()
                await rig.sim.stop()
                enough = attempts() + 2
                await rig.until(lambda enough=enough: attempts() >= enough)  # type: ignore[misc]
                await rig.sim.start()
            await rig.until_right()
            assert len([one for one in gc.get_objects() if type(one) is AsyncClient]) == 1
        finally:
            gc.enable()


async def test_a_gateway_that_falls_silent_is_lost(fast_clock: PatientClock, book: Book) -> None:
    async with supervised_rig(
        book, timing=QUICK._replace(answer_s=10.0, slow_answer_s=10.0)
    ) as rig:
        await rig.until_right()
        with rig.sim.faults(Fault("", hang=True)):
            await rig.until(lambda: not rig.bridge.is_connected())
            assert rig.row() is None
        await rig.until_right()
        assert rig.only_true_rows()
        assert not rig.told(AnswersUnusable)
