"""Positions as the portal's pages tell them, completed by contract definitions. Pure.

A download counts only when it is whole, what it no longer names is gone only when a second
download in a row says so, and the first one counts only when a second names the same: the gateway
loads its cache page by page, and half a book, or an empty one, must never look like risk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trio_bridge.gateways.keys import FUTURES_OPTION, contract_key, underlying_key
from trio_bridge.gateways.portal.values import read_con_id, read_exact, read_positive
from trio_bridge.model import Position
from trio_bridge.risk.greeks import FUTURE_TYPES, OPTION_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Set

SMALLEST_PAGE: Final = 30
"""What counts when entries don't tell their page's size. Pages were of 30 in the API's first
specification and are of 100 in today's, where each entry says so."""

DERIVATIVES: Final = OPTION_TYPES | FUTURE_TYPES
UNKNOWN_KIND: Final = "OPT"
"""A holding whose kind nobody has told yet counts as an option without a multiplier: unpriced."""


class ShapeError(ValueError):
    """The gateway's answer is not what its documentation promises; the text says where."""


class HeldKey(NamedTuple):
    """What makes a holding the same one on two pages or in two downloads."""

    account: str
    con_id: int
    model: str


@dataclass(frozen=True, slots=True)
class Held:
    """One entry of a positions page; what the entry lacks is empty or None."""

    key: HeldKey
    quantity: float
    sec_type: str
    symbol: str
    currency: str
    multiplier: float | None
    underlying_con_id: int | None


@dataclass(frozen=True, slots=True)
class Definition:
    """What `/trsrv/secdef` or `/iserver/contract/{conid}/info` tells of a contract."""

    sec_type: str = ""
    symbol: str = ""
    currency: str = ""
    multiplier: float | None = None
    underlying_con_id: int | None = None

    def completed_by(self, other: Definition) -> Definition:
        return Definition(
            sec_type=self.sec_type or other.sec_type,
            symbol=self.symbol or other.symbol,
            currency=self.currency or other.currency,
            multiplier=self.multiplier or other.multiplier,
            underlying_con_id=self.underlying_con_id or other.underlying_con_id,
        )


def read_page(payload: object, account: str, others: Set[str] = frozenset()) -> list[Held]:
    """One page of `/portfolio/{account}/positions/{page}`.

    Args:
        payload: the JSON.
        account: which it was asked for.
        others: which are asked for beside it, so that their positions must not be in it.

    Raises:
        ShapeError: any entry cannot be read: a position left out would be a false row, and so would
            one that counts twice.
    """
    entries = _objects(payload, "positions")
    if strangers := others & {_text(entry, "acctId") for entry in entries}:
        raise ShapeError(
            f"asked for positions of account {account}, it gives those of {', '.join(strangers)}"
        )
    return [_read_held(entry, account) for entry in entries]


def is_last_page(payload: Sequence[dict[str, Any]]) -> bool:
    """Whether a page that could be read is shorter than full, so that none follows."""
    told = [read_positive(entry.get("pageSize")) or SMALLEST_PAGE for entry in payload]
    return len(payload) < min(told, default=SMALLEST_PAGE)


def _read_held(entry: dict[str, Any], account: str) -> Held:
    con_id = read_con_id(entry.get("conid"))
    quantity = read_exact(entry.get("position"))
    if con_id is None or quantity is None:
        raise ShapeError(
            f"a position of account {account} has conid {entry.get('conid')!r} "
            f"and quantity {entry.get('position')!r}"
        )
    return Held(
        key=HeldKey(account, con_id, _text(entry, "model")),
        quantity=quantity,
        sec_type=_text(entry, "assetClass", "secType"),
        symbol=_text(entry, "ticker", "contractDesc"),
        currency=_text(entry, "currency"),
        multiplier=read_positive(entry.get("multiplier")),
        underlying_con_id=read_con_id(entry.get("undConid")),
    )


def read_definitions(payload: object) -> dict[int, Definition]:
    """The answer of `/trsrv/secdef`, by contract id.

    Raises:
        ShapeError: it is something else.
    """
    if not isinstance(payload, dict):
        raise ShapeError("contract definitions are not an object")
    found = {}
    for entry in _objects(payload.get("secdef"), "secdef"):
        if (con_id := read_con_id(entry.get("conid"))) is not None:
            found[con_id] = Definition(
                sec_type=_text(entry, "assetClass"),
                symbol=_text(entry, "ticker"),
                currency=_text(entry, "currency"),
                multiplier=read_positive(entry.get("multiplier")),
                underlying_con_id=read_con_id(entry.get("undConid")),
            )
    return found


def read_contract_info(payload: object) -> Definition:
    """The answer of `/iserver/contract/{conid}/info`.

    Raises:
        ShapeError: it is something else.
    """
    if not isinstance(payload, dict):
        raise ShapeError("a contract's info is not an object")
    return Definition(
        sec_type=_text(payload, "instrument_type"),
        symbol=_text(payload, "symbol"),
        currency=_text(payload, "currency"),
        multiplier=read_positive(payload.get("multiplier")),
        underlying_con_id=read_con_id(payload.get("underlying_con_id")),
    )


def read_accounts(payload: object) -> tuple[str, ...]:
    """The account ids of `/portfolio/accounts`.

    Raises:
        ShapeError: it is something else.
    """
    found = dict.fromkeys(
        _text(entry, "accountId", "id") for entry in _objects(payload, "accounts")
    )
    found.pop("", None)
    if not found:
        raise ShapeError("the gateway names no account")
    return tuple(found)


class Holdings:
    """The last complete positions and what is known of their contracts."""

    def __init__(self) -> None:
        self._held: dict[HeldKey, Held] | None = None
        self._first: frozenset[HeldKey] | None = None
        """What the last download named while none is accepted yet."""
        self._missing: frozenset[HeldKey] = frozenset()
        self._definitions: dict[int, Definition] = {}
        self._defined: set[int] = set()
        """Contracts whose definition was asked for, and answered."""
        self._by_con_id: dict[int, Held] = {}
        self._positions: tuple[Position, ...] | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether a complete download has been accepted."""
        return self._held is not None

    def is_doubtful(self, download: Iterable[Held]) -> bool:
        """Whether it may be for want of something that it looks as it does: the first ones, and
        those that don't name positions of before."""
        return self._held is None or not self._held.keys() <= {item.key for item in download}

    def offer(self, download: Iterable[Held]) -> bool:
        """Take a complete download of all selected accounts; False: ask once more to be sure.

        The first one is accepted when the download before it named the same positions. A later one
        that doesn't name positions of before is accepted only when the download before it lacked
        them, too; one that names a position with quantity 0 says plainly that it was closed.
        """
        named = {item.key: item for item in download}
        if self._held is None:
            doubtful = self._first != named.keys()
            self._first = frozenset(named)
        else:
            missing = frozenset(self._held.keys() - named.keys())
            doubtful = not missing <= self._missing
            self._missing = missing if doubtful else frozenset()
        if doubtful:
            return False
        self._held = {key: item for key, item in named.items() if item.quantity != 0}
        self._by_con_id = {key.con_id: item for key, item in self._held.items()}
        self._positions = None
        return True

    def forget(self) -> None:
        """The session has ended: the next download starts anew. What definitions told stays, but
        the next session may want them to be asked for anew before it computes Greeks."""
        self._defined.clear()
        self._held = self._first = self._positions = None
        self._missing = frozenset()
        self._by_con_id = {}

    def define(self, con_ids: Iterable[int], told: dict[int, Definition]) -> None:
        """Take the definitions of these contracts; what is not told is known to be unknown."""
        self._defined.update(con_ids)
        self.learn(told)

    def define_again(self, con_ids: Iterable[int]) -> None:
        """Have these looked up anew; what is known of them stays."""
        self._defined.difference_update(con_ids)

    def learn(self, definitions: dict[int, Definition]) -> None:
        """Add what a look-up told; earlier knowledge stays where the new one is silent."""
        for con_id, definition in definitions.items():
            known = self._definitions.get(con_id)
            self._definitions[con_id] = definition.completed_by(known) if known else definition
        self._positions = None

    def undefined(self) -> list[int]:
        """Contracts that should be looked up: every derivative, and what has no kind.

        Derivatives even when their entry is complete: the gateway computes some of them only after
        their definition was asked for.
        """
        return [
            con_id
            for con_id, held in self._by_con_id.items()
            if con_id not in self._defined and (not held.sec_type or held.sec_type in DERIVATIVES)
        ]

    def lacking(self) -> list[int]:
        """Contracts that cannot be priced for want of a kind or a multiplier."""
        return list(
            dict.fromkeys(
                position.con_id
                for position in self.positions()
                if position.sec_type in DERIVATIVES and position.multiplier is None
            )
        )

    def options(self) -> list[int]:
        """Contracts whose Greeks a row needs."""
        return list(
            dict.fromkeys(
                position.con_id
                for position in self.positions()
                if position.sec_type in OPTION_TYPES
            )
        )

    def underlying_of(self, con_id: int) -> int | None:
        """The contract id of an option's underlying, if positions or definitions tell it."""
        held = self._by_con_id.get(con_id)
        definition = self._definitions.get(con_id, Definition())
        return (held.underlying_con_id if held else None) or definition.underlying_con_id

    def positions(self) -> tuple[Position, ...]:
        """All holdings, as values that a row is made of: the same object until one changes."""
        if self._positions is None:
            self._positions = tuple(map(self._position, (self._held or {}).values()))
        return self._positions

    def _position(self, held: Held) -> Position:
        definition = self._definitions.get(held.key.con_id, Definition())
        sec_type = held.sec_type or definition.sec_type
        symbol = held.symbol or definition.symbol
        currency = held.currency or definition.currency
        name = definition.symbol or held.symbol
        underlying = underlying_key(name, currency) if sec_type and name else ""
        if sec_type == FUTURES_OPTION:
            # Options on one future share its symbol with those on the next one.
            under_con_id = held.underlying_con_id or definition.underlying_con_id
            underlying = "" if under_con_id is None else contract_key(under_con_id)
        return Position(
            account=held.key.account,
            con_id=held.key.con_id,
            sec_type=sec_type or UNKNOWN_KIND,
            symbol=symbol,
            quantity=held.quantity,
            # Without a kind even a multiplier says nothing.
            multiplier=(held.multiplier or definition.multiplier) if sec_type else None,
            underlying=underlying,
            currency=currency,
        )


def _objects(payload: object, what: str) -> list[dict[str, Any]]:
    if not isinstance(payload, list):
        raise ShapeError(f"{what} are not a list")
    if not all(isinstance(entry, dict) for entry in payload):
        raise ShapeError(f"{what} hold something that is not an object")
    return payload


def _text(entry: dict[str, Any], *names: str) -> str:
    for name in names:
        value = entry.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""
