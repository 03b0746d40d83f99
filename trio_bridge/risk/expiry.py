"""When an option stops trading. Pure.

A gateway says the last day of trading, and sometimes the time and its zone: TWS only for options
that end within days ("20230624 04:00:00 Asia/Shanghai", in the zone of TWS's login, which may be
another day; https://github.com/erdewit/ib_insync/issues/605), the portal never. Options that are
settled in the morning stop trading on the day before, which is the day that both say.

- Day, time and zone: that instant.
- A day alone ends with the latest usual close of options in its currency (`CLOSES`). So an option
  that has stopped trading counts for some hours at most, and one that trades is never left out.
- A zone that is not known: the currency's. One of a currency without an entry: as if it were the
  last place on earth where that time comes (UTC-12).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo


class _Close(NamedTuple):
    zone: str
    at: time


_US: Final = _Close("America/New_York", time(17))
_CENTRAL_EUROPE: Final = _Close("Europe/Berlin", time(18, 30))

CLOSES: Final = {
    "USD": _US,
    "CAD": _US,
    "MXN": _US,
    "EUR": _CENTRAL_EUROPE,
    "CHF": _CENTRAL_EUROPE,
    "SEK": _CENTRAL_EUROPE,
    "NOK": _CENTRAL_EUROPE,
    "DKK": _CENTRAL_EUROPE,
    "GBP": _Close("Europe/London", time(18)),
    "JPY": _Close("Asia/Tokyo", time(15, 45)),
    "KRW": _Close("Asia/Seoul", time(15, 45)),
    "HKD": _Close("Asia/Hong_Kong", time(16, 30)),
    "CNH": _Close("Asia/Hong_Kong", time(16, 30)),
    "SGD": _Close("Asia/Singapore", time(17, 30)),
    "AUD": _Close("Australia/Sydney", time(17)),
    "INR": _Close("Asia/Kolkata", time(15, 30)),
}
"""The latest time at which options in a currency usually stop trading on their last day. For the
dollar: CME's, at 16:00 in Chicago; shares' and indices' options stop up to an hour before."""

ALIASES: Final = {
    "EST": "America/New_York",
    "EDT": "America/New_York",
    "CST": "America/Chicago",
    "CDT": "America/Chicago",
    "MST": "America/Denver",
    "PST": "America/Los_Angeles",
    "CEST": "Europe/Berlin",
    "MEZ": "Europe/Berlin",
    "MESZ": "Europe/Berlin",
    "BST": "Europe/London",
    "JST": "Asia/Tokyo",
    "KST": "Asia/Seoul",
    "HKT": "Asia/Hong_Kong",
    "SGT": "Asia/Singapore",
    "IST": "Asia/Kolkata",
    "AET": "Australia/Sydney",
}
"""What TWS, a Java program, calls some zones; as in "EST (Eastern Standard Time)". Before the zone
database's own names: its EST has no summer."""

EARTHS_LAST: Final = timezone(timedelta(hours=-12))

MIDNIGHT: Final = timedelta(days=1)

DAY_LENGTH: Final = len("YYYYMMDD")

YEARS: Final = range(1970, 3000)
"""A day outside of them is none, and could not be converted."""


@lru_cache(maxsize=4096)
def last_trade(day: str, clock: str = "", zone: str = "", *, currency: str = "") -> datetime | None:
    """The instant (UTC) at which an option stops trading; None if the day is not one.

    Args:
        day: YYYYMMDD; TWS also says a month alone, or NOEXP.
        clock: HH:MM or HH:MM:SS, empty if unknown.
        zone: of `clock`.
        currency: the option's.
    """
    try:
        on = date.fromisoformat(day) if len(day) == DAY_LENGTH and day.isdigit() else None
    except ValueError:
        on = None
    if on is None or on.year not in YEARS:
        return None
    close = CLOSES.get(currency)
    where = zone_of(zone)
    if (at := _time(clock)) is not None:
        return _instant(on, at, where or zone_of(close.zone if close else ""))
    if close is not None:
        return _instant(on, close.at, zone_of(close.zone))
    return _instant(on, time(), where) + MIDNIGHT


def _instant(on: date, at: time, where: tzinfo | None) -> datetime:
    return datetime.combine(on, at, where or EARTHS_LAST).astimezone(UTC)


def _time(clock: str) -> time | None:
    try:
        return time.fromisoformat(clock) if clock else None
    except ValueError:
        return None


@lru_cache(maxsize=64)
def zone_of(name: str) -> tzinfo | None:
    """The zone of this name; None if there is none."""
    name = name.partition("(")[0].strip()
    name = ALIASES.get(name, name)
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, OSError, ValueError):  # the name is that of a file, too
        return None
