"""Names that both modes must spell alike, or their rows would disagree. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

FUTURES_OPTION: Final = "FOP"


class Product(NamedTuple):
    """What all contracts share whose prices are quoted in the same parts of their currency (the
    price magnifier). `trading_class` is empty where the gateway does not say it."""

    sec_type: str
    symbol: str
    trading_class: str
    currency: str
    multiplier: float | None


def underlying_key(symbol: str, currency: str) -> str:
    """The underlying of an option on a share or an index, and of the share itself."""
    return f"{symbol}:{currency}"


def contract_key(con_id: int) -> str:
    """The underlying of an option on a future, and of the future itself: the expiries share one
    symbol."""
    return f"conid:{con_id}"
