"""Two independent clients, ib_async and the official ibapi, get the book's values over the wire."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import trio
from ib_async import IB, Contract, StartupFetch, Ticker
from ibapi.client import EClient
from ibapi.contract import Contract as IbapiContract
from ibapi.wrapper import EWrapper

from tests.simulator.tws.client import PATIENCE_S, RawClient, eventually
from trio_bridge.asyncio_compat import trio_asyncio
from trio_bridge.simulator.accounts import figures
from trio_bridge.simulator.book import Book, Holding, make_book
from trio_bridge.simulator.listings import list_corn
from trio_bridge.simulator.tws.server import TwsSimulator, open_tws_simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

QUICK_S = 0.02


@pytest.fixture
def book() -> Book:
    book = make_book(accounts=2)
    book.freeze(at=10)
    return book


@pytest.fixture(autouse=True)
def no_complaints(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Both libraries log what they cannot decode instead of raising it."""
    caplog.set_level(logging.INFO)
    yield
    complaints = [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.ERROR and record.name.startswith("ib")
    ]
    assert complaints == []


@asynccontextmanager
async def connected_ib(sim: TwsSimulator, client_id: int = 10) -> AsyncIterator[IB]:
    async with trio_asyncio.open_loop():
        ib = IB()
        with trio.fail_after(PATIENCE_S):
            await trio_asyncio.aio_as_trio(ib.connectAsync)(
                sim.host, sim.port, client_id, readonly=True, fetchFields=StartupFetch(0)
            )
        yield ib
        ib.disconnect()
        await eventually(lambda: all(one.client_id != client_id for one in sim.sessions))


def key(account: str, con_id: int) -> tuple[str, int]:
    return account, con_id


def held(book: Book) -> dict[tuple[str, int], float]:
    return {key(one.account, one.contract.con_id): one.quantity for one in book.positions()}


# ib_async --------------------------------------------------------------------------------------


async def test_ib_async_downloads_the_positions_of_all_accounts(book: Book) -> None:
    async with open_tws_simulator(book) as sim, connected_ib(sim) as ib:
        assert ib.client.serverVersion() == 178
        assert ib.managedAccounts() == list(book.accounts)
        positions = ib.positions()
        assert {key(one.account, one.contract.conId): one.position for one in positions} == held(
            book
        )
        assert all(one.contract.exchange for one in positions)
        assert ib.portfolio() == []


async def test_ib_async_sees_positions_come_change_and_go(book: Book) -> None:
    account, con_id = book.accounts[1], book.market.options()[0].con_id
    async with open_tws_simulator(book) as sim, connected_ib(sim) as ib:

        def quantity() -> float:
            return sum(
                one.position
                for one in ib.positions()
                if (one.account, one.contract.conId) == (account, con_id)
            )

        for wanted in (4.0, -7.0, 0.0, 1.0):
            book.set_position(account, con_id, wanted)
            await eventually(lambda wanted=wanted: quantity() == wanted)  # type: ignore[misc]


async def test_ib_async_sums_the_books_greeks(book: Book) -> None:
    async with (
        open_tws_simulator(book, tick_interval_s=QUICK_S) as sim,
        connected_ib(sim) as ib,
    ):
        ib.reqMarketDataType(2)
        tickers = {
            one.contract.conId: ib.reqMktData(one.contract)
            for one in ib.positions()
            if one.contract.secType in ("OPT", "FOP")
        }
        assert len(tickers) == 26
        for t in (10, 11, 5000):
            book.freeze(at=t)
            expected = book.net_greeks()
            await eventually(lambda: all(is_current(book, one) for one in tickers.values()))
            for name in ("gamma", "vega", "theta"):
                total = sum(
                    one.position
                    * float(one.contract.multiplier)
                    * getattr(tickers[one.contract.conId].modelGreeks, name)
                    for one in ib.positions()
                    if one.contract.conId in tickers
                )
                assert total == pytest.approx(getattr(expected, name), rel=1e-9)
        ticker = next(iter(tickers.values()))
        assert ticker.marketDataType == 1
        assert ticker.bid < ticker.last < ticker.ask
        assert len({one.delta for one in computations(ticker)}) == 4
        assert sim.lines_in_use == 26


def is_current(book: Book, ticker: Ticker) -> bool:
    assert ticker.contract is not None
    true = book.moment.true_value(ticker.contract.conId)
    return ticker.modelGreeks is not None and ticker.modelGreeks.theta == true.theta


def computations(ticker: Ticker) -> list[Any]:
    return [ticker.modelGreeks, ticker.bidGreeks, ticker.askGreeks, ticker.lastGreeks]


async def test_ib_async_lets_some_sentinels_through_as_the_bridge_must_know(book: Book) -> None:
    option = book.market.options()[0]
    book.market.override(option.con_id, delta=-2.0, gamma=-2.0, vega=-2.0, theta=-2.0, price=-1.0)
    async with open_tws_simulator(book) as sim, connected_ib(sim) as ib:
        ticker = ib.reqMktData(Contract(conId=option.con_id, exchange="CBOE"))
        await eventually(lambda: ticker.modelGreeks is not None)
        greeks = ticker.modelGreeks
        assert greeks is not None
        assert (greeks.delta, greeks.gamma, greeks.optPrice) == (None, None, None)
        assert (greeks.vega, greeks.theta) == (-2.0, -2.0)


async def test_ib_async_tells_delayed_from_live_by_the_announced_type(book: Book) -> None:
    option = book.market.options()[0]
    book.market.set_data_type(option.con_id, 3)
    async with open_tws_simulator(book) as sim, connected_ib(sim) as ib:
        ib.reqMarketDataType(3)
        ticker = ib.reqMktData(Contract(conId=option.con_id, exchange="CBOE"))
        await eventually(lambda: ticker.modelGreeks is not None)
        assert ticker.marketDataType == 3
        assert is_current(book, ticker)


async def test_ib_async_can_use_contracts_and_the_clock(book: Book) -> None:
    async with open_tws_simulator(book) as sim, connected_ib(sim) as ib:
        with trio.fail_after(PATIENCE_S):
            option = next(one for one in ib.positions() if one.contract.secType == "OPT").contract
            (details,) = await trio_asyncio.aio_as_trio(ib.reqContractDetailsAsync)(option)
            assert details.underConId == book.contract(option.conId).under_con_id
            assert (await trio_asyncio.aio_as_trio(ib.reqCurrentTimeAsync)()).year > 2000
            option.exchange = ""
            refused: list[int] = []
            ib.errorEvent += lambda _req_id, code, *_: refused.append(code)
            ib.reqMktData(option)
            await eventually(lambda: refused == [321])


async def test_ib_async_says_nothing_of_a_taken_client_id_but_an_error_event(
    book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    codes: list[int] = []
    async with open_tws_simulator(book) as sim, trio_asyncio.open_loop():
        sim.occupy_client_id(10)
        ib = IB()
        ib.errorEvent += lambda _req_id, code, *_: codes.append(code)
        with pytest.raises(TimeoutError), trio.fail_after(PATIENCE_S):
            await trio_asyncio.aio_as_trio(ib.connectAsync)(sim.host, sim.port, 10, timeout=0.3)
        assert codes == [326]
    caplog.clear()


@pytest.mark.parametrize("version", [157, 163, 164, 166, 176])
async def test_ib_async_works_at_every_layout_that_differs(book: Book, version: int) -> None:
    option = next(one for one in book.market.options() if one.sec_type == "FOP")
    async with open_tws_simulator(book, server_version=version) as sim, connected_ib(sim) as ib:
        assert ib.client.serverVersion() == version
        assert len(ib.positions()) == len(book.positions())
        with trio.fail_after(PATIENCE_S):
            (details,) = await trio_asyncio.aio_as_trio(ib.reqContractDetailsAsync)(
                Contract(conId=option.con_id)
            )
        assert details.contract is not None
        assert details.contract.localSymbol == option.local_symbol
        ticker = ib.reqMktData(details.contract)
        await eventually(lambda: ticker.modelGreeks is not None)
        assert is_current(book, ticker)


# The official client ---------------------------------------------------------------------------


class Official(EWrapper, EClient):  # type: ignore[misc]
    """ibapi 9.81.1 as in its documentation: wrapper and client in one, run in a thread."""

    def __init__(self) -> None:
        EWrapper.__init__(self)
        EClient.__init__(self, wrapper=self)
        self.ready = threading.Event()
        self.downloaded = threading.Event()
        self.accounts = ""
        self.held: dict[tuple[str, int], float] = {}
        self.contracts: dict[int, IbapiContract] = {}
        self.values: dict[tuple[int, str, str, str], str] = {}
        """Of account updates and summaries: by request, account, key, currency."""
        self.ended: set[int] = set()
        """Requests whose first answer is complete."""
        self.held_by_request: dict[tuple[int, str, int], float] = {}
        self.computed: dict[tuple[int, int], tuple[float, ...]] = {}
        self.prices: dict[tuple[int, int], float] = {}
        self.types: dict[int, int] = {}
        self.details: list[Any] = []
        self.details_done = False
        self.clock = 0
        self.errors: list[tuple[int, int]] = []

    def managedAccounts(self, accountsList: str) -> None:
        self.accounts = accountsList

    def nextValidId(self, orderId: int) -> None:
        self.ready.set()

    def position(
        self, account: str, contract: IbapiContract, position: float, avgCost: float
    ) -> None:
        self.held[account, contract.conId] = position
        self.contracts[contract.conId] = contract

    def positionEnd(self) -> None:
        self.downloaded.set()

    def positionMulti(
        self,
        reqId: int,
        account: str,
        modelCode: str,
        contract: IbapiContract,
        pos: float,
        avgCost: float,
    ) -> None:
        self.held_by_request[reqId, account, contract.conId] = pos

    def positionMultiEnd(self, reqId: int) -> None:
        self.ended.add(reqId)

    def accountSummary(self, reqId: int, account: str, tag: str, value: str, currency: str) -> None:
        self.values[reqId, account, tag, currency] = value

    def accountSummaryEnd(self, reqId: int) -> None:
        self.ended.add(reqId)

    def accountUpdateMulti(
        self, reqId: int, account: str, modelCode: str, key: str, value: str, currency: str
    ) -> None:
        self.values[reqId, account, key, currency] = value

    def accountUpdateMultiEnd(self, reqId: int) -> None:
        self.ended.add(reqId)

    def tickOptionComputation(
        self, reqId: int, tickType: int, tickAttrib: int, *values: float
    ) -> None:
        self.computed[reqId, tickType] = values

    def tickPrice(self, reqId: int, tickType: int, price: float, attrib: Any) -> None:
        self.prices[reqId, tickType] = price

    def marketDataType(self, reqId: int, marketDataType: int) -> None:
        self.types[reqId] = marketDataType

    def contractDetails(self, reqId: int, contractDetails: Any) -> None:
        self.details.append(contractDetails)

    def contractDetailsEnd(self, reqId: int) -> None:
        self.details_done = True

    def currentTime(self, time: int) -> None:
        self.clock = time

    def error(self, reqId: int, errorCode: int, errorString: str) -> None:
        self.errors.append((reqId, errorCode))


@asynccontextmanager
async def connected_official(sim: TwsSimulator, client_id: int = 20) -> AsyncIterator[Official]:
    client = Official()
    with trio.fail_after(PATIENCE_S):
        await trio.to_thread.run_sync(client.connect, sim.host, sim.port, client_id)
        thread = threading.Thread(target=client.run)
        thread.start()
        try:
            await eventually(client.ready.is_set)
        except BaseException:
            client.disconnect()
            raise
    try:
        yield client
    finally:
        client.disconnect()
        with trio.move_on_after(PATIENCE_S, shield=True):
            await trio.to_thread.run_sync(thread.join)
            await trio.to_thread.run_sync(client_reader_join, client)


def client_reader_join(client: Official) -> None:
    """Its reader is a separate thread that ends with the socket."""
    for thread in threading.enumerate():
        if type(thread).__name__ == "EReader":
            thread.join()


async def test_the_official_client_downloads_positions_and_follows_them(book: Book) -> None:
    account, con_id = book.accounts[0], book.market.options()[0].con_id
    async with open_tws_simulator(book) as sim, connected_official(sim) as client:
        assert client.serverVersion() == 157
        assert client.accounts == ",".join(book.accounts) + ","
        client.reqPositions()
        await eventually(client.downloaded.is_set)
        assert client.held == held(book)
        for holding in book.positions():
            check_contract(client.contracts[holding.contract.con_id], holding)
        book.set_position(account, con_id, 0)
        await eventually(lambda: client.held[account, con_id] == 0)
        client.cancelPositions()
        assert [code for _, code in client.errors] == [2104, 2104, 2106, 2158]


def check_contract(got: IbapiContract, holding: Holding) -> None:
    contract = holding.contract
    assert (got.symbol, got.secType, got.exchange, got.currency) == (
        contract.symbol,
        contract.sec_type,
        contract.exchange,
        "USD",
    )
    assert (got.lastTradeDateOrContractMonth, got.strike, got.right) == (
        contract.expiry,
        contract.strike,
        contract.right,
    )
    assert float(got.multiplier or 0) == (contract.multiplier or 0)
    assert (got.localSymbol, got.tradingClass) == (contract.local_symbol, contract.trading_class)


async def test_the_official_client_gets_every_computation_in_its_place(book: Book) -> None:
    option = book.market.options()[0]
    quote = book.quote(option.con_id)
    async with (
        open_tws_simulator(book, tick_interval_s=QUICK_S) as sim,
        connected_official(sim) as client,
    ):
        wanted = IbapiContract()
        wanted.conId, wanted.exchange = option.con_id, option.exchange
        client.reqMarketDataType(2)
        client.reqMktData(1, wanted, "", False, False, [])
        await eventually(lambda: (1, 13) in client.computed)
        for kind, value in (
            (10, quote.bid_greeks),
            (11, quote.ask_greeks),
            (12, quote.last_greeks),
            (13, quote.model),
        ):
            assert value is not None
            assert client.computed[1, kind] == (
                value.iv,
                value.delta,
                value.price,
                0.0,
                value.gamma,
                value.vega,
                value.theta,
                value.underlying_price,
            )
        assert client.types == {1: 1}
        assert client.prices[1, 1] == quote.bid
        assert client.prices[1, 2] == quote.ask
        book.advance(1)
        model = book.quote(option.con_id).model
        assert model is not None
        await eventually(lambda: client.computed[1, 13][-2] == model.theta)
        client.cancelMktData(1)
        await eventually(lambda: sim.lines_in_use == 0)


async def test_the_official_client_gets_details_clock_and_errors(book: Book) -> None:
    option = book.market.options()[0]
    async with open_tws_simulator(book) as sim, connected_official(sim) as client:
        wanted = IbapiContract()
        wanted.conId = option.con_id
        client.reqContractDetails(3, wanted)
        await eventually(lambda: client.details_done)
        (details,) = client.details
        assert details.contract.localSymbol == option.local_symbol
        assert details.contract.multiplier == "100"
        assert (details.underConId, details.minTick) == (option.under_con_id, 0.05)
        assert (details.underSymbol, details.underSecType) == ("SPX", "IND")
        assert details.realExpirationDate == option.expiry
        client.reqCurrentTime()
        await eventually(lambda: client.clock > 0)
        client.errors.clear()
        client.reqMktData(4, wanted, "", False, False, [])
        wanted.conId = 404
        client.reqContractDetails(5, wanted)
        await eventually(lambda: client.errors == [(4, 321), (5, 200)])


async def test_the_official_client_gets_account_values_and_their_changes(book: Book) -> None:
    first, second = book.accounts
    option = book.market.options()[0]
    async with open_tws_simulator(book) as sim, connected_official(sim) as client:
        client.reqAccountSummary(1, "All", "GrossPositionValue,MaintMarginReq,$LEDGER:ALL")
        client.reqAccountUpdatesMulti(2, second, "", False)
        client.reqPositionsMulti(3, first, "")
        await eventually(lambda: client.ended == {1, 2, 3})
        for account in book.accounts:
            truth = {one.key: one.amount for one in figures(book, account)}
            for key in ("GrossPositionValue", "MaintMarginReq"):
                assert float(client.values[1, account, key, "USD"]) == pytest.approx(
                    truth[key], abs=0.01
                )
            assert client.values[1, account, "ExchangeRate", "USD"] == "1"
        assert client.values[2, second, "AccountReady", ""] == "true"
        assert {account for req_id, account, *_ in client.values if req_id == 2} == {second}
        assert client.held_by_request == {
            (3, first, one.contract.con_id): one.quantity for one in book.positions(first)
        }
        before = client.values[1, first, "GrossPositionValue", "USD"]
        book.set_position(first, option.con_id, 99)
        await eventually(lambda: client.held_by_request[3, first, option.con_id] == 99)
        await eventually(lambda: client.values[1, first, "GrossPositionValue", "USD"] != before)
        client.cancelAccountSummary(1)
        client.cancelAccountUpdatesMulti(2)
        client.cancelPositionsMulti(3)
        client.reqCurrentTime()
        await eventually(lambda: client.clock > 0)
        client.held_by_request.clear()
        book.set_position(first, option.con_id, 7)
        client.reqPositionsMulti(4, second, "")
        await eventually(lambda: 4 in client.ended)
        assert {req_id for req_id, *_ in client.held_by_request} == {4}
        assert {code for _, code in client.errors} <= {2104, 2106, 2158}


async def test_the_official_client_is_told_units_and_the_last_trading_instant(book: Book) -> None:
    corn, _ = list_corn(book, book.accounts[0])
    at = datetime(2026, 3, 19, 15, 15, tzinfo=ZoneInfo("US/Central"))
    book.market.end_trading(corn.con_id, at, settled_on=date(2026, 3, 20))
    async with open_tws_simulator(book) as sim, connected_official(sim) as client:
        wanted = IbapiContract()
        wanted.conId = corn.con_id
        client.reqContractDetails(3, wanted)
        await eventually(lambda: client.details_done)
        (details,) = client.details
        assert (details.priceMagnifier, details.contract.multiplier) == (100, "5000")
        assert details.contract.lastTradeDateOrContractMonth == "20260319"
        assert (details.lastTradeTime, details.timeZoneId) == ("15:15", "US/Central")
        assert details.realExpirationDate == "20260320"


async def test_both_clients_at_once_share_the_lines(book: Book) -> None:
    first, second, *_ = book.market.options()
    async with (
        open_tws_simulator(book, market_data_lines=1) as sim,
        connected_ib(sim, 10) as ib,
        connected_official(sim, 20) as client,
    ):
        ticker = ib.reqMktData(Contract(conId=first.con_id, exchange="CBOE"))
        await eventually(lambda: ticker.modelGreeks is not None)
        wanted = IbapiContract()
        wanted.conId, wanted.exchange = second.con_id, second.exchange
        client.reqMktData(1, wanted, "", False, False, [])
        await eventually(lambda: (1, 101) in client.errors)


# A process of its own --------------------------------------------------------------------------


async def test_the_simulator_runs_as_a_process_and_ends_on_a_signal() -> None:
    command = [sys.executable, "-m", "trio_bridge.simulator.tws", "--port", "0"]
    command += ["--options", "10", "--accounts", "2", "--seed", "5", "--freeze-at", "30"]
    book = make_book(options=10, accounts=2, seed=5)
    book.freeze(at=30)
    option = book.market.options()[0]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        with trio.fail_after(PATIENCE_S):
            line = ""
            while not line.endswith("\n"):
                line += (await process.stdout.receive_some()).decode()
            match = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", line)
            assert match, line
            async with await trio.open_tcp_stream("127.0.0.1", int(match[1])) as stream:
                client = RawClient(stream)
                await client.start()
                await client.subscribe(1, option)
                true = book.moment.true_value(option.con_id)
                assert await client.model(1) == [true.delta, true.gamma, true.vega, true.theta]
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        process.kill()
        await process.stdout.aclose()
        with trio.move_on_after(PATIENCE_S, shield=True):
            await process.wait()
