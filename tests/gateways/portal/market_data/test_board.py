"""Answers come piecemeal: each field keeps its value and its age, and a Greek is as old as its
oldest part."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from trio_bridge.gateways.portal.market_data.board import QuoteBoard
from trio_bridge.model import DataType, Greeks, Position, Snapshot
from trio_bridge.risk.portfolio import Portfolio, aggregate

OPTION, UNDERLYING = 1, 2
FULL = {"7308": "0.5", "7309": "0.01", "7310": "-0.2", "7311": "0.3", "6509": "R"}


@pytest.fixture
def board() -> QuoteBoard:
    return QuoteBoard(DataType.FROZEN)


def greeks(board: QuoteBoard, *, since: float = 0.0) -> Greeks | None:
    return board.greeks(OPTION, UNDERLYING, since=since)


def row_of(board: QuoteBoard) -> Snapshot:
    """The row of one such option."""
    held = Position(
        account="U1",
        con_id=OPTION,
        sec_type="OPT",
        symbol="SPX",
        quantity=1.0,
        multiplier=100.0,
        underlying="SPX:USD",
    )
    told = greeks(board)
    return aggregate(
        Portfolio([held]),
        {} if told is None else {OPTION: told},
        read_at=datetime.now(UTC),
        now=10.0,
        max_age_s=60.0,
        interval_s=5.0,
    )


def test_a_full_answer_is_a_full_set_of_greeks(board: QuoteBoard) -> None:
    board.merge(OPTION, FULL, at=10.0)
    board.merge(UNDERLYING, {"7635": "1,300.5", "6509": "R"}, at=10.0)
    assert board.has_greeks(OPTION)
    assert greeks(board) == Greeks(
        0.5, 0.01, 0.3, -0.2, 1300.5, DataType.LIVE, 10.0, gamma_error=0.005
    )


def test_a_preflight_answer_holds_nothing(board: QuoteBoard) -> None:
    board.merge(OPTION, {"conid": OPTION}, at=10.0)
    assert not board.has_greeks(OPTION)
    assert greeks(board) is None


def test_fields_that_come_one_by_one_are_as_old_as_the_oldest(board: QuoteBoard) -> None:
    for at, (name, value) in enumerate(FULL.items(), start=10):
        assert not board.has_greeks(OPTION)
        board.merge(OPTION, {name: value}, at=float(at))
    assert board.has_greeks(OPTION)
    found = greeks(board)
    assert found is not None
    assert found.current_until == 10.0
    board.merge(OPTION, {"7308": "0.6"}, at=20.0)
    found = greeks(board)
    assert found is not None
    assert (found.delta, found.current_until) == (0.6, 11.0)


def test_an_answer_without_a_field_leaves_the_field_and_its_age(board: QuoteBoard) -> None:
    board.merge(OPTION, FULL, at=10.0)
    board.merge(OPTION, {"31": "5.2"}, at=99.0)
    found = greeks(board)
    assert found is not None
    assert found.current_until == 10.0


@pytest.mark.parametrize("said", ["", "N/A", None, "-2.000", "50%", "1.7976931348623157E308"])
def test_an_answer_that_says_no_number_takes_the_old_one_away(
    board: QuoteBoard, said: object
) -> None:
    board.merge(OPTION, FULL, at=10.0)
    board.merge(OPTION, {"7311": said}, at=11.0)
    assert not board.has_greeks(OPTION)
    assert row_of(board).priced == 0


@pytest.mark.parametrize("said", ["-2.000", "-2.00", "-2", -2.0])
def test_a_theta_of_2_a_day_is_a_theta(board: QuoteBoard, said: object) -> None:
    """Options on large indices have it, and the portal's rounding makes it exact."""
    board.merge(OPTION, FULL | {"7310": said}, at=10.0)
    assert board.has_greeks(OPTION)
    row = row_of(board)
    assert row.priced == 1
    assert row.theta == pytest.approx(-200.0)


@pytest.mark.parametrize("others", [("7308",), ("7309",), ("7311",), ("7308", "7309", "7311")])
def test_minus_2_in_any_other_greek_is_no_number_whatever_the_theta(
    board: QuoteBoard, others: tuple[str, ...]
) -> None:
    board.merge(OPTION, FULL | dict.fromkeys((*others, "7310"), "-2.000"), at=10.0)
    assert not board.has_greeks(OPTION)
    assert row_of(board).priced == 0


def test_an_answer_that_the_stream_has_overtaken_changes_nothing(board: QuoteBoard) -> None:
    board.merge(OPTION, FULL, at=10.0)
    board.merge(OPTION, {"7308": "0.6"}, at=12.0)
    board.merge(OPTION, FULL, at=11.0)
    found = greeks(board)
    assert found is not None
    assert (found.delta, found.current_until) == (0.6, 11.0)


@pytest.mark.parametrize(
    ("setting", "letter", "kind"),
    [
        (DataType.FROZEN, "R", DataType.LIVE),
        (DataType.FROZEN, "Z", DataType.FROZEN),
        (DataType.FROZEN, "D", None),
        (DataType.FROZEN, "Y", None),
        (DataType.LIVE, "Z", None),
        (DataType.DELAYED, "D", DataType.DELAYED),
        (DataType.DELAYED_FROZEN, "Y", DataType.DELAYED_FROZEN),
        (DataType.DELAYED_FROZEN, "N", None),
        (DataType.DELAYED_FROZEN, "", None),
    ],
)
def test_greeks_count_by_their_kind(setting: DataType, letter: str, kind: DataType | None) -> None:
    board = QuoteBoard(setting)
    board.merge(OPTION, FULL | {"6509": letter}, at=1.0)
    found = greeks(board)
    assert (found.data_type if found else None) == kind


def test_greeks_of_a_kind_not_told_yet_do_not_count(board: QuoteBoard) -> None:
    board.merge(OPTION, {name: value for name, value in FULL.items() if name != "6509"}, at=1.0)
    assert not board.has_greeks(OPTION)
    assert greeks(board) is None


def test_greeks_of_a_kind_told_too_long_ago_do_not_count(board: QuoteBoard) -> None:
    board.merge(OPTION, FULL, at=1.0)
    board.merge(OPTION, {name: value for name, value in FULL.items() if name != "6509"}, at=9.0)
    assert greeks(board, since=1.0) is not None
    assert greeks(board, since=5.0) is None


def test_greeks_of_the_previous_day_are_never_called_live(board: QuoteBoard) -> None:
    board.merge(OPTION, FULL | {"7308": "C0.5"}, at=1.0)
    found = greeks(board)
    assert found is not None
    assert found.data_type is DataType.FROZEN


@pytest.mark.parametrize(
    ("answer", "price"),
    [
        ({"7635": "101", "31": "100", "84": "98", "86": "99"}, 101.0),
        ({"31": "C100", "84": "98", "86": "99"}, 100.0),
        ({"84": "98", "86": "99"}, 98.5),
        ({"84": "98"}, None),
        ({"31": "0.00", "84": "98", "86": "99"}, 98.5),
        ({"31": "N/A"}, None),
        ({}, None),
    ],
)
def test_the_underlyings_price_is_its_mark_its_last_or_its_middle(
    board: QuoteBoard, answer: dict[str, object], price: float | None
) -> None:
    board.merge(OPTION, FULL, at=1.0)
    board.merge(UNDERLYING, answer | {"6509": "R"}, at=1.0)
    found = greeks(board)
    assert found is not None
    assert found.underlying_price == price


def test_an_old_price_of_the_underlying_is_left_out(board: QuoteBoard) -> None:
    board.merge(UNDERLYING, {"31": "100", "6509": "R"}, at=1.0)
    board.merge(OPTION, FULL, at=9.0)
    found = greeks(board, since=5.0)
    assert found is not None
    assert found.underlying_price is None


def test_the_market_data_names_the_underlying_when_nothing_else_does(board: QuoteBoard) -> None:
    board.merge(OPTION, FULL | {"6457": str(UNDERLYING)}, at=1.0)
    board.merge(UNDERLYING, {"31": "100", "6509": "R"}, at=1.0)
    assert board.underlying_of(OPTION) == UNDERLYING
    found = board.greeks(OPTION, None, since=0.0)
    assert found is not None
    assert found.underlying_price == 100.0


def test_contracts_no_longer_held_are_forgotten(board: QuoteBoard) -> None:
    board.merge(OPTION, FULL, at=1.0)
    board.keep({UNDERLYING})
    assert greeks(board) is None


def test_greeks_keep_the_kind_that_they_came_as() -> None:
    board = QuoteBoard(DataType.DELAYED_FROZEN)
    board.merge(OPTION, FULL | {"6509": "D"}, at=1.0)
    board.merge(OPTION, {"6509": "R"}, at=2.0)
    found = greeks(board)
    assert found is not None
    assert found.data_type is DataType.DELAYED
    for at, name in enumerate(("7308", "7309", "7310", "7311"), start=3):
        found = greeks(board)
        assert found is not None
        assert found.data_type is DataType.DELAYED
        board.merge(OPTION, {name: FULL[name]}, at=float(at))
    found = greeks(board)
    assert found is not None
    assert found.data_type is DataType.LIVE


def test_a_kind_that_is_told_after_its_greeks_counts_where_it_is_worse(board: QuoteBoard) -> None:
    board.merge(OPTION, FULL, at=1.0)
    board.merge(OPTION, {"6509": "Z"}, at=2.0)
    found = greeks(board)
    assert found is not None
    assert found.data_type is DataType.FROZEN
    board.merge(OPTION, {"6509": "N"}, at=3.0)
    assert greeks(board) is None
    board.merge(OPTION, {"6509": "R"}, at=4.0)
    found = greeks(board)
    assert found is not None
    assert found.data_type is DataType.LIVE


@pytest.mark.parametrize(
    ("setting", "answer", "price"),
    [
        (DataType.FROZEN, {"31": "100", "6509": "D"}, None),
        (DataType.FROZEN, {"31": "100", "6509": "N"}, None),
        (DataType.FROZEN, {"31": "100"}, None),
        (DataType.FROZEN, {"31": "100", "6509": "Z"}, 100.0),
        (DataType.FROZEN, {"31": "C100", "6509": "R"}, 100.0),
        (DataType.LIVE, {"31": "C100", "84": "98", "86": "99", "6509": "R"}, 98.5),
        (DataType.DELAYED, {"31": "100", "6509": "D"}, 100.0),
    ],
)
def test_a_price_counts_by_its_kind_as_greeks_do(
    setting: DataType, answer: dict[str, object], price: float | None
) -> None:
    board = QuoteBoard(setting)
    board.merge(OPTION, FULL, at=1.0)
    board.merge(UNDERLYING, answer, at=1.0)
    found = greeks(board)
    assert found is not None
    assert found.underlying_price == price


def test_a_price_much_older_than_the_greeks_is_left_out(board: QuoteBoard) -> None:
    board.merge(UNDERLYING, {"31": "100", "6509": "R"}, at=1.0)
    board.merge(OPTION, FULL, at=30.0)
    found = greeks(board)
    assert found is not None
    assert found.underlying_price == 100.0
    board.merge(OPTION, FULL, at=32.0)
    found = greeks(board)
    assert found is not None
    assert found.underlying_price is None
