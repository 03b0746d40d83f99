"""The made-up portfolio that both simulators serve: it moves, and it can be computed exactly.

A test can hold the book still and compute what a row must say, independently of the bridge. No I/O,
no wire formats.

    book = make_book(seed=7, accounts=2)
    book.freeze(at=60)                      # hold it still at its 60th second
    book.quote(con_id).model.delta          # what a gateway must send
    book.net_greeks()                       # what a row must say
    book.market.override(con_id, vega=-2)   # from now on this option's vega is not computed
    book.set_position("DU1000001", con_id, 0)
    book.money.set_figures("DU1000001", AccountReady="false")
"""

from __future__ import annotations

import math
import random
import time
from datetime import UTC, date, datetime, timedelta
from itertools import count, islice
from typing import TYPE_CHECKING, Final, NamedTuple

from trio_bridge.simulator.contracts import (
    AAPL_CON_ID,
    SPY_CON_ID,
    Contract,
    es_future,
    es_option,
    friday_on_or_after,
    quarter_end_on_or_after,
    spx_index,
    spx_option,
    stock,
)
from trio_bridge.simulator.market import DIVIDEND_YIELD, RATE, Market, OptionTerms, Path, Quote
from trio_bridge.simulator.money import Money
from trio_bridge.simulator.pricing import DAYS_A_YEAR, OptionValue

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

STEP_S: Final = 1.0
"""The book's values change once a step and hold still within it."""

FIRST_ACCOUNT: Final = 1_000_001
FIRST_OPTION_CON_ID: Final = 700_000_000
FIRST_FUTURE_CON_ID: Final = 600_000_000
FUTURE_LIVES_DAYS: Final = (60, 150)
OPTION_LIVES_DAYS: Final = (7, 14, 21, 30, 45, 75, 105, 140)
SPX_START: Final = 5_300.0
STRIKE_STEP: Final = 25.0
OPTIONS_A_CHAIN: Final = 12
"""This many options share an expiry before the next expiry is used; after the last expiry the
first follows again."""


class Holding(NamedTuple):
    """One account's position in one contract; `quantity` 0 means that it was closed."""

    account: str
    contract: Contract
    quantity: float
    average_cost: float
    """Per contract, multiplier included, as the gateway reports it."""


class NetGreeks(NamedTuple):
    """What a row must say about the book at one instant."""

    delta: float
    gamma: float
    vega: float
    theta: float
    positions: int
    priced: int


class Book:
    """A market, the positions held in it, and a clock that can be stopped.

    Args:
        market: the contracts and their values.
        accounts: the account ids.
        clock: seconds from any origin; the book's time is 0 when the book is made.
    """

    def __init__(
        self,
        market: Market,
        accounts: Collection[str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.market = market
        self.money = Money()
        self.accounts = tuple(accounts)
        self._clock = clock
        self._origin = clock()
        self._held_at: float | None = None
        self._holdings: dict[tuple[str, int], tuple[float, float]] = {}
        self._watchers: list[Callable[[Holding], None]] = []
        self._moment = Moment(self, 0.0)

    # Time ------------------------------------------------------------------------------------

    def now(self) -> float:
        """The book's time in seconds: held, or counted from the book's creation."""
        return self._clock() - self._origin if self._held_at is None else self._held_at

    def freeze(self, at: float | None = None) -> None:
        """Hold the book still, where it is or at a given time."""
        self._held_at = self.now() if at is None else at

    def advance(self, seconds: float) -> None:
        """Hold the book still at a later time."""
        self.freeze(self.now() + seconds)

    def thaw(self) -> None:
        """Let the book move again, from where it was held."""
        if self._held_at is not None:
            self._origin = self._clock() - self._held_at
            self._held_at = None

    def at(self, t: float) -> Moment:
        """The book at time `t`, past or future: always the same values for the same step."""
        return Moment(self, math.floor(t / STEP_S) * STEP_S)

    @property
    def moment(self) -> Moment:
        """The book now; the same object until a value changes."""
        moment = self.at(self.now())
        if (moment.t, moment.revision) != (self._moment.t, self._moment.revision):
            self._moment = moment
        return self._moment

    def quote(self, con_id: int) -> Quote:
        """The contract's market now; KeyError when there is no such contract."""
        return self.moment.quote(con_id)

    def net_greeks(
        self, accounts: Collection[str] | None = None, *, without: Collection[int] = ()
    ) -> NetGreeks:
        """What a row must say now; see `Moment.net_greeks`."""
        return self.moment.net_greeks(accounts, without=without)

    # Holdings --------------------------------------------------------------------------------

    @property
    def contracts(self) -> Mapping[int, Contract]:
        """Every listed contract, held or not, by contract id."""
        return self.market.contracts

    def contract(self, con_id: int) -> Contract:
        """One contract; KeyError when there is no such contract."""
        return self.market.contract(con_id)

    def positions(self, account: str | None = None) -> list[Holding]:
        """The open positions of one account, or of all, in the order they were opened."""
        return [
            Holding(owner, self.market.contract(con_id), quantity, cost)
            for (owner, con_id), (quantity, cost) in self._holdings.items()
            if account in (None, owner)
        ]

    def set_position(self, account: str, con_id: int, quantity: float) -> Holding:
        """Open, change or (with quantity 0) close a position; watchers are called.

        Raises:
            KeyError: there is no such account or contract.
        """
        if account not in self.accounts:
            raise KeyError(account)
        contract = self.market.contract(con_id)
        key = (account, con_id)
        if quantity == 0:
            self._holdings.pop(key, None)
            holding = Holding(account, contract, 0.0, 0.0)
        else:
            _, cost = self._holdings.get(key) or (0.0, None)
            if cost is None:
                cost = self.quote(con_id).last * (contract.multiplier or 1.0)
            self._holdings[key] = (float(quantity), cost)
            holding = Holding(account, contract, float(quantity), cost)
        for watcher in tuple(self._watchers):
            watcher(holding)
        return holding

    def watch(self, watcher: Callable[[Holding], None]) -> Callable[[], None]:
        """Call `watcher` with every changed position; returns a function that stops this."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)


class Moment:
    """The book's values at one instant, each computed when first asked for."""

    def __init__(self, book: Book, t: float) -> None:
        self.t = t
        self.revision = book.market.revision
        self._book = book
        self._quotes: dict[int, Quote] = {}

    def quote(self, con_id: int) -> Quote:
        """The contract's market; KeyError when there is no such contract."""
        quote = self._quotes.get(con_id)
        if quote is None:
            quote = self._quotes[con_id] = self._book.market.quote(con_id, self.t)
        return quote

    def true_value(self, con_id: int) -> OptionValue:
        """An option's model value, its quirks ignored."""
        return self._book.market.true_value(con_id, self.t)

    def net_greeks(
        self, accounts: Collection[str] | None = None, *, without: Collection[int] = ()
    ) -> NetGreeks:
        """The portfolio's net Greeks, summed plainly and independently of the bridge's code.

        Vega and theta are in the options' own currency, or in the base currency where they have
        several (`Money.together`).

        Args:
            accounts: only these; None for all.
            without: contract ids whose Greeks the gateway doesn't give (refused, rotated out).
        """
        delta = gamma = 0.0
        vega: dict[str, float] = {}
        theta: dict[str, float] = {}
        positions = priced = 0
        for account, contract, quantity, _ in self._book.positions():
            if accounts is not None and account not in accounts:
                continue
            positions += 1
            multiplier, currency = contract.multiplier, contract.currency
            if contract.sec_type == "STK":
                priced += 1
                delta += quantity
            elif contract.sec_type == "FUT" and multiplier:
                priced += 1
                delta += quantity * multiplier
            elif contract.is_option and multiplier and contract.con_id not in without:
                if self._book.market.quirk(contract.con_id).hides_greeks:
                    continue
                value = self.true_value(contract.con_id)
                priced += 1
                delta += quantity * multiplier * value.delta
                gamma += quantity * multiplier * value.gamma
                # Delta is a ratio; vega and theta are in the parts in which prices are quoted.
                money = quantity * multiplier / contract.price_magnifier
                vega[currency] = vega.get(currency, 0.0) + money * value.vega
                theta[currency] = theta.get(currency, 0.0) + money * value.theta
            elif contract.sec_type in ("CASH", "BOND", "BILL", "CMDTY"):
                priced += 1
        together = self._book.money.together
        return NetGreeks(delta, gamma, together(vega), together(theta), positions, priced)


def make_book(
    *,
    options: int = 26,
    accounts: int = 1,
    seed: int = 1,
    today: date | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Book:
    """A book of two stocks, two ES futures and options on SPX and ES: 30 positions by default.

    Args:
        options: how many different options are held: three on SPX for every two on ES futures.
        accounts: each holds its share of the contracts; all of them hold the stocks and the first
            future.
        seed: the same seed gives the same values at the same book time.
        today: the day from which expiries are counted; values don't depend on it. Default: today.
        clock: see `Book`.
    """
    rng = random.Random(seed)
    today = today or datetime.now(UTC).date()
    market = Market()
    book = Book(market, [f"DU{FIRST_ACCOUNT + index}" for index in range(accounts)], clock=clock)
    shared, futures = _list_underlyings(market, rng, today)
    for account in book.accounts:
        for contract in shared:
            book.set_position(account, contract.con_id, _quantity(rng, contract))
    book.set_position(book.accounts[-1], futures[1].con_id, _quantity(rng, futures[1]))
    for number, contract in enumerate(islice(_list_options(market, rng, today, futures), options)):
        # In pairs, because calls and puts alternate.
        owner = book.accounts[number // 2 % accounts]
        book.set_position(owner, contract.con_id, _quantity(rng, contract))
    return book


def _list_underlyings(
    market: Market, rng: random.Random, today: date
) -> tuple[list[Contract], list[Contract]]:
    """List everything with its own price; return what every account holds, and the futures."""
    index = Path.seeded(SPX_START, rng)
    market.list_priced(spx_index(), index)
    stocks = [
        market.list_priced(contract, Path.seeded(start, rng, height))
        for contract, start, height in (
            (stock(AAPL_CON_ID, "AAPL", "NASDAQ", "APPLE INC"), 230.0, 0.01),
            (stock(SPY_CON_ID, "SPY", "ARCA", "SPDR S&P 500 ETF TRUST"), 530.0, 0.004),
        )
    ]
    futures = []
    for number, life_days in enumerate(FUTURE_LIVES_DAYS):
        expiry = quarter_end_on_or_after(today + timedelta(days=life_days))
        growth = math.exp((RATE - DIVIDEND_YIELD) * life_days / DAYS_A_YEAR)
        future = es_future(FIRST_FUTURE_CON_ID + number, expiry)
        futures.append(market.list_priced(future, Path(SPX_START * growth, index.waves)))
    return [*stocks, futures[0]], futures


def _list_options(
    market: Market, rng: random.Random, today: date, futures: list[Contract]
) -> Iterator[Contract]:
    """List options one by one, chain by chain, widening around the index; never ends."""
    for number in count():
        con_id = FIRST_OPTION_CON_ID + number
        on_index = number % 5 < 3
        chain, place = divmod(number, OPTIONS_A_CHAIN)
        lap, chain = divmod(chain, len(OPTION_LIVES_DAYS))
        life_days = OPTION_LIVES_DAYS[chain]
        expiry = friday_on_or_after(today + timedelta(days=life_days))
        # Ever further from the money on both sides, so that no contract repeats.
        distance = lap * OPTIONS_A_CHAIN + place
        strike = SPX_START + STRIKE_STEP * ((distance + 1) // 2) * (-1) ** distance
        right = "P" if strike < SPX_START else "C"
        iv = 0.15 + 0.4 * max(0.0, math.log(SPX_START / strike)) + rng.uniform(0.0, 0.02)
        if on_index:
            contract = spx_option(con_id, expiry, strike, right)
            terms = OptionTerms(life_days, iv, RATE - DIVIDEND_YIELD)
        else:
            future = futures[0] if life_days < FUTURE_LIVES_DAYS[0] else futures[1]
            contract = es_option(con_id, expiry, strike, right, future)
            terms = OptionTerms(life_days, iv, 0.0)
        yield market.list_option(contract, terms)


def _quantity(rng: random.Random, contract: Contract) -> float:
    """Any nonzero size, long or short."""
    largest = 300 if contract.sec_type == "STK" else 20
    return float(rng.randint(1, largest) * rng.choice((-1, 1)))
