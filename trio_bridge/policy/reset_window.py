"""When the gateway's nightly reset makes connecting pointless: hold windows in New York time.

IBKR publishes its reset times in Eastern Time, so a window is two times of New York's clock,
whatever this machine's zone is. On the two nights a year when that clock changes:

- a time that the spring change skips counts as an hour later (02:30 becomes 03:30 EDT);
- a time that the autumn change repeats means the first of the two;
- a window that would end before it starts, because of the skipped hour, keeps its length instead.

So a window never vanishes, and lasts at most an hour longer than written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EASTERN = ZoneInfo("America/New_York")
"""The zone of IBKR's published reset times (from the tzdata package if the system lacks it)."""

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ACCEPTED_FORMS = (
    "'HH:MM-HH:MM' (every day), 'Sun HH:MM-HH:MM' or 'Fri HH:MM-Sat HH:MM', New York time, "
    "several separated by commas, or 'none'"
)

_DAY = timedelta(days=1)
_WEEK = timedelta(weeks=1)
_MINUTE = timedelta(minutes=1)
_LONGEST_HOLD = 2 * _WEEK
_WINDOW = re.compile(
    r"(?:(?P<from_day>[a-z]{3}) +)?(?P<start>[0-9]{1,2}:[0-9]{2})"
    r" *[-–] *(?:(?P<to_day>[a-z]{3}) +)?(?P<end>[0-9]{1,2}:[0-9]{2})",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, repr=False)
class ResetWindow:
    """A span of New York's clock in which the bridge does not connect.

    `start` is the time of its beginning (inclusive), `length` the distance to its end (exclusive),
    `weekday` the day on which it begins (Monday is 0) or None for every day.

    Raises:
        ValueError: it is empty, or as long as its period (a day or a week).
    """

    start: time
    length: timedelta
    weekday: int | None = None

    def __post_init__(self) -> None:
        if self.length <= timedelta(0):
            raise ValueError("it is empty")
        if self.length >= (_DAY if self.weekday is None else _WEEK):
            raise ValueError("it leaves no time to connect")

    def __str__(self) -> str:
        """The window as written in BRIDGE_RESET_WINDOWS."""
        end = datetime.combine(datetime.min, self.start) + self.length
        if self.weekday is None:
            return f"{self.start:%H:%M}-{end:%H:%M}"
        end_day = WEEKDAYS[(self.weekday + (end - datetime.min).days) % 7]
        return f"{WEEKDAYS[self.weekday]} {self.start:%H:%M}-{end_day} {end:%H:%M}"

    def __repr__(self) -> str:
        return f"ResetWindow({str(self)!r})"

    def end_if_inside(self, instant: datetime) -> datetime | None:
        """When (UTC) the occurrence that covers `instant` ends; None if none covers it."""
        today = instant.astimezone(EASTERN).date()
        for days_ago in range(self.length.days + 2):
            day = today - days_ago * _DAY
            if self.weekday is not None and day.weekday() != self.weekday:
                continue
            local_start = datetime.combine(day, self.start)
            # zoneinfo treats skipped and repeated times as the module's docstring says (fold=0).
            start = local_start.replace(tzinfo=EASTERN).astimezone(UTC)
            end = (local_start + self.length).replace(tzinfo=EASTERN).astimezone(UTC)
            if end <= start:
                end = start + self.length
            if start <= instant < end:
                return end
        return None


def hold_until(now_utc: datetime, windows: Iterable[ResetWindow]) -> datetime | None:
    """The instant (UTC) from which to connect again if `now_utc` lies in a window, else None.

    Windows that overlap or follow each other without a gap are one hold.

    Raises:
        ValueError: `now_utc` has no time zone.
    """
    if now_utc.utcoffset() is None:
        raise ValueError("hold_until needs a time with a time zone")
    windows = tuple(windows)
    now = until = now_utc.astimezone(UTC)
    latest = now + _LONGEST_HOLD
    while until < latest:
        ends = [end for window in windows if (end := window.end_if_inside(until)) is not None]
        if not ends:
            break
        until = max(ends)
    return until if until > now else None


def eastern_text(instant: datetime, *, seen_from: datetime | None = None) -> str:
    """New York time for a message: "00:05 ET"; with the day, "Sat 03:00 ET", if `instant` is a day
    or more after `seen_from`."""
    local = instant.astimezone(EASTERN)
    distant = seen_from is not None and instant - seen_from >= _DAY
    day = f"{WEEKDAYS[local.weekday()]} " if distant else ""
    return f"{day}{local:%H:%M} ET"


def parse_reset_windows(text: str) -> tuple[ResetWindow, ...]:
    """Parse a comma-separated list of windows; "none" or an empty text means no windows.

    Raises:
        ValueError: a part is wrong; the text, one line, says which and what is accepted.
    """
    if text.strip().lower() in ("", "none"):
        return ()
    windows = tuple(_parse_window(part.strip()) for part in text.split(",") if part.strip())
    if not _leaves_time(windows):
        raise ValueError(f"the reset windows {text.strip()!r} leave no time to connect")
    return windows


def _parse_window(part: str) -> ResetWindow:
    match = _WINDOW.fullmatch(part)
    if match is None:
        raise ValueError(f"{part!r} is not a reset window; accepted are {ACCEPTED_FORMS}")
    try:
        start, end = _clock(match["start"]), _clock(match["end"])
        from_day, to_day = _weekday(match["from_day"]), _weekday(match["to_day"])
        length = _since_midnight(end) - _since_midnight(start)
        if to_day is None:
            return ResetWindow(start, length % _DAY, from_day)
        if from_day is None:
            raise ValueError("its first day is missing")
        return ResetWindow(start, (length + (to_day - from_day) * _DAY) % _WEEK, from_day)
    except ValueError as error:
        raise ValueError(
            f"{part!r} is not a reset window: {error}; accepted are {ACCEPTED_FORMS}"
        ) from None


def _clock(text: str) -> time:
    hour, minute = text.split(":")
    try:
        return time(int(hour), int(minute))
    except ValueError:
        raise ValueError(f"{text} is not a time of day") from None


def _weekday(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return WEEKDAYS.index(text.capitalize())
    except ValueError:
        raise ValueError(f"{text} is not one of {', '.join(WEEKDAYS)}") from None


def _since_midnight(clock: time) -> timedelta:
    return timedelta(hours=clock.hour, minutes=clock.minute)


def _leaves_time(windows: Sequence[ResetWindow]) -> bool:
    """Whether some minute of an ordinary week lies outside all windows."""
    week = _WEEK // _MINUTE
    covered: set[int] = set()
    for window in windows:
        for weekday in range(7) if window.weekday is None else (window.weekday,):
            first = (weekday * _DAY + _since_midnight(window.start)) // _MINUTE
            covered.update((first + i) % week for i in range(window.length // _MINUTE))
    return len(covered) < week
