"""What one connection holds in memory: positions, their contracts and quotes.

A download counts only when it is complete; the first one only when a second names the same
positions; and a position is gone only when two downloads in a row lack it. The gateway loads its
cache page by page, and half a book, or an empty one, must never look like risk.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from trio_bridge.gateways.keys import FUTURES_OPTION, contract_key, underlying_key
from trio_bridge.gateways.portal.contracts import Definition
from trio_bridge.gateways.portal.market_data.board import QuoteBoard
from trio_bridge.gateways.readiness import Reason, Settling
from trio_bridge.gateways.worth import Agreement, fresh, rates_of
from trio_bridge.model import Position
from trio_bridge.risk.expiry import last_trade
from trio_bridge.risk.greeks import FUTURE_TYPES, OPTION_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_bridge.config import Settings
    from trio_bridge.gateways.keys import Product
    from trio_bridge.gateways.ongoing import Ongoing
    from trio_bridge.gateways.portal.values import Lack
    from trio_bridge.gateways.readiness import Readiness
    from trio_bridge.gateways.worth import AccountValues
    from trio_bridge.model import ExchangeRates, Greeks, Trouble

DERIVATIVES: Final = OPTION_TYPES | FUTURE_TYPES
UNKNOWN_KIND: Final = "OPT"
"""A holding of a kind still unknown counts as an option without a multiplier: unpriced."""


class HeldKey(NamedTuple):
    """Identifies a holding across pages and downloads."""

    account: str
    con_id: int
    model: str


class Held(NamedTuple):
    """One entry of a positions page."""

    key: HeldKey
    quantity: float
    definition: Definition


class Holdings:
    """The last complete positions and what is known of their contracts."""

    def __init__(self) -> None:
        self._held: dict[HeldKey, Held] = {}
        self._accounts: frozenset[str] = frozenset()
        """Those of the last accepted download."""
        self._first: tuple[frozenset[str], frozenset[HeldKey]] | None = None
        """The accounts without an accepted download, and what the last download named of them."""
        self._missing: frozenset[HeldKey] = frozenset()
        self._definitions: dict[int, Definition] = {}
        self._magnifiers: dict[Product, float] = {}
        """What the trading rules of one of its contracts say of each product."""
        self._defined: set[int] = set()
        """Contracts whose definition was requested and answered."""
        self._by_con_id: dict[int, Held] = {}
        self._positions: tuple[Position, ...] | None = None

    def is_doubtful(self, download: Iterable[Held], accounts: Iterable[str]) -> bool:
        """Whether the download might be incomplete: it is an account's first, or lacks positions
        that we hold."""
        return not (
            self._accounts.issuperset(accounts)
            and self._held.keys() <= {item.key for item in download}
        )

    def offer(self, download: Iterable[Held], accounts: Iterable[str]) -> bool:
        """Take a complete download of all selected accounts; False: repeat it to be sure.

        An account's first one is accepted when the previous download named the same positions. A
        later one that lacks positions is accepted only when the previous one lacked them, too; a
        position of quantity 0 is not lacking but closed.
        """
        named = {item.key: item for item in download}
        new = frozenset(accounts) - self._accounts
        first = (new, frozenset(key for key in named if key.account in new))
        missing = frozenset(self._held.keys() - named.keys())
        # The same ones: a gateway that loads its cache may first lack all of them, then a half.
        doubtful = bool(new and first != self._first) or missing not in (frozenset(), self._missing)
        self._first = first
        self._missing = missing if doubtful else frozenset()
        if doubtful:
            return False
        self._accounts = frozenset(accounts)
        self._held = {key: item for key, item in named.items() if item.quantity != 0}
        self._by_con_id = {key.con_id: item for key, item in self._held.items()}
        self._positions = None
        return True

    def doubt(self, accounts: Iterable[str]) -> None:
        """The positions of these accounts are lacking: as with a first download, what comes must
        come twice, because it may be a half at first."""
        self._accounts -= frozenset(accounts)

    def forget(self) -> None:
        """The session has ended: the next download starts from nothing. Definitions stay, but the
        next session may want a request for them before it computes Greeks."""
        self._defined.clear()
        self._held = {}
        self._first = self._positions = None
        self._accounts = frozenset()
        self._missing = frozenset()
        self._by_con_id = {}

    def define(self, con_ids: Iterable[int], definitions: dict[int, Definition]) -> None:
        """Take the answer to a request for these contracts; it may lack some of them."""
        self._defined.update(con_ids)
        self.learn(definitions)

    def define_again(self, con_ids: Iterable[int]) -> None:
        """Have these requested again; what is known of them stays."""
        self._defined.difference_update(con_ids)

    def learn(self, definitions: dict[int, Definition]) -> None:
        """Add what an answer says; where it is silent, what was known stays."""
        for con_id, definition in definitions.items():
            known = self._definitions.get(con_id)
            self._definitions[con_id] = definition.completed_by(known) if known else definition
        self._positions = None

    def learn_magnifier(self, product: Product, magnifier: float) -> None:
        """Take the price magnifier in the trading rules of one of the product's contracts."""
        self._magnifiers[product] = magnifier
        self._positions = None

    def undefined(self) -> list[int]:
        """Contracts whose definition should be requested: derivatives, and what has no kind.

        Derivatives even when their entry is complete: the gateway computes some of them only after
        a request for their definition.
        """
        return [
            con_id
            for con_id, held in self._by_con_id.items()
            if con_id not in self._defined
            and (not (kind := held.definition.sec_type) or kind in DERIVATIVES)
        ]

    def lacking(self) -> list[int]:
        """Contracts that cannot be priced for lack of a kind or a multiplier."""
        lack = (
            one.con_id
            for one in self.positions()
            if one.sec_type in DERIVATIVES and one.multiplier is None
        )
        return list(dict.fromkeys(lack))

    def unmagnified(self) -> dict[Product, list[int]]:
        """Options that cannot be priced because their prices' unit is not known."""
        found: dict[Product, list[int]] = {}
        for held in self._by_con_id.values():
            known = self._known(held)
            if known.sec_type in OPTION_TYPES and known.product not in self._magnifiers:
                found.setdefault(known.product, []).append(held.key.con_id)
        return found

    def magnification_of(self, con_id: int) -> float | None:
        """The price magnifier by the contract's display rule; None if that is not known."""
        held = self._by_con_id.get(con_id)
        return None if held is None else self._known(held).magnification

    def options(self) -> list[int]:
        """Contracts whose Greeks a row needs."""
        options = (one.con_id for one in self.positions() if one.sec_type in OPTION_TYPES)
        return list(dict.fromkeys(options))

    @property
    def accounts(self) -> frozenset[str]:
        """Those that hold something."""
        return frozenset(key.account for key in self._held)

    def underlying_of(self, con_id: int) -> int | None:
        """The contract id of an option's underlying, if positions or definitions name it."""
        held = self._by_con_id.get(con_id)
        definition = self._definitions.get(con_id, Definition())
        return (held.definition if held else definition).completed_by(definition).underlying_con_id

    def positions(self) -> tuple[Position, ...]:
        """All holdings, as a row needs them: the same object until something changes."""
        if self._positions is None:
            self._positions = tuple(map(self._position, self._held.values()))
        return self._positions

    def _known(self, held: Held) -> Definition:
        """Everything that is known of the contract."""
        looked_up = self._definitions.get(held.key.con_id, Definition())
        known = held.definition.completed_by(looked_up)
        return replace(known, symbol=looked_up.symbol or known.symbol)

    def _position(self, held: Held) -> Position:
        known = self._known(held)
        name = known.symbol
        underlying = underlying_key(name, known.currency) if known.sec_type and name else ""
        if known.sec_type == FUTURES_OPTION:
            # Options on different futures may share a symbol.
            under_con_id = known.underlying_con_id
            underlying = "" if under_con_id is None else contract_key(under_con_id)
        is_option = known.sec_type in OPTION_TYPES
        return Position(
            account=held.key.account,
            con_id=held.key.con_id,
            sec_type=known.sec_type or UNKNOWN_KIND,
            symbol=held.definition.name or held.definition.symbol or name,
            quantity=held.quantity,
            # Without a kind, a multiplier means nothing.
            multiplier=known.multiplier if known.sec_type else None,
            underlying=underlying,
            currency=known.currency,
            magnifier=self._magnifier(known) if is_option else 1.0,
            last_trade=last_trade(known.last_day, currency=known.currency) if is_option else None,
        )

    def _magnifier(self, known: Definition) -> float | None:
        """Which of two places tells it is documented nowhere, so both must be known, and one that
        says nothing (1) does not contradict the other."""
        ruled = self._magnifiers.get(known.product)
        if ruled is None or ruled > 1:
            return ruled
        return known.magnification or ruled


class Memory:
    """What one connection knows of the portfolio: filled by its loops and its stream, which do not
    know each other, and read for each row."""

    def __init__(
        self, settings: Settings, readiness: Readiness, settle_s: float, said: Ongoing
    ) -> None:
        self.holdings = Holdings()
        self.quotes = QuoteBoard(settings.ib_market_data_type)
        self.accounts: tuple[str, ...] = ()
        """Those whose positions are here: an account that has just appeared waits for its own."""
        self.definitions_first = True
        """Whether quotes wait for their contract's definition; not while there are none to get."""
        self.downloads = 0
        """Accepted since the connection began."""
        self.positions_at = -math.inf
        """When the first request of the last accepted download was made."""
        self.priced_since = -math.inf
        """Since when quotes are requested at all; infinity while the bridge rests."""
        self._greeks_max_age_s = settings.greeks_max_age_s
        self._readiness = readiness
        self._readiness.block(Reason.DOWNLOADING)
        self._settling = Settling(readiness, settle_s)
        self._values: dict[str, AccountValues] = {}
        self._refusal = ""
        self._agreement = Agreement(readiness, said)
        self._compared = trio.Event()
        self._accepted = trio.Event()

    def accept(
        self,
        download: Iterable[Held],
        accounts: tuple[str, ...],
        *,
        asked_at: float,
        stale_at: float,
    ) -> bool:
        """Take a complete download; False: repeat it to be sure (see `Holdings.offer`).

        Args:
            download: all positions of these accounts.
            accounts: the accounts.
            asked_at: when the first position was requested.
            stale_at: from when on they no longer count.
        """
        if not self.holdings.offer(download, accounts):
            return False
        now = trio.current_time()
        if set(accounts) - set(self.accounts):
            self._agreement.start(now, len(accounts))
        self.accounts = accounts
        self.positions_at = asked_at
        was_lacking = not self._agreement.is_reached
        self._compare()
        self.holdings.doubt(self._agreement.lacking)
        if was_lacking and self._agreement.is_reached:
            # What has arrived late is waited for as what came in time.
            self._settling.forget()
        self._readiness.clear(Reason.DOWNLOADING)
        self._readiness.vouch(Reason.POSITIONS_STALE, at=asked_at, until=stale_at)
        self._learn_underlyings()
        self.quotes.keep({*self.wanted_con_ids(), *self.holdings.options()})
        self._settling.start(now)
        self._settle()
        self.downloads += 1
        self._accepted.set()
        self._accepted = trio.Event()
        return True

    async def wait_download(self, seen: int = 0) -> int:
        """Wait until more than `seen` downloads have been accepted; return how many have."""
        while self.downloads <= seen:
            await self._accepted.wait()
        return self.downloads

    def forget(self) -> None:
        """The login has ended: the next one may be another person's."""
        self.holdings.forget()
        self.quotes.clear()
        self.definitions_first = True
        self.accounts = ()
        self._values = {}
        self._refusal = ""
        self._agreement.forget()
        self._readiness.block(Reason.DOWNLOADING)
        self._settling.forget()

    def rest_or_wake(self, *, is_resting: bool) -> None:
        """No quotes are requested from now on, or they are again."""
        now = trio.current_time()
        self.quotes.clear()
        self.priced_since = math.inf if is_resting else now
        if not is_resting and self.accounts:
            self._settling.forget()
            self._settling.start(now)
        self._settle()

    def take_values(self, account: str, values: AccountValues) -> None:
        """Take what was said about an account's worth."""
        self._values[account] = values
        self._refusal = ""
        self._compare()

    def values_refused(self, why: str) -> None:
        """An account's values could not be had."""
        self._refusal = why
        self._compare()

    def doubted(self) -> tuple[str, ...]:
        """Accounts whose values rows wait for."""
        return self._agreement.doubted(trio.current_time()) or ()

    async def wait_compared(self) -> None:
        """Wait until positions and values have been compared: there may be other such accounts."""
        await self._compared.wait()

    def rates(self) -> ExchangeRates:
        """The exchange rates to the accounts' base currency."""
        values = fresh(self._values, trio.current_time())
        return rates_of(values[account] for account in self.accounts if account in values)

    def _compare(self) -> None:
        """Hold the rows back while account values say that positions are lacking."""
        now = trio.current_time()
        self._agreement.judge(
            self.accounts,
            self.holdings.accounts,
            fresh(self._values, now),
            now,
            why=self._refusal,
        )
        self._compared.set()
        self._compared = trio.Event()

    def take_quotes(self, answers: Iterable[tuple[int, Mapping[str, object]]], at: float) -> None:
        """Take what was said about these contracts (see `QuoteBoard.merge`)."""
        for con_id, answer in answers:
            self.quotes.merge(con_id, answer, at)
        self._settle()

    def take_definitions(self, con_ids: Iterable[int], definitions: dict[int, Definition]) -> None:
        """Take the answer to a request for these contracts."""
        self.holdings.define(con_ids, definitions)
        self._settle()

    def take_magnifier(self, product: Product, magnifier: float) -> None:
        """Take the price magnifier in the trading rules of one of the product's contracts."""
        self.holdings.learn_magnifier(product, magnifier)
        self._settle()

    @property
    def is_settled(self) -> bool:
        """Whether every option has answered, or has had its time to."""
        return self._settling.is_over(trio.current_time())

    def wanted_con_ids(self) -> list[int]:
        """Contracts whose market data a row needs: the options and their underlyings."""
        options = self.holdings.options()
        if self.definitions_first:
            undefined = set(self.holdings.undefined())
            options = [con_id for con_id in options if con_id not in undefined]
        underlyings = (
            self.holdings.underlying_of(con_id) or self.quotes.underlying_of(con_id)
            for con_id in options
        )
        return list(dict.fromkeys([*options, *(con_id for con_id in underlyings if con_id)]))

    def greeks(self, *, well_at: float) -> dict[int, Greeks]:
        """The last model Greeks by contract id, no younger than the last word that the session was
        well: a gateway that is cut off may keep sending what it knew."""
        since = trio.current_time() - self._greeks_max_age_s
        found = {}
        for con_id in self.holdings.options():
            underlying = self.holdings.underlying_of(con_id)
            greeks = self.quotes.greeks(con_id, underlying, since=since, until=well_at)
            if greeks is not None:
                found[con_id] = greeks
        return found

    def troubles(self, greeks: Mapping[int, Greeks]) -> dict[int, Trouble]:
        """Why the options without these Greeks have none."""
        now = trio.current_time()
        return {
            con_id: self.quotes.trouble(con_id, now)
            for con_id in self.holdings.options()
            if (found := greeks.get(con_id)) is None
            or None in (found.delta, found.gamma, found.vega, found.theta)
        }

    def lacks(self) -> dict[Lack, list[str]]:
        """The options whose market data may not count, by the reason: their symbols and ids."""
        found: dict[Lack, list[str]] = {}
        symbols = {one.con_id: one.symbol for one in self.holdings.positions()}
        for con_id in self.holdings.options():
            if (lack := self.quotes.lack(con_id)) is not None:
                found.setdefault(lack, []).append(f"{symbols[con_id]} {con_id}".strip())
        return found

    def _settle(self) -> None:
        if (
            not self.is_settled
            and not self.holdings.undefined()
            and not self.holdings.unmagnified()
            and (
                self.priced_since == math.inf
                or all(map(self.quotes.has_greeks, self.holdings.options()))
            )
        ):
            self._settling.answered()

    def _learn_underlyings(self) -> None:
        """Where neither positions nor definitions name an option's underlying, its data may."""
        named = {
            con_id: Definition(underlying_con_id=underlying)
            for con_id in self.holdings.options()
            if self.holdings.underlying_of(con_id) is None
            and (underlying := self.quotes.underlying_of(con_id)) is not None
        }
        if named:
            self.holdings.learn(named)
