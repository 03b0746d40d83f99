"""A first answer is not final: account values have to agree with the positions before a row counts
as whole; and they bring the exchange rates. Over real sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.socket.support import (
    POSITIONS,
    EveryStep,
    Rig,
    connecting,
    options_of,
    socket_rig,
    still_book,
    supervised_rig,
)
from trio_bridge.events.gateway import (
    AccountAppeared,
    AccountsAwaited,
    Connected,
    PositionsLacking,
    PositionsUnconfirmed,
    Reconnecting,
)
from trio_bridge.gateways.accounts import UnmanagedAccountError
from trio_bridge.gateways.readiness import Reason
from trio_bridge.gateways.worth import VALUES_WAIT_S
from trio_bridge.identity import account_of
from trio_bridge.model import ExchangeRates, Verdict
from trio_bridge.simulator.listings import list_nikkei
from trio_bridge.simulator.tws.accounts import AccountRequests
from trio_bridge.tasks.supervisor import ACCOUNTS_PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.patient_clock import PatientClock
    from trio_bridge.model import Snapshot
    from trio_bridge.simulator.book import Book

ALL_TOGETHER, STOP_ALL_TOGETHER, ACCOUNT_UPDATES = 62, 63, 6
ONE_BY_ONE, STOP_ONE, ONES_POSITIONS = 76, 77, 74
DBL_MAX = 1.7976931348623157e308


def whole_book_only(book: Book) -> Callable[[Snapshot], str | None]:
    """No row may say n of n while the book holds more."""
    held = len(book.positions())

    def judge(row: Snapshot) -> str | None:
        return None if row.positions == held else f"{row.positions} of {held}"

    return judge


def flat_book(accounts: int = 1) -> Book:
    book = still_book(options=3, accounts=accounts)
    for one in book.positions():
        book.set_position(one.account, one.contract.con_id, 0)
    return book


async def test_positions_of_a_second_account_that_come_late_are_waited_for(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=3, accounts=2)
    async with socket_rig(book, connect=False) as rig:
        rig.sim.quirks.late_positions[book.accounts[1]] = 6.0
        with EveryStep(rig.bridge, whole_book_only(book)) as watch:
            async with connecting(rig):
                await rig.until(lambda: rig.blocked() is Reason.POSITIONS_LACKING)
                assert book.accounts[1] in str(rig.bridge.readiness.why(trio.current_time()))
                assert (await rig.until_right()).verdict is Verdict.COMPLETE
        assert watch.rows
        assert watch.false_rows == []


async def test_an_account_that_neither_list_nor_download_names_is_waited_for(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=3, accounts=2)
    second = book.accounts[1]
    async with socket_rig(book, connect=False) as rig:
        rig.sim.hide_account(second)
        rig.sim.quirks.late_positions[second] = 6.0
        with EveryStep(rig.bridge, whole_book_only(book)) as watch:
            async with connecting(rig):
                await rig.until_right()
        assert watch.false_rows == []
        assert rig.told(AccountAppeared) == [AccountAppeared(second)]


async def test_empty_downloads_are_no_zeros_while_the_account_is_worth_something(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=3)
    async with socket_rig(book, connect=False) as rig:
        rig.sim.quirks.empty_downloads = 4
        with EveryStep(rig.bridge, whole_book_only(book)) as watch:
            async with connecting(rig):
                assert (await rig.until_right()).verdict is Verdict.COMPLETE
        assert watch.false_rows == []
        assert len(rig.told(PositionsLacking)) == 1
        assert len(rig.sim.received(POSITIONS)) == 5, "asked for again until they came"


async def test_futures_show_in_the_margin_alone(fast_clock: PatientClock) -> None:
    book = flat_book()
    book.money.set_figures(book.accounts[0], MaintMarginReq=12_000.0)
    async with socket_rig(book) as rig:
        await rig.until(lambda: rig.blocked() is Reason.POSITIONS_LACKING)
        await trio.sleep(30)
        assert rig.row() is None
        book.money.set_figures(book.accounts[0])
        await rig.until_right()


async def test_an_account_that_is_truly_flat_is_confirmed_at_once(
    fast_clock: PatientClock,
) -> None:
    book = flat_book(accounts=2)
    async with socket_rig(book) as rig:
        began = trio.current_time()
        row = await rig.until_right()
        assert trio.current_time() - began < 1.0
        assert (row.positions, row.delta, row.verdict) == (0, 0.0, Verdict.COMPLETE)
        assert rig.events == []


async def test_a_close_out_counts_when_the_values_have_followed(fast_clock: PatientClock) -> None:
    book = still_book(options=2)
    account = book.accounts[0]
    async with socket_rig(book) as rig:
        await rig.until_right()
        book.money.set_figures(account, GrossPositionValue=57_500.0)
        for one in book.positions():
            book.set_position(account, one.contract.con_id, 0)
        await rig.until(lambda: rig.blocked() is Reason.POSITIONS_LACKING)
        await trio.sleep(8)
        assert rig.row() is None
        book.money.set_figures(account)
        began = trio.current_time()
        assert (await rig.until_right()).positions == 0
        assert trio.current_time() - began < 6.0, "asked again soon, not in three minutes"


async def test_values_that_are_out_of_date_confirm_nothing(fast_clock: PatientClock) -> None:
    book = flat_book()
    book.money.set_figures(book.accounts[0], AccountReady="false")
    async with socket_rig(book) as rig:
        await trio.sleep(VALUES_WAIT_S / 2)
        assert rig.blocked() is Reason.VALUES_AWAITED
        book.money.set_figures(book.accounts[0])
        await rig.until_right()
        assert rig.told(PositionsUnconfirmed) == []


@pytest.mark.parametrize("gross", [None, DBL_MAX, "", "NaN"])
async def test_an_unknown_value_is_no_zero_and_no_end_of_all_rows(
    fast_clock: PatientClock, gross: float | str | None
) -> None:
    book = flat_book()
    book.money.set_figures(book.accounts[0], GrossPositionValue=gross)
    async with socket_rig(book) as rig:
        await trio.sleep(VALUES_WAIT_S - 1)
        assert rig.blocked() is Reason.VALUES_AWAITED
        await rig.until_right()
        await trio.sleep(200)
        assert rig.told(PositionsUnconfirmed) == [
            PositionsUnconfirmed("the gateway does not know them")
        ]


async def test_a_gateway_that_is_silent_about_values_is_not_waited_for_for_ever(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AccountRequests, "_summary", lambda self, fields: None)
    book = still_book(options=3)
    async with socket_rig(book) as rig:
        await trio.sleep(VALUES_WAIT_S - 1)
        assert rig.blocked() is Reason.VALUES_AWAITED
        await rig.until_right()
        await trio.sleep(100)
        assert rig.told(PositionsUnconfirmed) == [PositionsUnconfirmed("no answer")]
        assert rig.bridge.inputs().rates == ExchangeRates()


def refuse(self: AccountRequests, fields: list[str]) -> None:
    self._client.send_error(int(fields[2]), 322, "Maximum number of requests exceeded")


async def test_where_the_summary_is_refused_each_account_is_asked_about(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AccountRequests, "_summary", refuse)
    book = still_book(options=3, accounts=2)
    async with socket_rig(book, connect=False) as rig:
        rig.sim.quirks.late_positions[book.accounts[1]] = 6.0
        with EveryStep(rig.bridge, whole_book_only(book)) as watch:
            async with connecting(rig):
                await rig.until_right()
        assert watch.false_rows == []
        await rig.until_received(STOP_ONE, 2)
        asked = {one.fields[3] for one in rig.sim.received(ONE_BY_ONE)}
        assert asked == set(book.accounts)
        assert rig.bridge.inputs().rates == ExchangeRates("USD", {"USD": 1.0})


async def test_no_summary_stays_open_that_another_program_may_need(
    fast_clock: PatientClock,
) -> None:
    async with socket_rig(still_book(options=2, accounts=2)) as rig:
        await rig.until_right()
        await trio.sleep(200)
        await rig.until_received(STOP_ALL_TOGETHER, 4)
        opened = [one.fields[2] for one in rig.sim.received(ALL_TOGETHER)]
        ended = [one.fields[2] for one in rig.sim.received(STOP_ALL_TOGETHER)]
        assert ended == opened


async def test_where_both_are_refused_rows_go_on_and_one_event_says_so(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_summary", "_updates_multi"):
        monkeypatch.setattr(AccountRequests, name, refuse)
    book = flat_book()
    async with socket_rig(book) as rig:
        await rig.until_right()
        await trio.sleep(300)
        (event,) = rig.events
        assert isinstance(event, PositionsUnconfirmed)
        assert "322" in event.reason


async def test_more_than_fifty_sub_accounts_are_asked_about_one_by_one(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=3, accounts=55)
    late = book.accounts[7]
    async with socket_rig(book, connect=False) as rig:
        rig.sim.quirks.late_positions[late] = 20.0
        with EveryStep(rig.bridge, whole_book_only(book)) as watch:
            async with connecting(rig):
                row = await rig.until_right()
        assert watch.false_rows == []
        assert row.account == account_of(book.accounts)
        book.set_position(book.accounts[3], options_of(book)[0].con_id, 99)
        await rig.until_right()
        assert rig.sim.received(POSITIONS) == rig.sim.received(ALL_TOGETHER) == []
        assert {one.fields[3] for one in rig.sim.received(ONES_POSITIONS)} == set(book.accounts)


async def test_the_request_that_takes_the_owners_updates_away_is_never_sent(
    fast_clock: PatientClock,
) -> None:
    async with socket_rig(still_book(options=3)) as rig:
        await rig.until_right()
        await trio.sleep(400)
        assert rig.sim.received(ACCOUNT_UPDATES) == []
        asked = rig.sim.received(ALL_TOGETHER)
        assert 5 <= len(asked) <= 8, "once a minute"


@pytest.mark.parametrize("prefix", ["", "$LEDGER-"])
@pytest.mark.parametrize("all_one", [False, True])
async def test_the_ledger_brings_the_exchange_rates(
    fast_clock: PatientClock, prefix: str, all_one: bool
) -> None:
    book = still_book(options=3, accounts=2)
    list_nikkei(book, book.accounts[0])
    truth = ExchangeRates("USD", dict(book.money.rates))
    async with socket_rig(book, connect=False) as rig:
        rig.sim.quirks.ledger_prefix = prefix
        rig.sim.quirks.ledger_rates_are_one = all_one
        await rig.bridge.connect()
        await rig.until(lambda: rig.bridge.inputs().rates == truth, "for the rates")
        if not all_one:
            assert rig.sim.received(ONE_BY_ONE) == []
        book.money.rates["JPY"] *= 1.01
        await trio.sleep(70)
        assert rig.bridge.inputs().rates.to_base["JPY"] == pytest.approx(book.money.rates["JPY"])


# Accounts that the settings name -----------------------------------------------------------------


async def test_an_account_of_the_settings_that_the_list_lacks_for_a_while_is_waited_for(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=3, accounts=2)
    first, second = book.accounts
    async with supervised_rig(book, ib_account=(second,), delays_s=(5.0,)) as rig:
        rig.sim.hide_account(second, 60.0)
        assert (await rig.until_right({second})).verdict is Verdict.COMPLETE
        assert rig.told(AccountsAwaited) == [
            AccountsAwaited((second,), (first,), ACCOUNTS_PATIENCE_S)
        ]


async def test_an_account_that_is_never_listed_ends_the_service_after_minutes(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=3)
    began = trio.current_time()
    rigs: list[Rig] = []
    with pytest.RaisesGroup(UnmanagedAccountError, flatten_subgroups=True):
        async with supervised_rig(book, ib_account=("U404",), delays_s=(5.0, 20.0)) as rig:
            rigs.append(rig)
            await trio.sleep(10 * ACCOUNTS_PATIENCE_S)
    assert ACCOUNTS_PATIENCE_S <= trio.current_time() - began <= ACCOUNTS_PATIENCE_S + 25.0
    assert len(rigs[0].told(AccountsAwaited)) == 1
    assert rigs[0].told(Connected) == []
    assert len(rigs[0].told(Reconnecting)) >= 8
