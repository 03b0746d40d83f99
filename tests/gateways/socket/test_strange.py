"""Messages that no gateway should send: they cost a row or a connection, never the service."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.gateways.socket.scripted_gateway import BOOK, VERSION, framed, run_session
from trio_bridge.gateways.readiness import NotReadyError
from trio_bridge.simulator.tws import wire
from trio_bridge.simulator.tws.contracts import contract_details, contract_details_end

if TYPE_CHECKING:
    from trio_bridge.gateways.socket.bridge import SocketBridge
    from trio_bridge.model import Snapshot

OPTIONS = [held for held in BOOK.positions() if held.contract.is_option]
SUBSCRIBE, DETAILS = "1", "9"
NOTHING = framed(["49", "1", "1"])


class Rows:
    """The rows that could have been taken."""

    def __init__(self) -> None:
        self.taken: list[Snapshot] = []
        self.multipliers: set[float | None] = set()
        self.last_multipliers: list[float | None] = []

    def __call__(self, bridge: SocketBridge) -> None:
        try:
            self.taken.append(bridge.get_portfolio_greeks())
        except NotReadyError:
            return
        self.last_multipliers = [position.multiplier for position in bridge.inputs().positions]
        self.multipliers |= set(self.last_multipliers)


def test_options_without_a_contract_id_are_unpriced_each_for_itself() -> None:
    """Nothing can be asked about them; ib_async refuses to even look one up."""
    rows = Rows()
    nameless = [replace(held.contract, con_id=0) for held in OPTIONS]
    download = [
        wire.position(held._replace(contract=contract))
        for held, contract in zip(OPTIONS, nameless, strict=True)
    ]
    sent = run_session([*download, wire.position_end()], [(15.0, NOTHING)] * 2, rows)
    assert {(row.positions, row.priced, row.delta) for row in rows.taken} == {
        (len(OPTIONS), 0, None)
    }
    assert len(OPTIONS) > 1
    assert not [fields for fields in sent if fields[0] in (SUBSCRIBE, DETAILS)]


def test_a_position_without_a_contract_id_can_be_closed() -> None:
    rows = Rows()
    nameless = OPTIONS[0]._replace(contract=replace(OPTIONS[0].contract, con_id=0))
    closed = wire.position(nameless._replace(quantity=0.0))
    run_session([wire.position(nameless), wire.position_end()], [(15.0, closed)], rows)
    assert rows.taken[-1].positions == 0


def _without_multiplier() -> bytes:
    held = OPTIONS[0]
    return wire.position(held._replace(contract=replace(held.contract, multiplier=None)))


@pytest.mark.parametrize(
    "answer",
    [
        ["51", "1", "{}", "<fundamentals/>"],
        ["79", "{}", "1", "1", "A", "STK", "N", "USD", "1", "OPT", "", ""],
        ["83", "{}", "0", "news"],
        ["88", "{}", "no time"],
        ["89", "{}", "1", "1.0", "2"],
        ["104", "{}", "{}"],
        ["21", "{}", "13", "0", "0.2", "0.5", "9.5", "0", "0.01", "0.2", "-0.3", "5300"],
    ],
    ids=["fundamentals", "symbols", "news", "head timestamp", "histogram", "calendar", "Greeks"],
)
def test_an_answer_of_another_kind_is_none(answer: list[str]) -> None:
    """ib_async would take it for the contract details that were asked for."""
    rows = Rows()
    strange = b"".join(framed([one.format(request) for one in answer]) for request in range(1, 9))
    run_session(
        [_without_multiplier(), wire.position_end()], [(1.0, strange), (15.0, strange)], rows
    )
    assert (rows.taken[-1].positions, rows.taken[-1].priced) == (1, 0)


def test_what_is_held_by_two_accounts_is_known_when_both_messages_tell_it() -> None:
    rows = Rows()
    other = wire.position(OPTIONS[0]._replace(account="U9"))
    answer = b"".join(
        contract_details(VERSION, request, OPTIONS[0].contract, "") + contract_details_end(request)
        for request in range(1, 9)
    )
    for download in ([_without_multiplier(), other], [other, _without_multiplier()]):
        run_session(
            [*download, wire.position_end()], [(12.0, NOTHING), (1.0, answer), (1.0, NOTHING)], rows
        )
        assert None in rows.multipliers
        assert rows.last_multipliers == [100.0, 100.0]
        rows.multipliers.clear()


def test_a_computation_that_cannot_be_read_leaves_none_that_looks_current() -> None:
    rows = Rows()
    computations = [
        b"".join(
            framed(["21", request, "13", "0", "0.2", delta, "9.5", "0", "0.01", "0.2", "-1", "53"])
            for request in range(1, 9)
        )
        for delta in ("0.5", "", "0.6")
    ]
    serving = [(1.0, computation) for computation in (NOTHING, *computations)]
    download = [wire.position(OPTIONS[0]), wire.position_end()]
    run_session(download, serving, rows, described=True)
    assert [row.priced for row in rows.taken] == [1, 1, 0, 0, 0, 1, 1]


def test_the_details_of_another_contract_are_not_believed() -> None:
    rows = Rows()
    wrong = next(one for one in BOOK.contracts.values() if one.multiplier == 50)
    right = OPTIONS[0].contract
    answers = [
        b"".join(
            contract_details(VERSION, request, contract, "") + contract_details_end(request)
            for request in range(1, 9)
        )
        for contract in (wrong, right)
    ]
    run_session(
        [_without_multiplier(), wire.position_end()],
        [(1.0, NOTHING), (11.0, answers[0]), (51.0, NOTHING), (1.0, answers[1])],
        rows,
    )
    assert rows.multipliers == {None, 100.0}
