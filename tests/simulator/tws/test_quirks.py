"""Recorded oddities of real gateways, each played on request and seen by a client on a socket."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from tests.simulator.tws.client import RawClient, described, eventually, raw_client
from trio_bridge.simulator.accounts import figures
from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.listings import list_nikkei
from trio_bridge.simulator.tws.quirks import Advice
from trio_bridge.simulator.tws.server import TwsSimulator, open_tws_simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_bridge.simulator.contracts import Contract

QUICK_S = 0.02
"""Tick interval of these tests."""


@pytest.fixture
def book() -> Book:
    book = make_book()
    book.freeze(at=10)
    return book


@pytest.fixture
async def sim(book: Book) -> AsyncIterator[TwsSimulator]:
    async with open_tws_simulator(book, tick_interval_s=QUICK_S) as sim:
        yield sim


@pytest.fixture
async def client(sim: TwsSimulator) -> AsyncIterator[RawClient]:
    async with raw_client(sim) as client:
        yield client


def true_model(book: Book, contract: Contract) -> list[float]:
    value = book.moment.true_value(contract.con_id)
    return [value.delta, value.gamma, value.vega, value.theta]


async def subscribed(client: RawClient, contracts: list[Contract]) -> None:
    for req_id, contract in enumerate(contracts):
        await client.subscribe(req_id, contract)
        await client.model(req_id)


async def told_from_now(sim: TwsSimulator, client: RawClient) -> list[list[str]]:
    """Everything that comes before the answer to a request, the next round of ticks included."""
    mark = len(client.seen)
    sim.tick_now()
    await client.send(8, 1, 1)
    await client.expect(9)
    return client.seen[mark:-1]


def computed_by(messages: list[list[str]]) -> set[str]:
    """The requests for which there are computations."""
    return {one[1] for one in messages if one[0] == "21"}


# Lines that stand still ------------------------------------------------------------------------


@pytest.mark.parametrize("prices_go_on", [False, True])
async def test_lines_stop_without_a_word_while_the_clock_and_new_ones_answer(
    book: Book, sim: TwsSimulator, client: RawClient, prices_go_on: bool
) -> None:
    first, second, *_ = book.market.options()
    await subscribed(client, [first, second])
    sim.stall_lines(prices_go_on=prices_go_on)
    await client.current_time()
    book.advance(1)
    told = await told_from_now(sim, client)
    assert computed_by(told) == set()
    assert any(one[0] == "1" for one in told) is prices_go_on
    assert all(one[0] != "4" for one in told)
    await client.subscribe(5, first)
    assert await client.model(5) == true_model(book, first)
    sim.revive_lines()
    assert await client.model(1) == true_model(book, second)


async def test_some_lines_stop_and_others_go_on(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    first, second, *_ = book.market.options()
    await subscribed(client, [first, second])
    sim.stall_lines([first.con_id])
    await client.current_time()
    book.advance(1)
    assert computed_by(await told_from_now(sim, client)) == {"1"}


async def test_a_stalled_line_can_be_dead_for_new_ones_too(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    option = book.market.options()[0]
    await subscribed(client, [option])
    sim.stall_lines()
    sim.pause_ticks([option.con_id])
    await client.current_time()
    book.advance(1)
    await client.subscribe(5, option)
    assert computed_by(await told_from_now(sim, client)) == set()
    assert sim.lines_in_use == 2


# Upstream --------------------------------------------------------------------------------------


async def test_1100_can_stay_without_1101_and_1102_while_ticks_go_on(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    option = book.market.options()[0]
    await subscribed(client, [option])
    sim.notify(1100)
    for code, farm in ((2103, "usopt"), (2104, "usopt"), (2106, "ushmds"), (2158, "secdefil")):
        sim.notify(code, farm)
    book.advance(1)
    assert await client.model(0) == true_model(book, option)
    codes = [one[3] for one in client.seen if one[0] == "4"]
    assert codes[-5:] == ["1100", "2103", "2104", "2106", "2158"]


@pytest.mark.parametrize("data_kept", [True, False])
async def test_a_lost_link_can_come_back_without_a_word(
    book: Book, sim: TwsSimulator, client: RawClient, data_kept: bool
) -> None:
    option = book.market.options()[0]
    await subscribed(client, [option])
    sim.lose_upstream()
    await client.expect_error(1100)
    book.advance(1)
    sim.restore_upstream(data_kept=data_kept, silently=True)
    told = await told_from_now(sim, client)
    assert all(one[0] != "4" for one in told)
    assert computed_by(told) == ({"0"} if data_kept else set())


async def test_notices_come_in_floods(sim: TwsSimulator, client: RawClient) -> None:
    sim.notify(2103, "cashfarm", times=180)
    sim.notify(1102, times=3)
    for _ in range(180):
        assert (await client.expect_error(2103)).endswith("cashfarm")
    for _ in range(3):
        await client.expect_error(1102)


async def test_a_farm_can_flap_on_which_no_option_is(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    option = book.market.options()[0]
    await subscribed(client, [option])
    for _ in range(3):
        sim.break_farm([], farm="cashfarm")
        await client.expect_error(2103)
        sim.mend_farm(farm="cashfarm")
        await client.expect_error(2104)
    book.advance(1)
    assert await client.model(0) == true_model(book, option)


async def test_texts_can_hold_what_a_terminal_obeys(sim: TwsSimulator, client: RawClient) -> None:
    sim.quirks.texts[2107] = "\x1b[2JFarm {} \u202eko si\u202c\r\n"
    sim.notify(2107, "usopt")
    assert await client.expect_error(2107) == "\x1b[2JFarm {} \u202eko si\u202c\r\n"
    del sim.quirks.texts[2107]
    sim.notify(2107, "usopt")
    assert (await client.expect_error(2107)).endswith("upon demand.usopt")


async def test_a_server_that_is_too_old_says_its_version(book: Book) -> None:
    async with (
        open_tws_simulator(book, server_version=152) as sim,
        raw_client(sim, None) as client,
    ):
        await client.shake_hands("v157..178")
        assert client.version == 152


# Codes that are advice -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "data_type", "model"),
    [((10167, 10091), 3, "83"), ((10089,), 2, "13"), ((10089,), 1, "13"), ((10090,), 1, "13")],
)
async def test_codes_can_be_followed_by_valid_computations(
    book: Book,
    sim: TwsSimulator,
    client: RawClient,
    codes: tuple[int, ...],
    data_type: int,
    model: str,
) -> None:
    option = book.market.options()[0]
    sim.quirks.advice[option.con_id] = Advice(codes, data_type)
    await client.subscribe(1, option)
    assert (await client.expect(58))[3] == str(data_type)
    for code in codes:
        await client.expect_error(code, 1)
    fields = await client.expect(21, lambda one: one[2] == model)
    assert float(fields[5]) == true_model(book, option)[0]


async def test_a_code_without_data_leaves_the_line_in_use_until_it_is_cancelled(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    option = book.market.options()[0]
    sim.quirks.advice[option.con_id] = Advice((10089,), 1, ticks=False)
    for req_id in (1, 2):
        await client.subscribe(req_id, option)
        await client.expect_error(10089, req_id)
    assert sim.lines_in_use == 2
    assert computed_by(await told_from_now(sim, client)) == set()
    for req_id in (1, 2):
        await client.send(2, 2, req_id)
    await eventually(lambda: sim.lines_in_use == 0)


@pytest.mark.parametrize("code", [10089, 10197])
async def test_a_code_can_come_for_a_line_that_lives(
    book: Book, sim: TwsSimulator, client: RawClient, code: int
) -> None:
    first, second, *_ = book.market.options()
    await subscribed(client, [first, second])
    sim.say_of_lines([first.con_id], code, times=3)
    for _ in range(3):
        await client.expect_error(code, 0)
    book.advance(1)
    told = await told_from_now(sim, client)
    assert computed_by(told) == {"0", "1"}
    assert all(one[0] != "4" for one in told)
    # And when it is right, for one contract of many:
    sim.stall_lines([first.con_id])
    sim.say_of_lines([first.con_id], code)
    await client.expect_error(code, 0)
    book.advance(1)
    assert computed_by(await told_from_now(sim, client)) == {"1"}


async def test_every_contract_can_answer_200(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    options = book.market.options()[:10]
    sim.refuse_market_data([one.con_id for one in options], 200)
    for req_id, option in enumerate(options):
        await client.subscribe(req_id, option)
        await client.expect_error(200, req_id)


# Contracts -------------------------------------------------------------------------------------


async def test_a_position_can_name_an_exchange_that_has_no_market_data(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    option = book.market.options()[0]
    sim.quirks.position_exchanges[option.con_id] = "AMEX"
    await client.send(61, 1)
    fields = await client.expect(61, lambda one: one[3] == str(option.con_id))
    assert fields[10] == "AMEX"
    await client.subscribe(1, option, exchange="AMEX")
    await client.expect_error(200, 1)
    await client.subscribe(1, option, exchange="SMART")
    await client.model(1)


@pytest.mark.parametrize("works", ["CBOE", "SMART", "AMEX", ""])
async def test_market_data_can_be_found_in_one_place_only(
    book: Book, sim: TwsSimulator, client: RawClient, works: str
) -> None:
    option = book.market.options()[0]
    sim.quirks.data_exchanges[option.con_id] = (works,)
    for req_id, exchange in enumerate(("CBOE", "SMART", "AMEX", "")):
        await client.subscribe(req_id, option, exchange=exchange)
        if exchange == works:
            await client.model(req_id)
        else:
            await client.expect_error(200 if exchange else 321, req_id)


async def test_one_details_request_can_have_several_answers(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    option = book.market.options()[0]
    answers = (
        replace(option, exchange="SMART", price_magnifier=100),
        replace(option, exchange="CBOE", price_magnifier=1),
    )
    sim.quirks.details[option.con_id] = answers
    await client.send(9, 8, 1, *described(option), 0, "", "", "")
    await client.expect(52)
    told = [one for one in client.seen if one[0] == "10"]
    assert ["SMART" in told[0], "SMART" in told[1][:12]] == [True, False]
    assert [one[17] for one in told] == ["100", "1"]


async def test_details_can_come_late_or_never(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    option = book.market.options()[0]
    sim.quirks.details_delay_s = math.inf
    await client.send(9, 8, 1, *described(option), 0, "", "", "")
    await client.current_time()
    sim.quirks.details_delay_s = 0.2
    began = trio.current_time()
    await client.send(9, 8, 2, *described(option), 0, "", "", "")
    assert (await client.expect(10))[1] == "2"
    assert trio.current_time() - began >= 0.19


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("delta", 2147483647, "2147483647"),
        ("delta", 40.0, "40.0"),
        ("delta", -40.0, "-40.0"),
        ("gamma", -0.5, "-0.5"),
        ("vega", -3.0, "-3.0"),
        ("iv", 250.0, "250.0"),
    ],
)
async def test_impossible_values_cross_the_wire(
    book: Book, client: RawClient, field: str, value: float, text: str
) -> None:
    option = book.market.options()[0]
    book.market.override(option.con_id, **{field: value})
    await client.subscribe(1, option)
    fields = await client.expect(21, lambda one: one[2] == "13")
    assert fields[{"iv": 4, "delta": 5, "gamma": 8, "vega": 9}[field]] == text


# First answers that are not final --------------------------------------------------------------


async def downloaded(client: RawClient) -> list[str]:
    """The accounts of a download's positions."""
    mark = len(client.seen)
    await client.send(61, 1)
    await client.expect(62)
    return [one[2] for one in client.seen[mark:] if one[0] == "61"]


async def test_an_accounts_positions_can_come_after_the_downloads_end() -> None:
    book = make_book(accounts=2)
    first, second = book.accounts
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        sim.quirks.late_positions[second] = 0.3
        assert set(await downloaded(client)) == {first}
        ended = trio.current_time()
        assert (await client.expect(61))[2] == second
        assert trio.current_time() - ended > 0.25
        await client.send(74, 1, 5, second, "")
        await client.expect(72)
        assert all(one[0] != "71" for one in client.seen)
        assert (await client.expect(71))[3] == second


async def test_downloads_can_be_empty_while_the_account_is_worth_something(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    account = book.accounts[0]
    book.money.set_figures(account, GrossPositionValue=57_500.0)
    sim.quirks.empty_downloads = 2
    assert await downloaded(client) == []
    assert await downloaded(client) == []
    await client.send(62, 1, 7, "All", "GrossPositionValue")
    value = await client.expect(63)
    assert value == ["63", "1", "7", account, "GrossPositionValue", "57500.00", "USD"]
    assert len(await downloaded(client)) == 30


async def test_the_list_of_accounts_can_lack_one_for_a_while() -> None:
    book = make_book(accounts=2)
    first, second = book.accounts
    async with open_tws_simulator(book) as sim:
        sim.hide_account(second, 0.3)
        async with raw_client(sim) as client:
            assert [one[2] for one in client.seen if one[0] == "15"] == [first]
            assert set(await downloaded(client)) == {first, second}
            await trio.sleep(0.3)
            await client.send(17, 1)
            assert (await client.expect(15))[2] == f"{first},{second},"
            sim.hide_account(first)
            sim.list_accounts()
            assert (await client.expect(15))[2] == second


# Account values --------------------------------------------------------------------------------


async def test_a_summary_gives_the_tags_asked_for_of_every_account() -> None:
    book = make_book(accounts=2)
    book.freeze(at=10)
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        await client.send(62, 1, 7, "All", "NetLiquidation,AccountReady,Unknown,$LEDGER:USD")
        await client.expect(64)
        told = {tuple(one[3:5]): tuple(one[5:]) for one in client.seen if one[0] == "63"}
        for account in book.accounts:
            (net,) = [one for one in figures(book, account) if one.key == "NetLiquidation"]
            assert told[account, "NetLiquidation"] == (f"{net.amount:.2f}", "USD")
            assert told[account, "AccountReady"] == ("true", "")
            assert told[account, "ExchangeRate"] == ("1", "USD")
        assert all(key != "Unknown" for _, key in told)


async def test_account_values_are_told_when_they_change_and_at_an_interval(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    account = book.accounts[0]
    sim.quirks.account_interval_s = 0.05
    await client.send(76, 1, 7, account, "", 0)
    await client.expect(74)
    book.money.set_figures(account, AccountReady="false")
    assert (await client.expect(73))[5:] == ["AccountReady", "false", ""]
    sim.quirks.account_interval_s = 3600.0
    await trio.sleep(0.1)
    book.money.set_figures(account)
    assert await told_from_now(sim, client) == []
    sim.send_account_values()
    assert (await client.expect(73))[5:] == ["AccountReady", "true", ""]
    await client.send(77, 1, 7)
    await client.current_time()
    book.money.set_figures(account, AccountReady="false")
    sim.send_account_values()
    assert await told_from_now(sim, client) == []


async def test_the_light_form_is_the_ledger_and_the_net_liquidation(
    book: Book, client: RawClient
) -> None:
    list_nikkei(book, book.accounts[0])
    await client.send(76, 1, 7, book.accounts[0], "", 1)
    await client.expect(74)
    told = [(one[5], one[7]) for one in client.seen if one[0] == "73"]
    assert ("NetLiquidation", "USD") in told
    assert ("ExchangeRate", "JPY") in told
    assert ("CashBalance", "BASE") in told
    assert all(key != "MaintMarginReq" for key, _ in told)


async def test_a_ledger_can_be_prefixed_and_all_its_rates_one(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    list_nikkei(book, book.accounts[0])
    await client.send(62, 1, 7, "All", "$LEDGER:ALL")
    await client.expect(64)
    rates = {
        one[6]: one[5] for one in client.seen if one[:1] == ["63"] and one[4] == "ExchangeRate"
    }
    assert rates == {"USD": "1", "JPY": "0.0066", "BASE": "1"}
    await client.send(63, 1, 7)
    sim.quirks.ledger_prefix, sim.quirks.ledger_rates_are_one = "$LEDGER-", True
    mark = len(client.seen)
    await client.send(62, 1, 8, "All", "$LEDGER:ALL")
    await client.expect(64)
    told = [one for one in client.seen[mark:] if one[0] == "63"]
    assert all(one[4].startswith("$LEDGER-") for one in told)
    rates = {one[6]: one[5] for one in told if one[4] == "$LEDGER-ExchangeRate"}
    assert rates == {"USD": "1.00", "JPY": "1.00", "BASE": "1.00"}


async def test_what_is_asked_wrongly_of_accounts_is_refused(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    for req_id in (1, 2):
        await client.send(62, 1, req_id, "All", "SMA")
        await client.expect(64)
    await client.send(62, 1, 3, "All", "SMA")
    assert "Maximum number" in await client.expect_error(322, 3)
    await client.send(63, 1, 1)
    await client.send(62, 1, 3, "All", "SMA")
    await client.expect(64)
    await client.send(62, 1, 4, "Mine", "SMA")
    await client.expect_error(321, 4)
    for kind in (74, 76):
        await client.send(kind, 1, 5, "DU0", "", 0)
        await client.expect_error(321, 5)
        await client.send(kind, 1, 6, "All", "", 0)
        await client.expect(kind - 2)
    sim.positions_refused = True
    await client.send(62, 1, 9, "All", "SMA")
    await client.expect_error(321, 9)


async def test_a_link_restored_without_data_has_lost_account_requests_too(
    book: Book, sim: TwsSimulator, client: RawClient
) -> None:
    account = book.accounts[0]
    await client.send(76, 1, 7, account, "", 0)
    await client.expect(74)
    await client.send(74, 1, 8, account, "")
    await client.expect(72)
    sim.lose_upstream()
    sim.restore_upstream(data_kept=False)
    await client.expect_error(1101)
    book.set_position(account, book.market.options()[0].con_id, 77)
    assert await told_from_now(sim, client) == []
