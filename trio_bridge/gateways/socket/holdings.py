"""What TWS says the selected accounts hold, as `Position`s. Contract details add what a position
lacks: price magnifier, time of the last trade, exchange, multiplier, or the underlying future.

The price magnifier belongs to a product (symbol, trading class, currency, multiplier), so one of
its contracts tells it for all, and a book of hundreds of options needs a handful of requests before
its first row.
"""

from __future__ import annotations

import math
from collections import Counter
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import trio

from trio_bridge.gateways.keys import FUTURES_OPTION, Product, underlying_key
from trio_bridge.gateways.socket.details import (
    DEFAULT_EXCHANGE,
    Details,
    LastTrade,
    parse_multiplier,
    product_of,
    read_last_trade,
)
from trio_bridge.model import Position
from trio_bridge.risk.greeks import FUTURE_TYPES, OPTION_TYPES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from datetime import datetime

    from ib_async import Contract
    from ib_async import Position as HeldPosition

    from trio_bridge.gateways.accounts import Accounts

AGAIN_S = 60.0
"""A request without an answer, or with an incomplete one, is repeated after this long. An answer
counts until then, so that even a very slow gateway gets through."""

LOOK_AGAIN_S = 5.0
"""How often to check for that while nothing changes."""

GAP_S = 0.05
SLOW_GAP_S = 0.25
"""Between two requests: the rest of the gateway's message rate is for market data, and most of it
while nothing that details can add keeps an option from being priced."""

TIME_AGAIN_S = 3600.0
TIME_TOLD_BEFORE = timedelta(days=7)
TIME_TOLD_UNTIL = timedelta(days=1)
"""TWS adds the time of day to a last trading day only when that is near, so it is requested from a
week before until a day after the day's end, once an hour while it is lacking."""


class Holdings:
    """The positions of the selected accounts, kept up to date by `position` messages."""

    def __init__(self, accounts: Accounts, details: dict[int, Details]) -> None:
        self._accounts = accounts
        self.details = details
        self._in_doubt: set[int] = set()
        self._held: dict[tuple[str, int | str], HeldPosition] = {}
        self._view: HoldingsView | None = None
        self.changed = trio.Event()
        """Set at the next change, and replaced."""

    def forget(self) -> None:
        """A new download begins. Every message from now on counts, also after its end."""
        self._held.clear()
        self._has_changed()

    def update(self, position: HeldPosition) -> None:
        """One `position` message: new, changed, or closed (quantity 0)."""
        contract = position.contract
        # Two holdings without an id (0) are not the same one.
        key = (position.account, contract.conId or str(contract))
        if position.position == 0:
            self._held.pop(key, None)
        elif self._accounts.counts(position.account):
            self._held[key] = position
        self._has_changed()

    def learn(self, con_id: int, details: Details) -> None:
        """Take the details of a contract; where they are silent, what was known stays."""
        known = self.details.get(con_id, details)
        details = details.completed_by(known)
        if self.details.get(con_id) != details:
            self.details[con_id] = details
            self._has_changed()

    def look_up(self, con_id: int) -> None:
        """The exchange that a position names is of no use: request the details, unless known."""
        if con_id not in self.details:
            self._in_doubt.add(con_id)
            self._wake()

    def next_in_doubt(self) -> int | None:
        """One of these, each only once."""
        return self._in_doubt.pop() if self._in_doubt else None

    def _has_changed(self) -> None:
        self._view = None
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    @property
    def view(self) -> HoldingsView:
        """The same object until something changes."""
        if self._view is None:
            self._view = HoldingsView(self._held.values(), self.details)
        return self._view


class HoldingsView:
    """What is held between two changes. It is read many times a second and changes a few times a
    day, so what follows from it is computed once, when needed."""

    def __init__(self, held: Iterable[HeldPosition], details: Mapping[int, Details]) -> None:
        self._held = tuple(held)
        self._details = details

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        return tuple(map(self._position, self._held))

    @cached_property
    def accounts(self) -> frozenset[str]:
        """The accounts that hold something."""
        return frozenset(held.account for held in self._held)

    @cached_property
    def options(self) -> dict[int, Contract]:
        """The options whose market data can be requested."""
        found = {}
        for con_id, contract in self._contracts.items():
            if contract.secType not in OPTION_TYPES:
                continue
            if not contract.exchange:
                # A request without one is refused: "Please enter exchange" (error 321).
                details = self._details.get(con_id)
                if details is None:
                    continue
                contract.exchange = details.exchange
            found[con_id] = contract
        return found

    def exchanges(self, con_id: int) -> tuple[str, ...]:
        """Where to ask for the market data of an option, in this order; "" is its id alone."""
        details = self._details.get(con_id)
        described = details.exchange if details is not None else ""
        own = self.options[con_id].exchange
        return (*dict.fromkeys(filter(None, (own, described, DEFAULT_EXCHANGE))), "")

    @cached_property
    def exposures(self) -> dict[int, float]:
        """The absolute units (quantity × multiplier) of each option, added over all accounts."""
        found: dict[int, float] = {}
        for position in self.positions:
            if position.sec_type in OPTION_TYPES and position.con_id:
                units = abs(position.quantity * (position.multiplier or 1.0))
                known = units if math.isfinite(units) else 0.0
                found[position.con_id] = found.get(position.con_id, 0.0) + known
        return found

    @cached_property
    def lacking_details(self) -> list[int]:
        """Contracts that cannot be priced without a details request, one of each product first:
        what it says of the price magnifier may serve the others."""
        # All holdings, not one per id: another account's message may be less complete.
        lacking = {
            held.contract.conId: product_of(held.contract)
            for held in self._held
            if held.contract.conId and self._lacks(held.contract)
        }
        before = Counter[Product | None]()
        places = {}
        for con_id, product in lacking.items():
            places[con_id] = before[product]
            before[product] += 1
        return sorted(lacking, key=places.__getitem__)

    @cached_property
    def lacking_underlyings(self) -> list[int]:
        """Contracts that lack only the name of their underlying."""
        return [
            con_id
            for con_id, contract in self._contracts.items()
            if contract.secType == FUTURES_OPTION and not self._future_under(contract)
        ]

    def lacking_times(self, now: datetime) -> list[int]:
        """Options that stop trading soon, or just have, at a time of day that is not known; those
        that do so first come first."""
        near = {
            con_id: ends.at
            for con_id, ends in self._last_trades.items()
            if not ends.timed and -TIME_TOLD_UNTIL < ends.at - now < TIME_TOLD_BEFORE
        }
        return sorted(near, key=near.__getitem__)

    @cached_property
    def _last_trades(self) -> dict[int, LastTrade]:
        """Of the options for which a day was told."""
        ends = {
            con_id: self._last_trade(contract)
            for con_id, contract in self._contracts.items()
            if contract.secType in OPTION_TYPES
        }
        return {con_id: one for con_id, one in ends.items() if one is not None}

    def _last_trade(self, contract: Contract) -> LastTrade | None:
        details = self._details.get(contract.conId)
        if details is not None and details.last_trade is not None:
            return details.last_trade
        return read_last_trade(contract)

    @cached_property
    def _contracts(self) -> dict[int, Contract]:
        """Every held contract with an id, by that id."""
        contracts = (held.contract for held in self._held)
        return {contract.conId: contract for contract in contracts if contract.conId}

    def _lacks(self, contract: Contract) -> bool:
        if contract.secType in FUTURE_TYPES:
            return self._multiplier(contract) is None
        return contract.secType in OPTION_TYPES and (
            self._multiplier(contract) is None
            or self._magnifier(contract) is None
            or not (contract.exchange or contract.conId in self._details)
        )

    def _multiplier(self, contract: Contract) -> float | None:
        multiplier = parse_multiplier(contract.multiplier)
        details = self._details.get(contract.conId)
        return details.multiplier if multiplier is None and details is not None else multiplier

    @cached_property
    def _magnifiers(self) -> dict[Product, float]:
        """Of the products of which a contract's details are known."""
        return {
            one.product: one.magnifier
            for one in self._details.values()
            if one.product is not None and one.magnifier is not None
        }

    def _magnifier(self, contract: Contract) -> float | None:
        details = self._details.get(contract.conId)
        if details is not None and details.magnifier is not None:
            return details.magnifier
        product = product_of(contract)
        return None if product is None else self._magnifiers.get(product)

    def _future_under(self, contract: Contract) -> str:
        details = self._details.get(contract.conId)
        return "" if details is None else details.underlying

    def _position(self, held: HeldPosition) -> Position:
        contract = held.contract
        underlying = underlying_key(contract.symbol, contract.currency)
        if contract.secType == FUTURES_OPTION:
            # Options on different futures may share a symbol.
            underlying = self._future_under(contract)
        is_option = contract.secType in OPTION_TYPES
        ends = self._last_trade(contract) if is_option else None
        return Position(
            account=held.account,
            con_id=contract.conId,
            sec_type=contract.secType,
            symbol=contract.localSymbol or contract.symbol,
            quantity=held.position,
            multiplier=self._multiplier(contract),
            underlying=underlying,
            currency=contract.currency,
            magnifier=self._magnifier(contract) if is_option else 1.0,
            last_trade=None if ends is None else ends.at,
        )


async def learn_details(
    holdings: Holdings, ask: Callable[[int], Awaitable[None]], now: Callable[[], datetime]
) -> None:
    """Keep requesting what is still unknown; `ask` must end by itself and never fail."""
    asked: dict[int, float] = {}

    def due(con_ids: Iterable[int], again_s: float = AGAIN_S) -> int | None:
        recently = trio.current_time() - again_s
        return next((one for one in con_ids if asked.get(one, -math.inf) <= recently), None)

    async with trio.open_nursery() as nursery:
        while True:
            gap_s, changed, view = GAP_S, holdings.changed, holdings.view
            con_id = due(view.lacking_details) or holdings.next_in_doubt()
            if con_id is None:
                gap_s = SLOW_GAP_S
                con_id = due(view.lacking_times(now()), TIME_AGAIN_S)
            if con_id is None:
                con_id = due(view.lacking_underlyings)
            if con_id is None:
                with trio.move_on_after(LOOK_AGAIN_S):
                    await changed.wait()
                continue
            asked[con_id] = trio.current_time()
            nursery.start_soon(ask, con_id)
            await trio.sleep(gap_s)
