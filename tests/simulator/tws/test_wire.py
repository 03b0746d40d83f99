"""Two independent clients' decoders understand what the simulator puts on the wire."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ib_async.decoder import Decoder

from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.pricing import OptionValue
from trio_bridge.simulator.tws import wire
from trio_bridge.simulator.tws.contracts import ContractQuery, contract_details
from trio_bridge.simulator.tws.ticks import (
    DELAYED_TICKS,
    LIVE_TICKS,
    DataService,
    TickFeed,
    service,
)

VERSIONS = range(157, 179)


class Calls:
    """Records every call of a decoder."""

    def __init__(self) -> None:
        self.made: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.made.append((name, arguments))


def decode(message: bytes, version: int) -> tuple[str, tuple[Any, ...]]:
    """How ib_async decodes one message; its decoder logs instead of raising."""
    fields = message[4:].decode().split("\0")
    assert fields.pop() == ""
    calls = Calls()
    Decoder(cast("Any", calls), version).handlers[int(fields[0])](fields)
    (call,) = calls.made
    return call


# Framing ---------------------------------------------------------------------------------------


@given(
    messages=st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1)
    ),
    cuts=st.lists(st.integers(1, 40)),
)
def test_messages_survive_any_chunking(messages: list[list[str]], cuts: list[int]) -> None:
    data = wire.GREETING + b"".join(wire.message(*fields) for fields in messages)
    stream = wire.ClientStream()
    received = []
    for cut in [*cuts, len(data)]:
        received += stream.feed(data[:cut])
        data = data[cut:]
    assert received == messages


def test_a_version_without_a_final_nul_is_read() -> None:
    stream = wire.ClientStream()
    assert stream.feed(b"API\0" + wire.framed(b"v157..178")) == [["v157..178"]]


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"API\0\xff\xff\xff\xff"], ids=["http", "length"]
)
def test_what_is_not_a_tws_client_is_refused(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.ClientStream().feed(data)


@pytest.mark.parametrize(
    ("offer", "ours", "agreed"),
    [
        ("v100..157", 178, 157),
        ("v157..178", 178, 178),
        ("v157..178", 163, 163),
        ("v157..178 +PACEAPI", 170, 170),
        ("v157", 178, 157),
        ("v157..178", 152, 152),
    ],
)
def test_the_server_answers_with_the_highest_common_version_or_its_own(
    offer: str, ours: int, agreed: int
) -> None:
    assert wire.agree_version(offer, ours) == agreed


@pytest.mark.parametrize("offer", ["hello", ""])
def test_without_a_version_there_is_none(offer: str) -> None:
    with pytest.raises(wire.WireError):
        wire.agree_version(offer, 178)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (0.25, "0.25"),
        (-2.0, "-2.0"),
        (1e-9, "1E-09"),
        (wire.DBL_MAX, "1.7976931348623157E308"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (7, "7"),
    ],
)
def test_numbers_are_printed_exactly(value: float, sent: str) -> None:
    assert wire.text(value) == sent
    assert float(sent) == value or math.isnan(value)


# Layouts, version by version -------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_contract_details_fit_every_version(version: int) -> None:
    book = make_book()
    for contract in book.contracts.values():
        name, (req_id, details) = decode(contract_details(version, 7, contract, "IND"), version)
        assert (name, req_id) == ("contractDetails", 7)
        assert details.contract.conId == contract.con_id
        assert details.contract.exchange == contract.exchange
        assert details.contract.strike == contract.strike
        assert details.contract.lastTradeDateOrContractMonth == contract.expiry
        assert details.contract.multiplier == wire.multiplier(contract)
        assert details.underConId == contract.under_con_id
        assert details.longName == contract.long_name
        assert details.underSecType == "IND"
        assert details.stockType == ("COMMON" if contract.sec_type == "STK" else "")


@pytest.mark.parametrize("version", VERSIONS)
def test_errors_fit_every_version(version: int) -> None:
    message = wire.error(version, -1, 1100, "lost")
    assert message[4:].count(b"\0") == (6 if version >= 166 else 5)
    assert decode(message, version) == (
        "error",
        (-1, 1100, "lost", ""),
    )


def test_positions_carry_an_exchange() -> None:
    holding = make_book().positions()[5]
    _, (account, contract, quantity, cost) = decode(wire.position(holding), 178)
    assert account == holding.account
    assert (contract.conId, contract.exchange) == (
        holding.contract.con_id,
        holding.contract.exchange,
    )
    assert contract.multiplier == "100"
    assert (quantity, cost) == (holding.quantity, holding.average_cost)


def test_a_computation_keeps_every_digit_in_its_place() -> None:
    value = OptionValue(11.1, 0.22222222222222221, 3e-7, 4.4, -5.5, 0.66, 5300.25)
    name, arguments = decode(wire.option_computation(13, value).to(9), 178)
    assert name == "tickOptionComputation"
    assert arguments == (
        9,
        13,
        0,
        value.iv,
        value.delta,
        value.price,
        0.0,
        value.gamma,
        value.vega,
        value.theta,
        value.underlying_price,
    )


# Ticks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_type", [1, 2, 3, 4])
def test_delayed_data_travel_under_numbers_of_their_own(data_type: int) -> None:
    book = make_book()
    option = book.market.options()[0].con_id
    kinds = DELAYED_TICKS if data_type >= 3 else LIVE_TICKS
    computations = {
        decode(tick.to(5), 178)[1][1]: decode(tick.to(5), 178)[1]
        for tick in TickFeed(book).update(option, data_type)
        if tick.head == b"21\0"
    }
    assert set(computations) == {
        kinds.bid_greeks,
        kinds.ask_greeks,
        kinds.last_greeks,
        kinds.model,
    }
    quote = book.quote(option)
    assert quote.model is not None
    assert computations[kinds.model][4] == quote.model.delta
    prices = {
        decode(tick.to(5), 178)[1][1:3]
        for tick in TickFeed(book).update(option, data_type)
        if tick.head == b"1\x006\0"
    }
    numbers = (66, 67, 68) if data_type >= 3 else (1, 2, 4)
    assert prices == set(zip(numbers, (quote.bid, quote.ask, quote.last), strict=True))


@pytest.mark.parametrize(
    ("best", "answers"),
    [
        (1, [DataService(1, True)] * 4),
        (
            2,
            [
                DataService(1, False),
                DataService(2, True),
                DataService(1, False),
                DataService(2, True),
            ],
        ),
        (3, [None, None, DataService(3, True), DataService(3, True)]),
        (4, [None, None, DataService(3, False), DataService(4, True)]),
    ],
    ids=["live", "market closed", "no subscription", "neither"],
)
def test_the_wanted_type_decides_what_is_served(
    best: int, answers: list[DataService | None]
) -> None:
    assert [service(best, wanted) for wanted in (1, 2, 3, 4)] == answers


def test_ticks_are_encoded_once_a_moment() -> None:
    book = make_book()
    feed = TickFeed(book)
    option = book.market.options()[0].con_id
    book.freeze(at=3)
    assert feed.update(option, 1) is feed.update(option, 2)
    before = feed.update(option, 1)
    book.advance(1)
    assert feed.update(option, 1) != before


# Queries ---------------------------------------------------------------------------------------


def query(**asked: Any) -> ContractQuery:
    return ContractQuery.parse([""] * 12)._replace(**asked)


def test_contracts_are_found_by_any_sensible_description() -> None:
    book = make_book()
    option = book.market.options()[0]
    assert query(con_id=option.con_id).matches(option)
    assert query(symbol="SPX", sec_type="OPT").matches(option)
    assert query(symbol="SPX", expiry=option.expiry[:6], strike=option.strike).matches(option)
    assert query(local_symbol=option.local_symbol).matches(option)
    assert query(symbol="SPX", multiplier="100", right=option.right).matches(option)
    assert not query(symbol="SPX", sec_type="FOP").matches(option)
    assert not query(symbol="SPX", strike=option.strike + 1).matches(option)
    assert not query(symbol="SPX", multiplier="50").matches(option)
    assert not query(con_id=option.con_id + 1, symbol="SPX").matches(option)
    assert not query().matches(option)


@pytest.mark.parametrize("fields", [[], ["x"] * 12, ["1"] * 11])
def test_a_broken_description_is_refused(fields: list[str]) -> None:
    with pytest.raises(wire.WireError):
        ContractQuery.parse(fields)
