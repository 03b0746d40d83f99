"""What TWS says the selected accounts hold, as `Position`s. Contract details add what a position
lacks: exchange, multiplier or the underlying future."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_bridge.gateways.keys import FUTURES_OPTION, contract_key, underlying_key
from trio_bridge.model import Position
from trio_bridge.risk.greeks import FUTURE_TYPES, OPTION_TYPES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from ib_async import Contract, ContractDetails
    from ib_async import Position as HeldPosition

    from trio_bridge.gateways.accounts import Accounts

DEFAULT_EXCHANGE = "SMART"

AGAIN_S = 60.0
"""A request without an answer, or with an incomplete one, is repeated after this long. An answer
counts until then, so that even a very slow gateway gets through."""

LOOK_AGAIN_S = 5.0
"""How often to check for that while nothing changes."""

GAP_S = 0.05
UNDERLYINGS_GAP_S = 0.25
"""Between two requests: the rest of the gateway's message rate is for market data, and most of it
while all that details can add is the future that an option is on."""


class Details(NamedTuple):
    """What only a contract-details request can tell."""

    exchange: str
    multiplier: float | None
    underlying: str


def parse_multiplier(text: str) -> float | None:
    """TWS sends multipliers as text; None for anything that is not a positive number."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if value > 0 and math.isfinite(value) else None


def by_preference(answers: Iterable[ContractDetails]) -> list[ContractDetails]:
    """Several answers about one contract, the one to believe last: SMART, which routes to all the
    others, and comes before or after them."""

    def is_smart(answer: ContractDetails) -> bool:
        return answer.contract is not None and answer.contract.exchange == DEFAULT_EXCHANGE

    return sorted(answers, key=is_smart)


def details_from(answer: ContractDetails) -> Details:
    """The useful part of ib_async's ContractDetails."""
    contract = answer.contract
    assert contract is not None
    return Details(
        exchange=contract.exchange or DEFAULT_EXCHANGE,
        multiplier=parse_multiplier(contract.multiplier),
        underlying=contract_key(answer.underConId) if answer.underConId else "",
    )


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
        details = details._replace(
            multiplier=details.multiplier or known.multiplier,
            underlying=details.underlying or known.underlying,
        )
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
        """Contracts that cannot be priced without a details request."""
        # All holdings, not one per id: another account's message may be less complete.
        held = (held.contract for held in self._held if held.contract.conId)
        return list(dict.fromkeys(contract.conId for contract in held if self._lacks(contract)))

    @cached_property
    def lacking_underlyings(self) -> list[int]:
        """Contracts that lack only the name of their underlying."""
        return [
            con_id
            for con_id, contract in self._contracts.items()
            if contract.secType == FUTURES_OPTION and not self._future_under(contract)
        ]

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
            or not (contract.exchange or contract.conId in self._details)
        )

    def _multiplier(self, contract: Contract) -> float | None:
        multiplier = parse_multiplier(contract.multiplier)
        details = self._details.get(contract.conId)
        return details.multiplier if multiplier is None and details is not None else multiplier

    def _future_under(self, contract: Contract) -> str:
        details = self._details.get(contract.conId)
        return "" if details is None else details.underlying

    def _position(self, held: HeldPosition) -> Position:
        contract = held.contract
        underlying = underlying_key(contract.symbol, contract.currency)
        if contract.secType == FUTURES_OPTION:
            # Options on different futures may share a symbol.
            underlying = self._future_under(contract)
        return Position(
            account=held.account,
            con_id=contract.conId,
            sec_type=contract.secType,
            symbol=contract.localSymbol or contract.symbol,
            quantity=held.position,
            multiplier=self._multiplier(contract),
            underlying=underlying,
            currency=contract.currency,
        )


async def learn_details(holdings: Holdings, ask: Callable[[int], Awaitable[None]]) -> None:
    """Keep requesting what is still unknown; `ask` must end by itself and never fail."""
    asked: dict[int, float] = {}

    def due(con_ids: Iterable[int]) -> int | None:
        recently = trio.current_time() - AGAIN_S
        return next((one for one in con_ids if asked.get(one, -math.inf) <= recently), None)

    async with trio.open_nursery() as nursery:
        while True:
            gap_s, changed = GAP_S, holdings.changed
            con_id = due(holdings.view.lacking_details) or holdings.next_in_doubt()
            if con_id is None:
                gap_s = UNDERLYINGS_GAP_S
                con_id = due(holdings.view.lacking_underlyings)
            if con_id is None:
                with trio.move_on_after(LOOK_AGAIN_S):
                    await changed.wait()
                continue
            asked[con_id] = trio.current_time()
            nursery.start_soon(ask, con_id)
            await trio.sleep(gap_s)
