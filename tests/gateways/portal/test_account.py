"""A first answer is not final: every list of accounts is read, and account values have to agree
with the positions before a row counts as whole; they bring the exchange rates, too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.gateways.portal.support import QUICK, Rig, portal_rig, supervised_rig
from trio_bridge.errors import GatewayError
from trio_bridge.events.gateway import (
    AccountGone,
    AccountLeftOut,
    AccountsAwaited,
    Connected,
    PositionsLacking,
    PositionsUnconfirmed,
)
from trio_bridge.events.portal import AnswersUnusable
from trio_bridge.gateways.accounts import UnmanagedAccountError
from trio_bridge.gateways.portal.account import read_brokerage_accounts, read_figures, read_ledger
from trio_bridge.gateways.portal.health import SessionState
from trio_bridge.gateways.portal.login import read_status
from trio_bridge.gateways.portal.values import ShapeError
from trio_bridge.gateways.portal.wire.pacing import USUAL_TIMING
from trio_bridge.gateways.readiness import Reason
from trio_bridge.gateways.worth import VALUES_WAIT_S
from trio_bridge.model import ExchangeRates, Verdict
from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.listings import list_nikkei
from trio_bridge.simulator.portal.faults import Fault
from trio_bridge.tasks.supervisor import ACCOUNTS_PATIENCE_S

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock

MASTER = "F7654321"


def still(**shape: Any) -> Book:
    book = make_book(**shape)
    book.freeze(at=10)
    return book


@pytest.fixture
def book() -> Book:
    return still(options=3, accounts=2)


def close_out(book: Book, *accounts: str) -> None:
    for one in book.positions():
        if one.account in (accounts or book.accounts):
            book.set_position(one.account, one.contract.con_id, 0)


def blocked(rig: Rig) -> Reason | None:
    found = rig.bridge.readiness.why(trio.current_time())
    return None if found is None else found.reason


def forget_positions(rig: Rig, *accounts: str) -> set[str]:
    """The gateway knows of no positions of these accounts, until the set is emptied."""
    unknown, page = set(accounts), rig.sim.portfolio.page
    rig.sim.portfolio.page = lambda account, number: (  # type: ignore[method-assign]
        [] if account in unknown else page(account, number)
    )
    return unknown


# Positions and values ----------------------------------------------------------------------------


@pytest.mark.parametrize("lacking", [1, 2], ids=["of one account", "of all"])
async def test_positions_that_lack_are_no_book_while_the_account_is_worth_something(
    fast_clock: PatientClock, book: Book, lacking: int
) -> None:
    async with portal_rig(book, connect=False) as rig:
        unknown = forget_positions(rig, *book.accounts[:lacking])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.bridge.connect)
            await rig.until(lambda: blocked(rig) is Reason.POSITIONS_LACKING)
            await trio.sleep(60)
            assert rig.row() is None
            assert book.accounts[0] in str(rig.bridge.readiness.why(trio.current_time()))
            unknown.clear()
            assert (await rig.until_right()).verdict is Verdict.COMPLETE
        assert rig.only_true_rows()
        assert rig.told(PositionsLacking) == [PositionsLacking(book.accounts[:lacking])]


async def test_an_account_that_is_truly_flat_is_confirmed(
    fast_clock: PatientClock, book: Book
) -> None:
    close_out(book)
    async with portal_rig(book) as rig:
        row = await rig.until_right()
        assert (row.positions, row.delta, row.verdict) == (0, 0.0, Verdict.COMPLETE)
        assert rig.told(PositionsUnconfirmed) == []


async def test_a_close_out_counts_when_the_values_have_followed(
    fast_clock: PatientClock, book: Book
) -> None:
    first = book.accounts[0]
    async with portal_rig(book) as rig:
        await rig.until_right()
        book.money.set_figures(first, MaintMarginReq=12_000.0)
        close_out(book, first)
        rig.rows.distinct.clear()
        await rig.until(lambda: blocked(rig) is Reason.POSITIONS_LACKING)
        await trio.sleep(8)
        assert rig.row() is None
        book.money.set_figures(first)
        began = trio.current_time()
        await rig.until_right()
        assert trio.current_time() - began < 8.0


@pytest.mark.parametrize("why", ["null", "refused", "a page"])
async def test_values_that_cannot_be_had_do_not_block_for_ever(
    fast_clock: PatientClock, book: Book, why: str
) -> None:
    close_out(book)
    async with portal_rig(book, connect=False) as rig:
        kinds: dict[str, Any] = {"refused": {"status": 403}, "a page": {"html": True}}
        if why == "null":
            rig.sim.quirks.null_figures = {"grosspositionvalue"}
        with rig.sim.faults(Fault("/summary", **kinds.get(why, {"late_s": 0.01}))):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.bridge.connect)
                await rig.until(lambda: blocked(rig) is Reason.VALUES_AWAITED)
                began = trio.current_time()
                await rig.until_right()
                assert trio.current_time() - began > VALUES_WAIT_S / 2
                await trio.sleep(200)
            assert len(rig.told(PositionsUnconfirmed)) == 1
            assert rig.told(AnswersUnusable) == []


async def test_a_session_that_is_not_established_is_not_ready(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False) as rig:
        rig.sim.login.established = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.bridge.connect)
            await trio.sleep(30)
            assert blocked(rig) in (Reason.NOT_CONNECTED, Reason.NO_BROKERAGE)
            assert not rig.rows.distinct
            rig.sim.login.established = True
            assert (await rig.until_right()).verdict is Verdict.COMPLETE


def test_established_is_believed_only_when_it_is_denied() -> None:
    status = {"authenticated": True, "connected": True, "competing": False}
    assert read_status(status) is SessionState.HEALTHY
    assert read_status(status | {"established": True}) is SessionState.HEALTHY
    assert read_status(status | {"established": False}) is SessionState.NO_BROKERAGE


async def test_the_ledger_brings_the_exchange_rates(fast_clock: PatientClock, book: Book) -> None:
    list_nikkei(book, book.accounts[0])
    async with portal_rig(book) as rig:
        truth = ExchangeRates("USD", dict(book.money.rates))
        await rig.until(lambda: rig.bridge.inputs().rates == truth, "for the rates")
        book.money.rates["JPY"] *= 1.01
        await trio.sleep(80)
        assert rig.bridge.inputs().rates.to_base["JPY"] == pytest.approx(book.money.rates["JPY"])
        rig.sim.login.log_out()
        await rig.until(lambda: rig.bridge.inputs().rates == ExchangeRates(), "for none")


async def test_values_of_many_accounts_are_asked_for_at_leisure(fast_clock: PatientClock) -> None:
    book = still(options=3, accounts=20)
    close_out(book, *book.accounts[3:])
    async with portal_rig(book, timing=USUAL_TIMING) as rig:
        await rig.until_right()
        asked = [one.at for one in rig.sim.rules.requests if one.path.endswith("/summary")]
        assert len(asked) >= 17, "those that hold nothing"
        began = trio.current_time()
        await trio.sleep(120)
        paths = [one.path for one in rig.sim.rules.requests if one.at >= began]
        summaries = [path for path in paths if path.endswith("/summary")]
        assert set(summaries) == {f"/portfolio/{account}/summary" for account in book.accounts}
        assert len(summaries) <= 60
        assert rig.sim.rules.most_in_a_second <= 9


@pytest.mark.parametrize("payload", [None, [], "x", 7])
def test_other_shapes_are_refused(payload: object) -> None:
    for read in (read_figures, read_ledger, read_brokerage_accounts):
        with pytest.raises(ShapeError):
            read(payload)


def test_what_is_null_is_not_known() -> None:
    told = {
        "grosspositionvalue": {"amount": 0.0, "currency": "USD", "isNull": True, "value": None},
        "maintmarginreq": {"amount": 7.5, "currency": "USD", "isNull": False, "value": None},
        "accountready": {"amount": 0.0, "currency": None, "isNull": False, "value": "false"},
        "strange": 7,
    }
    assert read_figures(told) == [
        ("grosspositionvalue", None, "USD"),
        ("maintmarginreq", 7.5, "USD"),
        ("accountready", "false", ""),
    ]


# Every list --------------------------------------------------------------------------------------


async def test_an_advisers_clients_are_recorded(fast_clock: PatientClock, book: Book) -> None:
    async with portal_rig(book, connect=False) as rig:
        rig.sim.account_lists.master = MASTER
        await rig.bridge.connect()
        everyone = (MASTER, *book.accounts)
        await rig.until(lambda: rig.is_right(rig.row()))
        assert {row.account for row in rig.rows.distinct.values()} == {",".join(sorted(everyone))}
        assert rig.bridge.get_portfolio_greeks().verdict is Verdict.COMPLETE
        assert rig.only_true_rows()


@pytest.mark.parametrize("refuses", [False, True])
async def test_more_than_a_hundred_clients_come_in_pages(
    fast_clock: PatientClock, refuses: bool
) -> None:
    book = still(options=2, accounts=110)
    async with portal_rig(book, connect=False, timing=USUAL_TIMING) as rig:
        lists = rig.sim.account_lists
        lists.master, lists.refuses_long_list = MASTER, refuses
        lists.missing["/iserver/accounts"] = set(book.accounts)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.bridge.connect)
            assert (await rig.until_right()).verdict is Verdict.COMPLETE
        assert rig.only_true_rows()
        assert rig.sim.rules.violations == []


@pytest.mark.parametrize(
    "lacking",
    [
        ("/portfolio/subaccounts", "/portfolio/subaccounts2"),
        ("/iserver/accounts",),
        ("/portfolio/accounts", "/iserver/accounts"),
    ],
    ids=str,
)
async def test_an_account_that_any_list_names_is_recorded(
    fast_clock: PatientClock, book: Book, lacking: tuple[str, ...]
) -> None:
    async with portal_rig(book, connect=False) as rig:
        for path in lacking:
            rig.sim.account_lists.missing[path] = {book.accounts[1]}
        await rig.bridge.connect()
        assert (await rig.until_right()).verdict is Verdict.COMPLETE
        assert rig.only_true_rows()


async def test_a_list_that_fails_for_a_while_names_those_that_it_named(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False) as rig:
        rig.sim.account_lists.missing["/iserver/accounts"] = {book.accounts[1]}
        rig.sim.account_lists.missing["/portfolio/accounts"] = {book.accounts[1]}
        await rig.bridge.connect()
        await rig.until_right()
        with rig.sim.faults(failing := Fault("/portfolio/subaccounts", status=503)):
            await rig.until(lambda: failing.hits > 8, "for several looks")
        assert rig.only_true_rows()
        assert rig.told(AccountGone) == []


async def test_a_page_of_clients_that_fails_is_not_the_end_of_their_list(
    fast_clock: PatientClock,
) -> None:
    book = still(options=1, accounts=30)
    async with portal_rig(book, connect=False) as rig:
        lists = rig.sim.account_lists
        lists.master = MASTER
        lists.missing["/iserver/accounts"] = set(book.accounts)
        lists.missing["/portfolio/subaccounts"] = {MASTER, *book.accounts}
        with (
            rig.sim.faults(Fault("/portfolio/subaccounts2", status=503, left_out=1)),
            pytest.raises(GatewayError),
        ):
            await rig.bridge.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.bridge.connect)
            await rig.until_right()
        assert rig.only_true_rows()


async def test_an_account_whose_positions_cannot_be_had_is_named(
    fast_clock: PatientClock, book: Book
) -> None:
    named = json.dumps({"accounts": [*book.accounts, "U77", "U77C", f"{book.accounts[0]}C", "All"]})
    async with portal_rig(book, connect=False) as rig:
        with rig.sim.faults(Fault("/iserver/accounts", text=named)):
            await rig.bridge.connect()
            await rig.until_right()
            await trio.sleep(60)
            assert [one.account for one in rig.told(AccountLeftOut)] == ["U77"]
            assert rig.only_true_rows()
            assert rig.told(AnswersUnusable) == []


async def test_no_clients_are_known_when_every_list_of_them_fails(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False) as rig:
        rig.sim.account_lists.master = MASTER
        with (
            rig.sim.faults(Fault("/portfolio/subaccounts", status=503)),
            rig.sim.faults(Fault("/iserver/accounts", status=503)),
            trio.move_on_after(60),
        ):
            await supervised(rig)
        assert not rig.rows.distinct, "zeros of the master would look whole"


async def supervised(rig: Rig) -> None:
    """Connect again and again."""
    while True:
        try:
            await rig.bridge.connect()
            await rig.bridge.wait_lost()
        except Exception:
            await trio.sleep(5)


# Accounts that the settings name -----------------------------------------------------------------


async def test_an_account_of_the_settings_that_the_lists_lack_for_a_while_is_waited_for(
    fast_clock: PatientClock, book: Book
) -> None:
    first, second = book.accounts
    async with supervised_rig(book, ib_account=(second,)) as rig:
        missing = rig.sim.account_lists.missing
        for path in ("/portfolio/accounts", "/portfolio/subaccounts", "/iserver/accounts"):
            missing[path] = {second}
        await trio.sleep(60)
        assert rig.told(AccountsAwaited) == [
            AccountsAwaited((second,), (first,), ACCOUNTS_PATIENCE_S)
        ]
        missing.clear()
        await rig.until_right((second,))


async def test_an_account_that_is_never_listed_ends_the_service_after_minutes(
    fast_clock: PatientClock, book: Book
) -> None:
    began = trio.current_time()
    rigs: list[Rig] = []
    with pytest.RaisesGroup(UnmanagedAccountError, flatten_subgroups=True):
        async with supervised_rig(book, ib_account=("U404",), timing=QUICK) as rig:
            rigs.append(rig)
            await trio.sleep(10 * ACCOUNTS_PATIENCE_S)
    assert ACCOUNTS_PATIENCE_S <= trio.current_time() - began <= ACCOUNTS_PATIENCE_S + 15.0
    assert len(rigs[0].told(AccountsAwaited)) == 1
    assert rigs[0].told(Connected) == []
