"""What account values say of positions, and which exchange rates they give; pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from trio_bridge.events.gateway import PositionsLacking, PositionsThere, PositionsUnconfirmed
from trio_bridge.gateways.ongoing import Ongoing
from trio_bridge.gateways.readiness import Readiness, Reason
from trio_bridge.gateways.worth import (
    RELOADS_AFTER_S,
    STALE_VALUES_S,
    VALUES_WAIT_S,
    AccountValues,
    Agreement,
    Word,
    fresh,
    rates_of,
)
from trio_bridge.model import ExchangeRates

if TYPE_CHECKING:
    from trio_bridge.events.event import Event

DBL_MAX = "1.7976931348623157E308"
ZEROS: dict[str, object] = {
    "GrossPositionValue": "0.00",
    "InitMarginReq": "0.00",
    "MaintMarginReq": "0.00",
}
UNKNOWNS: tuple[object, ...] = (
    *(None, "", DBL_MAX, float(DBL_MAX), "NaN", math.inf, "N/A", True),
    [],
)


def values_of(
    figures: dict[str, object], *, account: str = "U1", at: float = 0.0, base: str = "USD"
) -> AccountValues:
    values = AccountValues(account, at)
    values.take("NetLiquidation", "1000.00", base)
    for key, value in figures.items():
        values.take(key, value, base)
    return values


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        (ZEROS, Word.NONE),
        ({key.lower(): 0.0 for key in ZEROS}, Word.NONE),
        (ZEROS | {"GrossPositionValue": "57500.00"}, Word.SOME),
        (ZEROS | {"GrossPositionValue": "-57500.00"}, Word.SOME),
        (ZEROS | {"MaintMarginReq": "12000"}, Word.SOME),
        (ZEROS | {"InitMarginReq": 12_000}, Word.SOME),
        ({"MaintMarginReq-C": "12000"}, Word.SOME),
        ({}, Word.UNKNOWN),
        ({"GrossPositionValue": "0"}, Word.UNKNOWN),
        ({"MaintMarginReq": "0"}, Word.UNKNOWN),
        *((ZEROS | {"GrossPositionValue": unknown}, Word.UNKNOWN) for unknown in UNKNOWNS),
        (ZEROS | {"AccountReady": "false"}, Word.UNKNOWN),
        (ZEROS | {"AccountReady": "true"}, Word.NONE),
        (ZEROS | {"AccountReady": "false", "MaintMarginReq": "9.5"}, Word.SOME),
    ],
    ids=str,
)
def test_an_account_holds_nothing_when_both_are_zero_and_something_when_one_is_not(
    figures: dict[str, object], word: Word
) -> None:
    assert values_of(figures).of_positions is word


def test_margin_of_foreign_cash_is_no_sign_of_positions() -> None:
    values = values_of(ZEROS | {"MaintMarginReq": "250", "InitMarginReq": "250"})
    words = [values.of_positions]
    values.take("CashBalance", "-10000.00", "EUR")
    words.append(values.of_positions)
    values.take("MaintMarginReq-C", "250", "USD")
    words.append(values.of_positions)
    assert words == [Word.SOME, Word.UNKNOWN, Word.SOME], "cash, foreign cash, futures"


def test_a_masters_values_may_be_those_of_its_clients() -> None:
    assert values_of(ZEROS, account="F1").of_positions is Word.NONE
    held = ZEROS | {"GrossPositionValue": "57500"}
    assert values_of(held, account="DF1").of_positions is Word.UNKNOWN


def ledger(rates: dict[str, object], *, base: str = "USD", prefix: str = "") -> AccountValues:
    values = values_of({}, base=base)
    for currency, rate in {**rates, "BASE": "1.00"}.items():
        values.take(f"{prefix}ExchangeRate", rate, currency)
    return values


@pytest.mark.parametrize("prefix", ["", "$LEDGER-"])
def test_the_ledger_gives_rates_to_the_base_currency(prefix: str) -> None:
    values = ledger({"USD": "1.00", "JPY": "0.0067", "EUR": "1.08"}, prefix=prefix)
    assert rates_of([values]) == ExchangeRates("USD", {"USD": 1.0, "JPY": 0.0067, "EUR": 1.08})


@pytest.mark.parametrize("bad", [None, "0", "-1", DBL_MAX, "nan", ""])
def test_a_rate_that_is_not_one_is_missing(bad: object) -> None:
    assert rates_of([ledger({"USD": 1.0, "JPY": bad})]) == ExchangeRates("USD", {"USD": 1.0})


def test_rates_that_are_all_one_are_not_known() -> None:
    values = ledger({"USD": "1.00", "JPY": "1.00"})
    assert values.rates_are_all_one
    assert rates_of([values]) == ExchangeRates("USD", {"USD": 1.0})
    assert not ledger({"USD": "1.00"}).rates_are_all_one


def test_accounts_with_one_base_currency_share_their_rates() -> None:
    both = [ledger({"USD": 1.0, "JPY": 0.0067}), ledger({"USD": 1.0, "EUR": 1.08})]
    assert rates_of(both) == ExchangeRates("USD", {"USD": 1.0, "JPY": 0.0067, "EUR": 1.08})


def test_accounts_with_different_base_currencies_have_none() -> None:
    both = [ledger({"USD": 1.0}), ledger({"EUR": 1.0}, base="EUR")]
    assert rates_of(both) == ExchangeRates()
    assert rates_of([]) == ExchangeRates()


def test_values_of_an_account_that_is_not_ready_give_no_rates() -> None:
    values = ledger({"USD": 1.0, "JPY": 0.0067})
    values.take("AccountReady", "false", "")
    assert rates_of([values]) == ExchangeRates("USD", {"USD": 1.0})


def test_values_that_were_not_told_again_for_long_do_not_count() -> None:
    old = values_of(ZEROS, at=100.0)
    assert fresh({"U1": old}, 99.0 + STALE_VALUES_S) == {"U1": old}
    assert fresh({"U1": old}, 100.0 + STALE_VALUES_S) == {}


class Bench:
    """An agreement on a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.events: list[Event] = []
        self.readiness = Readiness()
        self.readiness.clear(Reason.NOT_CONNECTED)
        self.agreement = Agreement(self.readiness, Ongoing(self.events.append, lambda: self.now))
        self.agreement.start(self.now)

    def judge(self, values: dict[str, AccountValues], *holding: str, awaited: bool = False) -> None:
        self.agreement.judge(("U1", "U2"), holding, values, self.now, awaited=awaited)

    def blocked(self) -> Reason | None:
        blocked = self.readiness.why(self.now)
        return None if blocked is None else blocked.reason


NONE, SOME = values_of(ZEROS), values_of(ZEROS | {"GrossPositionValue": "57500"})


def test_no_row_before_the_first_judgement() -> None:
    bench = Bench()
    bench.now += 10 * VALUES_WAIT_S
    assert bench.blocked() is Reason.VALUES_AWAITED


def test_values_that_agree_let_rows_through() -> None:
    bench = Bench()
    bench.judge({"U2": NONE}, "U1")
    assert (bench.blocked(), bench.events) == (None, [])
    assert bench.agreement.doubted(bench.now) is None
    bench.judge({"U1": NONE, "U2": NONE})
    assert bench.blocked() is None, "truly flat"


def test_an_account_without_positions_that_holds_some_blocks_and_is_named() -> None:
    bench = Bench()
    bench.judge({"U1": SOME, "U2": SOME}, "U1")
    blocked = bench.readiness.why(bench.now)
    assert blocked is not None
    assert blocked.reason is Reason.POSITIONS_LACKING
    assert str(blocked) == (
        "the positions of U2 have not arrived: its position value or margin is not zero"
    )
    assert bench.agreement.doubted(bench.now) == ("U2",)
    bench.now += 3.0
    bench.judge({"U1": SOME, "U2": SOME}, "U1", "U2")
    assert (bench.blocked(), bench.events) == (None, []), "seconds are not worth an event"


def test_positions_that_lack_for_long_are_said_once_and_requested_again_and_again() -> None:
    bench = Bench()
    reloads = []
    for _ in range(300):
        bench.judge({"U2": SOME}, "U1")
        assert bench.blocked() is Reason.POSITIONS_LACKING
        if bench.now >= bench.agreement.reload_at:
            reloads.append(bench.now)
            bench.agreement.reloading(bench.now)
        bench.now += 1.0
    waits = [later - earlier for earlier, later in zip([1_000.0, *reloads], reloads, strict=False)]
    assert waits[: len(RELOADS_AFTER_S)] == list(RELOADS_AFTER_S)
    assert set(waits[len(RELOADS_AFTER_S) :]) == {RELOADS_AFTER_S[-1]}
    assert bench.events == [PositionsLacking(("U2",))]
    bench.judge({"U2": SOME}, "U1", "U2")
    assert [type(event) for event in bench.events[1:]] == [PositionsThere]
    assert bench.agreement.reload_at == math.inf


def test_an_account_lacks_its_positions_until_its_values_say_otherwise() -> None:
    bench = Bench()
    bench.judge({"U2": SOME}, "U1")
    bench.agreement.start(bench.now)
    bench.judge({}, "U1", awaited=True)
    reasons = [bench.blocked()]
    bench.judge({"U2": NONE}, "U1")
    reasons.append(bench.blocked())
    assert reasons == [Reason.POSITIONS_LACKING, None]


def test_values_that_do_not_come_are_waited_for_and_then_said_once() -> None:
    bench = Bench()
    bench.judge({}, "U1")
    assert bench.blocked() is Reason.VALUES_AWAITED
    assert bench.agreement.doubted(bench.now) == ("U2",)
    bench.now += VALUES_WAIT_S + 0.1
    for _ in range(3):
        bench.judge({}, "U1", awaited=True)
        assert bench.blocked() is None
        assert bench.agreement.doubted(bench.now) is None
    assert bench.events == [PositionsUnconfirmed("no answer")]


def test_a_book_without_empty_accounts_waits_for_the_names_of_others_only() -> None:
    bench = Bench()
    bench.judge({}, "U1", "U2", awaited=True)
    reasons = [bench.blocked()]
    bench.judge({}, "U1", "U2")
    reasons.append(bench.blocked())
    assert reasons == [Reason.VALUES_AWAITED, None]
