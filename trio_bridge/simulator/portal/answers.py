"""The book in the Client Portal's terms: positions, definitions, snapshots, quirks. Pure.

Field names and shapes follow recorded responses of the gateway; fields that the bridge doesn't read
are left out.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from trio_bridge.simulator.market import DELAYED, DELAYED_FROZEN, FROZEN, LIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_bridge.simulator.book import Book, Holding
    from trio_bridge.simulator.contracts import Contract

PAGE_SIZE: Final = 100
MOST_CON_IDS: Final = 100
MOST_FIELDS: Final = 50
AVAILABILITY_LETTERS: Final = {LIVE: "R", FROZEN: "Z", DELAYED: "D", DELAYED_FROZEN: "Y"}
COMPUTED: Final = {"7308": "delta", "7309": "gamma", "7310": "theta", "7311": "vega"}
COMPUTED_ORDER: Final = ("7308", "7309", "7311", "7310")
NOT_A_NUMBER_SPELLINGS: Final = (None, "", "N/A", "-2.000", "1.7976931348623157E308")
"""How a value that was not computed may look; None: the field is missing."""
THETA: Final = "7310"
THETA_SPELLINGS: Final = tuple(text for text in NOT_A_NUMBER_SPELLINGS if text != "-2.000")
"""The same for theta, without `-2.000`: a true theta of -1.9998 is written that way."""


@dataclass
class PortalQuirks:
    """Which of the gateway's recorded oddities apply to which contracts (by contract id)."""

    multiplier_in_positions: dict[int, Any] = field(default_factory=dict)
    """None, 0, 0.0 or "" instead of the multiplier."""
    multiplier_in_secdef: dict[int, Any] = field(default_factory=dict)
    multiplier_in_info: dict[int, Any] = field(default_factory=dict)
    bare_positions: set[int] = field(default_factory=set)
    """Position entries without their secdef part: no asset class, ticker, multiplier, strike."""
    hidden_underlyings: set[int] = field(default_factory=set)
    """Options whose underlying is named only in the market data."""
    definition_first: set[int] = field(default_factory=set)
    """Options whose Greeks are computed only if their definition was requested first."""
    zero_strike: Any = 0.0
    decimals: int = 3
    """In the Greeks' strings."""
    decimals_of: dict[str, int] = field(default_factory=dict)
    """The same of single fields: {"7309": 2} for coarse gammas."""
    availability: dict[int, str] = field(default_factory=dict)
    """What field 6509 says of a contract ("DPB", "N", "O", "S", ""); only the words change."""
    magnification: dict[int, Any] = field(default_factory=dict)
    """What `displayRule` says of a contract, instead of its price magnifier (0 where that is 1)."""
    magnifier_in_rules: dict[int, Any] = field(default_factory=dict)
    """What `rules.priceMagnifier` says of a contract, instead of it (None where it is 1)."""
    null_figures: set[str] = field(default_factory=set)
    """Keys of an account's summary that are `isNull`."""
    field_delay_s: float = 0.2
    """From a stream's start to its first computed field, and between one field and the next."""
    prior_close_prefix: bool = False
    """Whether last prices carry the prefix C (prior close)."""


class PositionPages:
    """Positions as the gateway caches them: it repeats what it once read until invalidated."""

    def __init__(self, book: Book, quirks: PortalQuirks) -> None:
        self._book = book
        self._quirks = quirks
        self._cache: dict[str, list[dict[str, Any]]] = {}

    def invalidate(self, account: str) -> None:
        self._cache.pop(account, None)

    def page(self, account: str, number: int) -> list[dict[str, Any]]:
        """One page of at most 100 positions; the first is page 0, pages after the last are
        empty."""
        entries = self._cache.get(account)
        if entries is None:
            held = sorted(self._book.positions(account), key=lambda one: one.contract.con_id)
            entries = self._cache[account] = [self._entry(one) for one in held]
        return entries[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]

    def _entry(self, holding: Holding) -> dict[str, Any]:
        contract = holding.contract
        price = self._book.quote(contract.con_id).last
        entry: dict[str, Any] = {
            "acctId": holding.account,
            "conid": contract.con_id,
            "contractDesc": _description(contract),
            "position": holding.quantity,
            "mktPrice": price,
            "mktValue": price * holding.quantity * (contract.multiplier or 1.0),
            "currency": contract.currency,
            "avgCost": holding.average_cost,
            "avgPrice": holding.average_cost / (contract.multiplier or 1.0),
            "realizedPnl": 0.0,
            "unrealizedPnl": 0.0,
            "model": "",
            "pageSize": PAGE_SIZE,
        }
        if contract.con_id in self._quirks.bare_positions:
            return entry
        multiplier: Any = contract.multiplier
        if contract.con_id in self._quirks.multiplier_in_positions:
            multiplier = self._quirks.multiplier_in_positions[contract.con_id]
        return entry | {
            "assetClass": contract.sec_type,
            "ticker": contract.symbol,
            **_ending(contract),
            "putOrCall": contract.right or None,
            "multiplier": multiplier,
            "displayRule": _display_rule(contract, self._quirks),
            "strike": f"{contract.strike:g}" if contract.strike else self._quirks.zero_strike,
            "undConid": _underlying(contract, self._quirks),
            "listingExchange": contract.exchange,
            "name": contract.long_name,
            "fullName": _description(contract),
            "isUS": True,
        }


def definitions(
    book: Book, quirks: PortalQuirks, con_ids: Iterable[int]
) -> dict[str, list[dict[str, Any]]]:
    """The response of `/trsrv/secdef`; unknown contracts are left out."""
    found = []
    for con_id in con_ids:
        contract = book.contracts.get(con_id)
        if contract is None:
            continue
        found.append(
            {
                "conid": con_id,
                "currency": contract.currency,
                "assetClass": contract.sec_type,
                "ticker": contract.symbol,
                "name": contract.long_name,
                **_ending(contract),
                "putOrCall": contract.right or None,
                "strike": f"{contract.strike:g}",
                "displayRule": _display_rule(contract, quirks),
                "undConid": _underlying(contract, quirks),
                "multiplier": quirks.multiplier_in_secdef.get(con_id, contract.multiplier or 0.0),
                "listingExchange": contract.exchange,
                "isUS": True,
            }
        )
    return {"secdef": found}


def contract_info(contract: Contract, quirks: PortalQuirks) -> dict[str, Any]:
    """The response of `/iserver/contract/{conid}/info`."""
    multiplier = None if contract.multiplier is None else f"{contract.multiplier:g}"
    return {
        "con_id": contract.con_id,
        "symbol": contract.symbol,
        "instrument_type": contract.sec_type,
        "trading_class": contract.trading_class,
        "local_symbol": contract.local_symbol,
        "currency": contract.currency,
        "exchange": contract.exchange,
        "maturity_date": contract.real_expiry or contract.expiry or None,
        "underlying_con_id": _underlying(contract, quirks),
        "multiplier": quirks.multiplier_in_info.get(contract.con_id, multiplier),
        "company_name": contract.long_name,
    }


def contract_rules(contract: Contract, quirks: PortalQuirks) -> dict[str, Any]:
    """The part `rules` of the answer of `/iserver/contract/{conid}/info-and-rules`."""
    usual = contract.price_magnifier if contract.price_magnifier > 1 else None
    return {"priceMagnifier": quirks.magnifier_in_rules.get(contract.con_id, usual)}


class Streams:
    """The requested market data: when each contract's stream started, and what it provides."""

    def __init__(self, book: Book, quirks: PortalQuirks, clock: Callable[[], float]) -> None:
        self._book = book
        self._quirks = quirks
        self._clock = clock
        self._started: dict[int, float] = {}
        self._blind: set[int] = set()
        """Streams that were started too early: they compute nothing until restarted."""
        self.defined: set[int] = set()
        """Contracts whose definition was requested."""

    def stop(self) -> None:
        """End all streams; the next request for a contract is a pre-flight again."""
        self._started.clear()
        self._blind.clear()

    def end(self, con_id: int) -> None:
        """End one contract's stream."""
        self._started.pop(con_id, None)
        self._blind.discard(con_id)

    def start(self, con_id: int) -> bool:
        """Start a contract's stream; False if it was already running."""
        if con_id in self._started:
            return False
        self._started[con_id] = self._clock()
        if con_id in self._quirks.definition_first and con_id not in self.defined:
            self._blind.add(con_id)
        return True

    def snapshot(self, con_ids: Iterable[int], fields: Iterable[str]) -> list[dict[str, Any]]:
        """The response of `/iserver/marketdata/snapshot`: a first request returns no fields."""
        asked = tuple(fields)
        return [
            {
                "conid": con_id,
                "conidEx": str(con_id),
                "server_id": f"q{con_id % 10}",
                "_updated": int(self._book.now() * 1000),
                **({} if self.start(con_id) else self.fields(con_id, asked)),
            }
            for con_id in con_ids
            if con_id in self._book.contracts
        ]

    def fields(self, con_id: int, asked: Iterable[str]) -> dict[str, Any]:
        """Those of the requested fields that the stream has, as strings."""
        known = self._prices(con_id) | self._computed(con_id)
        return {name: known[name] for name in asked if name in known}

    def _prices(self, con_id: int) -> dict[str, Any]:
        contract = self._book.contract(con_id)
        quote = self._book.quote(con_id)
        letter = AVAILABILITY_LETTERS[self._book.market.quirk(con_id).data_type]
        known: dict[str, Any] = {
            "31": f"{'C' if self._quirks.prior_close_prefix else ''}{quote.last:,.2f}",
            # The gateway sends one letter or three.
            "6509": self._quirks.availability.get(con_id, letter if con_id % 2 else f"{letter}pB"),
            "7633": "18.5%",
        }
        if contract.under_con_id:
            known["6457"] = str(contract.under_con_id)
        if contract.beta is not None:
            known["7718"] = f"{contract.beta:.3f}"
        if contract.sec_type != "IND":
            known |= {
                "84": f"{quote.bid:,.2f}",
                "86": f"{quote.ask:,.2f}",
                "7635": f"{quote.last:,.2f}",
            }
        return known

    def _computed(self, con_id: int) -> dict[str, Any]:
        model = self._book.quote(con_id).model
        if model is None or con_id in self._blind:
            return {}
        running_s = self._clock() - self._started.get(con_id, math.inf)
        overridden = dict(self._book.market.quirk(con_id).override)
        known: dict[str, Any] = {}
        for place, name in enumerate(COMPUTED_ORDER, start=1):
            if running_s < place * self._quirks.field_delay_s:
                continue
            value = getattr(model, COMPUTED[name])
            if COMPUTED[name] not in overridden or _is_number(value):
                places = self._quirks.decimals_of.get(name, self._quirks.decimals)
                known[name] = f"{value:,.{places}f}"
                continue
            spellings = THETA_SPELLINGS if name == THETA else NOT_A_NUMBER_SPELLINGS
            spelling = spellings[con_id % len(spellings)]
            if spelling is not None:
                known[name] = spelling
        return known


def _ending(contract: Contract) -> dict[str, Any]:
    """When an option or a future ends; the portal says no time of day."""
    return {
        "expiry": contract.real_expiry or contract.expiry or None,
        "lastTradingDay": contract.expiry or None,
    }


def _display_rule(contract: Contract, quirks: PortalQuirks) -> dict[str, Any]:
    usual = contract.price_magnifier if contract.price_magnifier > 1 else 0
    return {"magnification": quirks.magnification.get(contract.con_id, usual)}


def _is_number(value: float) -> bool:
    """Whether an overridden value is sent as it is, impossible though it may be."""
    return math.isfinite(value) and value not in (-1.0, -2.0, sys.float_info.max)


def _underlying(contract: Contract, quirks: PortalQuirks) -> int:
    return 0 if contract.con_id in quirks.hidden_underlyings else contract.under_con_id


def _description(contract: Contract) -> str:
    return f"{contract.symbol} [{contract.local_symbol or contract.symbol}]"
