"""The Client Portal's values: field ids, numbers as text, kinds of market data, and how the entries
of an answer are read. Pure.

Field ids: https://www.interactivebrokers.com/docs/web-api/v1/endpoints/market-data (an older
description of this bridge had theta and vega swapped: a test pins them).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, assert_never

from trio_bridge.model import DataType
from trio_bridge.risk.expiry import DAY_LENGTH
from trio_bridge.risk.greeks import LARGEST_CREDIBLE

if TYPE_CHECKING:
    from collections.abc import Mapping

LAST: Final = "31"
BID: Final = "84"
ASK: Final = "86"
DELTA: Final = "7308"
GAMMA: Final = "7309"
THETA: Final = "7310"
VEGA: Final = "7311"
MARK: Final = "7635"
UNDERLYING_CON_ID: Final = "6457"
AVAILABILITY: Final = "6509"

GREEK_FIELDS: Final = (DELTA, GAMMA, VEGA, THETA)
PRICE_FIELDS: Final = (MARK, LAST, BID, ASK)
NUMBER_FIELDS: Final = (*GREEK_FIELDS, *PRICE_FIELDS)
REQUESTED_FIELDS: Final = (*NUMBER_FIELDS, UNDERLYING_CON_ID, AVAILABILITY)
"""Requested by every snapshot and every subscription; the portal allows 50."""

_NUMBER = re.compile(
    r"""(?P<prefix>[CH])?\s*
        (?P<number>[+-]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)?(?:\.(?P<decimals>\d*))?
            (?:E(?P<power>[+-]?\d{1,3}))?)
        (?P<suffix>[KMB%])?""",
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)
LARGEST_POWER: Final = 9

_SCALE: Final = {"K": 1e3, "M": 1e6, "B": 1e9}
_LONGEST = 40


class ShapeError(ValueError):
    """The gateway's answer does not have the documented shape; the text says where."""


def read_objects(payload: object, what: str) -> list[dict[str, object]]:
    """A list of objects; `what` names it.

    Raises:
        ShapeError: it is something else.
    """
    if not isinstance(payload, list):
        raise ShapeError(f"{what} are not a list")
    if not all(isinstance(entry, dict) for entry in payload):
        raise ShapeError(f"{what} hold something that is not an object")
    return payload


def read_text(entry: Mapping[str, object], *names: str) -> str:
    """The first of these members that holds a text; empty if none does."""
    for name in names:
        value = entry.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


class Reading(NamedTuple):
    """A number as the portal wrote it."""

    value: float
    prior_close: bool = False
    """Marked `C`: of the previous trading day."""
    percent: bool = False
    """Written with a percent sign; the value is in percent."""
    exact: bool = True
    """Without a mark: neither shortened (`10.2K`) nor of another day or unit."""
    error: float = 0.0
    """The most that rounding to this text may have changed: half a unit of its last place, so
    0.0005 in `0.271`, and 50 in `10.2K`."""


def read_number(raw: object) -> Reading | None:
    """Read one value of the portal; None for anything that is not plainly a finite number.

    Accepted: numbers, and text such as `0.271`, `1,300`, `10.2K`, `0.54%`, `C193.18` (prior close)
    and `H12.5` (trading halted). Not `0,271`: that could only be a decimal comma.
    """
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        raw = repr(raw)  # zeros at its end are lost: its error is rather too large than too small
    if not isinstance(raw, str):
        return None
    text = raw.strip()
    match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        return None
    suffix = (match["suffix"] or "").upper()
    scale = _SCALE.get(suffix, 1.0)
    try:
        value = float(match["number"].replace(",", "")) * scale
        error = 0.5 * scale * 10.0 ** (int(match["power"] or 0) - len(match["decimals"] or ""))
    except (ValueError, OverflowError):
        return None
    if not (abs(value) < LARGEST_CREDIBLE and error < LARGEST_CREDIBLE):
        return None
    prefix = (match["prefix"] or "").upper()
    return Reading(
        value,
        prior_close=prefix == "C",
        percent=suffix == "%",
        exact=not (prefix or suffix),
        error=error,
    )


def read_exact(raw: object) -> float | None:
    """A quantity or the like: a finite number without a mark, else None."""
    reading = read_number(raw)
    return reading.value if reading is not None and reading.exact else None


def read_positive(raw: object) -> float | None:
    """A multiplier or the like: exact and positive, else None (the portal says 0 for unknown)."""
    value = read_exact(raw)
    return value if value is not None and value > 0 else None


def read_earliest_day(entry: Mapping[str, object], *names: str) -> str:
    """The earliest of the days (YYYYMMDD) that these members hold; empty if none does."""
    texts = [read_text(entry, name) for name in names]
    return min((text for text in texts if len(text) == DAY_LENGTH and text.isdigit()), default="")


def read_magnification(rule: object) -> float | None:
    """In how many parts of the currency prices are quoted, by a contract's `displayRule`; None if
    it does not say.

    Recorded of ordinary contracts: 0. Where prices are in cents it may be the factor or its power
    of ten, which is documented nowhere. No factor is below 10 and no power above 9, so either is
    understood.
    """
    raw = rule.get("magnification") if isinstance(rule, dict) else None
    value = read_exact(raw)
    if value is None or value < 0 or not value.is_integer():
        return None
    return value if value > LARGEST_POWER else 10.0**value


def read_con_id(raw: object) -> int | None:
    """A contract id, which the portal writes as a number or as text (`265598`, `265598@SMART`)."""
    if isinstance(raw, bool):
        return None
    if isinstance(raw, str):
        digits = raw.strip().partition("@")[0]
        raw = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 18 else None
    return raw if isinstance(raw, int) and raw > 0 else None


class Lack(Enum):
    """Why a contract's market data may not count. Codes of field 6509:
    https://www.interactivebrokers.com/campus/ibkr-api-page/cpapi-v1/#md-availability
    """

    NOT_SUBSCRIBED = "the login has no subscription"
    NOT_ACKNOWLEDGED = "the market data API acknowledgement is not signed"
    INCOMPLETE = "the gateway calls the subscription or its paperwork incomplete"
    FROZEN = "the market is closed, and its last data do not count"
    DELAYED = "only delayed data come"
    DELAYED_FROZEN = "only the last delayed data of a closed market come"
    UNKNOWN = "the gateway names no kind of data that the bridge knows"

    @property
    def remedy(self) -> str:
        """What the user can do."""
        match self:
            case Lack.NOT_SUBSCRIBED:
                return "subscribe at Interactive Brokers"
            case Lack.NOT_ACKNOWLEDGED | Lack.INCOMPLETE:
                return "sign it in the Client Portal: Settings, Market Data Subscriptions"
            case Lack.FROZEN:
                return "set IB_MARKET_DATA_TYPE=2 to let them count"
            case Lack.DELAYED:
                return "subscribe at Interactive Brokers, or set IB_MARKET_DATA_TYPE=3"
            case Lack.DELAYED_FROZEN:
                return "subscribe at Interactive Brokers, or set IB_MARKET_DATA_TYPE=4"
            case Lack.UNKNOWN:
                return "see what the Client Portal shows in a browser"
            case _:
                assert_never(self)


_KINDS: Final = {
    "R": DataType.LIVE,
    "Z": DataType.FROZEN,
    "D": DataType.DELAYED,
    "Y": DataType.DELAYED_FROZEN,
}
_LACKS: Final = {
    "N": Lack.NOT_SUBSCRIBED,
    "O": Lack.NOT_ACKNOWLEDGED,
    "i": Lack.INCOMPLETE,
    "Z": Lack.FROZEN,
    "D": Lack.DELAYED,
    "Y": Lack.DELAYED_FROZEN,
}
"""Not `v`, exempt from the vendor display rule: it says nothing of the data's age."""


def read_availability(raw: object) -> DataType | None:
    """The kind of market data: the first letter of field 6509.

    None for N (not subscribed), for unknown letters and while there is no answer: the kind of such
    data is unknown, and never live.
    """
    return _KINDS.get(raw[:1].upper()) if isinstance(raw, str) else None


def read_lack(raw: object, setting: DataType) -> Lack | None:
    """Why data of this availability may not count under IB_MARKET_DATA_TYPE; None if they may."""
    if is_allowed(read_availability(raw), setting):
        return None
    return _LACKS.get(raw[:1], Lack.UNKNOWN) if isinstance(raw, str) else Lack.UNKNOWN


_ALLOWED: Final = {
    DataType.LIVE: frozenset({DataType.LIVE}),
    DataType.FROZEN: frozenset({DataType.LIVE, DataType.FROZEN}),
    DataType.DELAYED: frozenset({DataType.LIVE, DataType.DELAYED}),
    DataType.DELAYED_FROZEN: frozenset(DataType),
}


def is_allowed(kind: DataType | None, setting: DataType) -> bool:
    """Whether data of this kind may count under IB_MARKET_DATA_TYPE, as in SOCKET mode.

    The portal sends what it has and cannot be asked for a kind, so whatever the TWS API would not
    have sent is left out here.
    """
    return kind in _ALLOWED[setting]
