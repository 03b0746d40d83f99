"""Whole downloads or none, nothing vanishes on one download's word, no multiplier is guessed."""

from __future__ import annotations

from typing import Any

import pytest

from trio_bridge.gateways.portal.account import read_accounts
from trio_bridge.gateways.portal.contracts import Definition
from trio_bridge.gateways.portal.definitions import read_contract_info, read_definitions
from trio_bridge.gateways.portal.holdings import Held, Holdings
from trio_bridge.gateways.portal.positions import is_last_page, read_page
from trio_bridge.gateways.portal.values import ShapeError

ACCOUNT = "DU1"


def entry(con_id: int = 1, quantity: Any = 2.0, **changes: Any) -> dict[str, Any]:
    return {
        "acctId": ACCOUNT,
        "conid": con_id,
        "position": quantity,
        "assetClass": "OPT",
        "ticker": "SPX",
        "currency": "USD",
        "multiplier": 100.0,
        "undConid": 416904,
    } | changes


def held(*entries: dict[str, Any], account: str = ACCOUNT) -> list[Held]:
    return read_page(list(entries), account)


@pytest.mark.parametrize(
    ("entries", "told", "is_last"),
    [
        (0, None, True),
        (99, 100, True),
        (100, 100, False),
        (30, 30, False),
        (29, None, True),
        (30, None, False),  # better one request too many than half a book
        (30, 0, False),
        (100, "100", False),
    ],
)
def test_the_last_page_is_one_that_is_not_full(entries: int, told: Any, is_last: bool) -> None:
    page = [entry(number + 1, pageSize=told) for number in range(entries)]
    assert is_last_page(page) is is_last


@pytest.fixture
def book() -> Holdings:
    return Holdings()


def offer(book: Holdings, download: list[Held], *others: str) -> bool:
    return book.offer(download, {ACCOUNT, *others})


def load(book: Holdings, download: list[Held]) -> bool:
    """The first download, and what confirms it."""
    return not offer(book, download) and offer(book, download)


def quantities(book: Holdings) -> dict[int, float]:
    return {position.con_id: position.quantity for position in book.positions()}


def test_an_entry_becomes_a_position(book: Holdings) -> None:
    assert load(book, held(entry(7, -3)))
    (position,) = book.positions()
    assert position.account == ACCOUNT
    assert (position.con_id, position.quantity) == (7, -3.0)
    assert (position.sec_type, position.multiplier) == ("OPT", 100.0)
    assert position.underlying == "SPX:USD"
    assert book.underlying_of(7) == 416904


@pytest.mark.parametrize(
    "broken",
    [
        {"conid": None},
        *({"position": said} for said in (None, "many", "", True, [2.0], "1.2K", "C5", "H5", "5%")),
    ],
    ids=str,
)
def test_a_page_with_an_unreadable_entry_is_no_page(broken: dict[str, Any]) -> None:
    with pytest.raises(ShapeError):
        held(entry(1), entry(2, **broken))


@pytest.mark.parametrize("payload", [None, {}, {"error": "x"}, "text", [1], [None]])
def test_something_else_than_a_list_of_positions_is_refused(payload: object) -> None:
    with pytest.raises(ShapeError):
        read_page(payload, ACCOUNT)


def test_quantities_may_be_text(book: Holdings) -> None:
    assert load(book, held(entry(1, "-1,200")))
    assert quantities(book) == {1: -1200.0}


def test_a_position_that_vanishes_is_gone_after_two_downloads(book: Holdings) -> None:
    assert load(book, held(entry(1), entry(2)))
    assert not offer(book, held(entry(1)))
    assert quantities(book) == {1: 2.0, 2: 2.0}
    assert offer(book, held(entry(1)))
    assert quantities(book) == {1: 2.0}


def test_a_page_that_was_short_once_takes_nothing_away(book: Holdings) -> None:
    assert load(book, held(entry(1), entry(2)))
    assert not offer(book, [])
    assert offer(book, held(entry(1, 5.0), entry(2)))
    assert quantities(book) == {1: 5.0, 2: 2.0}
    assert not offer(book, [])


def test_another_position_missing_starts_the_doubt_anew(book: Holdings) -> None:
    assert load(book, held(entry(1), entry(2)))
    assert not offer(book, held(entry(1)))
    assert not offer(book, held(entry(2)))
    assert not offer(book, [])
    assert offer(book, [])
    assert quantities(book) == {}


def test_an_account_that_appears_counts_when_two_downloads_name_the_same(book: Holdings) -> None:
    mine, other = held(entry(1)), held(entry(2), account="DU2")
    more = held(entry(2), entry(3), account="DU2")
    assert load(book, mine)
    assert not offer(book, mine, "DU2")
    assert not offer(book, mine + other, "DU2")
    assert not offer(book, mine + more, "DU2")
    assert quantities(book) == {1: 2.0}
    assert offer(book, mine + more, "DU2")
    assert quantities(book) == {1: 2.0, 2: 2.0, 3: 2.0}


def test_a_position_named_with_quantity_zero_is_gone_at_once(book: Holdings) -> None:
    assert load(book, held(entry(1), entry(2)))
    assert offer(book, held(entry(1), entry(2, 0.0)))
    assert quantities(book) == {1: 2.0}


@pytest.mark.parametrize("numbers", [(), (1, 2)])
def test_the_first_download_must_be_confirmed(book: Holdings, numbers: tuple[int]) -> None:
    entries = list(map(entry, numbers))
    assert [offer(book, held(*entries)) for _ in range(2)] == [False, True]
    assert len(book.positions()) == len(numbers)


def test_half_a_book_is_no_first_download(book: Holdings) -> None:
    # Its pages come to the gateway one after the other.
    for numbers in ([], [1], [1, 2], [1], [1, 2, 3]):
        assert not offer(book, held(*map(entry, numbers)))
    assert offer(book, held(entry(1), entry(2), entry(3, 4.0)))
    assert quantities(book) == {1: 2.0, 2: 2.0, 3: 4.0}


def test_a_new_position_and_a_new_quantity_count_at_once(book: Holdings) -> None:
    assert load(book, held(entry(1)))
    assert offer(book, held(entry(1, 3.0), entry(2)))
    assert quantities(book) == {1: 3.0, 2: 2.0}


def test_an_entry_seen_on_two_pages_counts_once(book: Holdings) -> None:
    assert load(book, held(entry(1), entry(1, 4.0)))
    assert quantities(book) == {1: 4.0}


def test_the_same_contract_in_two_accounts_or_models_counts_each_time(book: Holdings) -> None:
    assert load(book, held(entry(1), entry(1, model="growth")) + held(entry(1), account="DU2"))
    assert len(book.positions()) == 3


@pytest.mark.parametrize("missing", [None, 0, 0.0, "0", "", -1])
def test_a_missing_multiplier_is_taken_from_the_definition_never_as_one(
    book: Holdings, missing: object
) -> None:
    assert load(book, held(entry(1, multiplier=missing, strike="0")))
    assert book.positions()[0].multiplier is None
    assert (book.undefined(), book.lacking()) == ([1], [1])
    book.learn({1: Definition()})
    assert (book.undefined(), book.lacking()) == ([1], [1])
    book.define([1], {})
    assert (book.undefined(), book.lacking()) == ([], [1])
    book.learn({1: Definition(multiplier=50.0)})
    assert book.positions()[0].multiplier == 50.0
    assert book.lacking() == []


def test_a_definition_known_does_not_forget_when_the_next_one_is_silent(
    book: Holdings,
) -> None:
    assert load(book, held(entry(1, multiplier=None, undConid=None)))
    book.learn({1: Definition(multiplier=50.0, underlying_con_id=9)})
    book.learn({1: Definition(symbol="ES")})
    assert book.positions()[0].multiplier == 50.0
    assert book.underlying_of(1) == 9


def test_an_entry_without_its_secdef_part_is_unpriced_until_it_is_defined(
    book: Holdings,
) -> None:
    bare = {"conid": 1, "position": 5.0, "currency": "USD", "multiplier": 100.0}
    assert load(book, held(bare))
    (position,) = book.positions()
    assert (position.sec_type, position.multiplier) == ("OPT", None)
    assert book.undefined() == [1]
    book.learn({1: Definition(sec_type="STK", symbol="AAPL")})
    (position,) = book.positions()
    assert (position.sec_type, position.symbol) == ("STK", "AAPL")
    assert book.lacking() == []


def test_shares_need_neither_definition_nor_multiplier(book: Holdings) -> None:
    assert load(book, held(entry(1, assetClass="STK", multiplier=None)))
    assert (book.undefined(), book.lacking(), book.options()) == ([], [], [])


def test_futures_options_are_told_apart_by_their_future(book: Holdings) -> None:
    assert load(
        book,
        held(
            entry(1, assetClass="FOP", ticker="ES", undConid=10),
            entry(2, assetClass="FOP", ticker="ES", undConid=11),
            entry(3, assetClass="FOP", ticker="ES", undConid=None),
            entry(4, assetClass=None, ticker="ES", undConid=None),
            entry(5, ticker=None, undConid=None),
        ),
    )
    told = [position.underlying for position in book.positions()]
    assert told == ["conid:10", "conid:11", "", "", ""]


def test_a_new_session_starts_with_nothing(book: Holdings) -> None:
    assert load(book, held(entry(1)))
    book.forget()
    assert not book.positions()
    assert load(book, held(entry(2)))
    assert quantities(book) == {2: 2.0}


def test_definitions_are_read_by_contract() -> None:
    found = read_definitions(
        {
            "secdef": [
                {"conid": 1, "assetClass": "OPT", "ticker": "SPX", "multiplier": 100.0,
                 "undConid": 416904, "currency": "USD"},
                {"conid": "2", "assetClass": "FOP", "multiplier": "0"},
                {"conid": None},
            ]
        }
    )  # fmt: skip
    assert found == {
        1: Definition("OPT", "SPX", "", "USD", 100.0, 416904),
        2: Definition("FOP"),
    }


@pytest.mark.parametrize("payload", [None, [], {}, {"secdef": None}, {"secdef": ["x"]}])
def test_definitions_of_another_shape_are_refused(payload: object) -> None:
    with pytest.raises(ShapeError):
        read_definitions(payload)


def test_a_contracts_info_tells_its_multiplier() -> None:
    info = {"instrument_type": "OPT", "symbol": "SPX", "multiplier": "100", "underlying_con_id": 5}
    assert read_contract_info(info) == Definition("OPT", "SPX", "", "", 100.0, 5)


def test_accounts_are_named_by_id() -> None:
    assert read_accounts([{"accountId": "U1"}, {"id": "U2"}, {"id": "U1"}]) == ("U1", "U2")


@pytest.mark.parametrize("payload", [None, [], {}, [{}], [{"accountId": ""}], ["U1"]])
def test_no_accounts_are_an_answer_of_no_use(payload: object) -> None:
    with pytest.raises(ShapeError):
        read_accounts(payload)


def test_an_account_that_lacks_its_positions_must_name_them_twice(book: Holdings) -> None:
    every = held(entry(1), entry(2))
    assert load(book, every)
    assert [offer(book, []) for _ in range(2)] == [False, True]
    book.doubt([ACCOUNT])
    assert [offer(book, part) for part in (every[:1], every, every)] == [False, False, True]


def test_a_book_that_comes_back_in_parts_is_never_half_a_book(book: Holdings) -> None:
    every = held(entry(1), entry(2))
    assert load(book, every)
    assert [offer(book, part) for part in ([], every[:1], every)] == [False, False, True]
