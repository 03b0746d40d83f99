"""Checks and reads the parameters of a URL before anything is done with them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from trio_bridge.stores.reading.buckets import Window

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SPAN = timedelta(minutes=15)
LONGEST_SPAN = timedelta(days=3_700)
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)

DEFAULT_POINTS = 600
MOST_POINTS = 2_000
DEFAULT_EVENTS = 50
MOST_EVENTS = 500

TIME_FORMS = "2026-01-02T14:30:00Z or seconds since 1970"

_SECONDS = re.compile(r"-?\d{1,11}(\.\d{1,9})?", re.ASCII)
_COUNT = re.compile(r"\d{1,9}", re.ASCII)


class BadQueryError(ValueError):
    """A parameter can't be used: the text names it and what is allowed."""


def window_of(query: Mapping[str, str], *, now: datetime, interval_s: float) -> Window:
    """`from`, `to` and `points`; by default the last 15 minutes.

    Buckets are whole multiples of the interval, so that a bucket without gaps always holds the same
    number of rows; and no narrower than it, so that a few rows come one by one.

    Raises:
        BadQueryError: see there.
    """
    _refuse_unknown(query, {"from", "to", "points"})
    end = _time("to", query["to"]) if "to" in query else now
    start = _time("from", query["from"]) if "from" in query else end - DEFAULT_SPAN
    if not start < end:
        raise BadQueryError("from must be before to")
    if end - start > LONGEST_SPAN:
        raise BadQueryError(f"from and to must be at most {LONGEST_SPAN.days} days apart")
    points = _count("points", query, default=DEFAULT_POINTS, most=MOST_POINTS)
    slots = (end - start).total_seconds() / interval_s
    # Buckets begin at multiples of their width, so the window may touch one more.
    per_bucket = max(1, math.ceil(slots / max(1, points - 1)))
    return Window(start, end, per_bucket * interval_s, interval_s, now)


def events_wanted(query: Mapping[str, str]) -> int:
    """`limit`: how many of the latest events.

    Raises:
        BadQueryError: see there.
    """
    _refuse_unknown(query, {"limit"})
    return _count("limit", query, default=DEFAULT_EVENTS, most=MOST_EVENTS)


def _refuse_unknown(query: Mapping[str, str], known: set[str]) -> None:
    """A misspelt parameter must not be ignored."""
    if unknown := sorted(query.keys() - known):
        raise BadQueryError(f"unknown parameter: {unknown[0][:40]!r}")


def _time(name: str, text: str) -> datetime:
    try:
        if _SECONDS.fullmatch(text):
            at = datetime.fromtimestamp(float(text), UTC)
        else:
            at = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise BadQueryError(f"{name} must be a time like {TIME_FORMS}") from None
    if at.tzinfo is None:
        raise BadQueryError(f"{name} must say its offset from UTC: {TIME_FORMS}")
    if not EARLIEST <= at <= LATEST:
        raise BadQueryError(f"{name} must be between {EARLIEST:%Y} and {LATEST:%Y}")
    return at


def _count(name: str, query: Mapping[str, str], *, default: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not _COUNT.fullmatch(text) or not 1 <= int(text) <= most:
        raise BadQueryError(f"{name} must be a whole number from 1 to {most}")
    return int(text)
