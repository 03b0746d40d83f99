"""Whatever a gateway says: no row that is false on its face, and no message that ends the service.

A whole session runs, from the handshake on; only the socket is missing. A message may end the
connection (the next one is tried), never the program.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tests.gateways.socket.scripted_gateway import BOOK, VERSION, framed, run_session
from trio_bridge.gateways.readiness import NotReadyError
from trio_bridge.risk.greeks import OPTION_TYPES
from trio_bridge.simulator.pricing import OptionValue
from trio_bridge.simulator.tws import wire
from trio_bridge.simulator.tws.contracts import contract_details, contract_details_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_bridge.gateways.socket.bridge import SocketBridge
    from trio_bridge.model import Greeks, Position, Snapshot

pytestmark = pytest.mark.long

ACCOUNT = BOOK.accounts[0]
CON_IDS = sorted(BOOK.contracts)
CODES = [
    100, 101, 200, 300, 321, 326, 354, 502, 504, 1100, 1101, 1102, 1300, 2103, 2104, 2105, 2110,
    2157, 10089, 10090, 10167, 10197, 0, -1, 162, 165, 399,
]  # fmt: skip
REQUESTS = st.integers(-1, 9)
GREEKS = st.one_of(
    st.floats(-1, 1),
    st.floats(-1, 1),
    st.sampled_from(
        [-2.0, -1.0, 0.0, wire.DBL_MAX, -wire.DBL_MAX, math.nan, math.inf, 1e15, -1e16]
    ),
)


def fields_of(message: bytes) -> list[str]:
    return message[4:].decode().removesuffix("\0").split("\0")


POSITIONS = st.builds(
    lambda holding, quantity, changes: fields_of(
        wire.position(
            holding._replace(quantity=quantity, contract=replace(holding.contract, **changes))
        )
    ),
    st.sampled_from(BOOK.positions()),
    st.integers(-3, 3) | st.floats(),
    st.sampled_from([{}, {}, {"con_id": 0}, {"exchange": ""}, {"multiplier": None}]),
)
TICKS = st.builds(
    lambda request, kind, values: fields_of(
        wire.option_computation(kind, OptionValue(*values)).to(request)
    ),
    REQUESTS,
    st.sampled_from([13, 13, 13, 83, 10, 53]),
    st.tuples(*[GREEKS] * len(OptionValue._fields)),
)
NOTICES = st.builds(
    lambda request, code, words: fields_of(wire.error(VERSION, request, code, words)),
    REQUESTS,
    st.sampled_from(CODES) | st.integers(-5, 11_000),
    st.sampled_from(["", "no such thing", "more than 50 sub-accounts"]),
)
DETAILS = st.builds(
    lambda request, con_id, exchange: fields_of(
        contract_details(VERSION, request, BOOK.contracts[con_id], exchange)
    ),
    REQUESTS,
    st.sampled_from(CON_IDS),
    st.sampled_from(["IND", "STK", ""]),
)
OTHERS = st.one_of(
    REQUESTS.map(lambda request: fields_of(contract_details_end(request))),
    st.just(fields_of(wire.position_end())),
    st.builds(
        lambda request, kind: fields_of(wire.market_data_type(request, kind)),
        REQUESTS,
        st.integers(-1, 6),
    ),
    st.just(fields_of(wire.current_time(1_700_000_000))),
    st.just(fields_of(wire.managed_accounts(BOOK.accounts))),
    st.just(fields_of(wire.next_valid_id(1))),
)
FIELDS = st.one_of(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=6),
    st.integers().map(str),
    st.integers(-1, 9).map(str),
    st.floats().map(str),
    st.sampled_from(
        [
            "", "-1", "-2", "1.7976931348623157E308", "NaN", "Infinity", "1e999", "9" * 4000, "OPT",
            "FOP", "FUT", "STK", "BAG", ACCOUNT, "USD", "SMART", "1;2", "[1]", "{}",
        ]
    ),
)  # fmt: skip
GOOD = st.one_of(POSITIONS, POSITIONS, TICKS, TICKS, NOTICES, DETAILS, OTHERS)
MUTATED = st.builds(
    lambda fields, places, values: _mutated(fields, places, values),
    GOOD,
    st.lists(st.integers(0, 40), min_size=1, max_size=3),
    st.lists(FIELDS | st.none(), min_size=3, max_size=3),
)
ANYTHING = st.builds(
    lambda kind, version, request, rest: [str(kind), *version, str(request), *rest],
    st.integers(0, 110),
    st.sampled_from([[], ["1"]]),
    REQUESTS,
    st.lists(FIELDS, max_size=14),
)
ANY_MESSAGE = st.one_of(GOOD, GOOD, MUTATED, MUTATED, ANYTHING)
STREAM = st.one_of(
    ANY_MESSAGE.map(lambda fields: framed(fields)),
    ANY_MESSAGE.map(lambda fields: framed(fields)),
    ANY_MESSAGE.map(lambda fields: framed(fields)),
    st.builds(
        lambda fields, place, noise: framed(fields)[:place] + noise + framed(fields)[place:],
        ANY_MESSAGE,
        st.integers(0, 30),
        st.binary(max_size=3),
    ),
)


def _mutated(fields: list[str], places: list[int], values: list[str | None]) -> list[str]:
    """Some fields are others; None leaves one out."""
    changed: list[str | None] = list(fields)
    for place, value in zip(places, values, strict=False):
        changed[place % len(changed)] = value
    return [field for field in changed if field is not None]


@given(
    download=st.lists(STREAM, max_size=5),
    whole=st.booleans(),
    serving=st.lists(st.tuples(st.sampled_from([0.0, 0.1, 3.0, 70.0]), STREAM), max_size=14),
)
def the_service_outlives_any_gateway(
    download: list[bytes], whole: bool, serving: list[tuple[float, bytes]]
) -> None:
    good = [wire.position(holding) for holding in BOOK.positions()] if whole else []
    run_session([*good, *download, wire.position_end()], serving, judge, described=True)


def judge(bridge: SocketBridge) -> None:
    """What can be said of a row without knowing what is true."""
    try:
        row: Snapshot = bridge.get_portfolio_greeks()
    except NotReadyError:
        return
    inputs = bridge.inputs()
    known = sum(is_known(one, inputs.greeks.get(one.con_id)) for one in inputs.positions)
    assert row.positions == len(inputs.positions)
    assert row.priced <= known
    for value in (row.delta, row.gamma, row.vega, row.theta, row.underlying_price):
        assert value is None or math.isfinite(value)


def is_known(position: Position, greeks: Greeks | None) -> bool:
    """Whether a position can count at all: its Greeks were computed, its multiplier is known."""
    if not abs(position.quantity) < 1e15:
        return False
    if position.sec_type not in OPTION_TYPES:
        return True
    return (
        position.multiplier is not None
        and greeks is not None
        and all(value is not None and value != -2.0 and abs(value) < 1e15 for value in greeks[:4])
    )


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("ib_async").setLevel(logging.CRITICAL + 1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def test_the_service_outlives_any_gateway(fuzz: Callable[[Any], None]) -> None:
    fuzz(the_service_outlives_any_gateway)
