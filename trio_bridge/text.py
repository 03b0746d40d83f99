"""Numbers and times in words, for people, and other people's words made safe to show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

KILO = 1000
UNITS = ("kB", "MB", "GB", "TB")
MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86_400
LEAST_IN_DECIMALS = 0.01
VISIBLE_ERROR = 0.01
"""A smaller share of a number is not worth a word."""
LONGEST_QUOTE = 400
"""Characters: a sentence or two. Gateways and libraries have put whole web pages into errors."""


def clean(words: str, longest: int = LONGEST_QUOTE) -> str:
    """Somebody's words on one line: no longer than this, and nothing that a terminal, a log or a
    reader's eye would obey (control characters, ESC, marks that turn the direction of writing, lone
    surrogates). Those are spelled, `\\x1b`, so that they can be seen."""
    line = words if words.isprintable() else " ".join(words[: 4 * longest].split())
    if not line.isprintable():
        line = "".join(
            one if one.isprintable() else one.encode("unicode_escape").decode() for one in line
        )
    return line if len(line) <= longest else line[: longest - 1] + "…"


def count(number: int, noun: str) -> str:
    """`1 row`, `1,234 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """`one`, `one and two`, `one, two and three`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def waiting(number: int, noun: str) -> str:
    """`1 row waits`, `3 rows wait`."""
    return f"{count(number, noun)} {'waits' if number == 1 else 'wait'}"


def size(number: float) -> str:
    """Bytes: `812 bytes`, `5.3 MB`."""
    if number < KILO:
        return count(int(number), "byte")
    power = min(int(math.log(number, KILO)), len(UNITS))
    return f"{number / KILO**power:.1f} {UNITS[power - 1]}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `4 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < HOUR_S:
        return f"{seconds // MINUTE_S:.0f} min"
    if seconds < DAY_S:
        return f"{seconds // HOUR_S:.0f} h {seconds % HOUR_S // MINUTE_S:.0f} min"
    return f"{seconds // DAY_S:.0f} d {seconds % DAY_S // HOUR_S:.0f} h"


def percent(share: float) -> str:
    """`99.9%`, rounded down: `100.0%` only if nothing is missing."""
    return f"{math.floor(share * KILO) / KILO:.1%}"


def number(value: float | None) -> str:
    """Two decimals and thousands separators; two significant digits below 0.01, for a small gamma;
    a dash for None."""
    if value is None:
        return "–"
    return f"{value:.2g}" if 0 < abs(value) < LEAST_IN_DECIMALS else f"{value:,.2f}"


def uncertain(value: float | None, error: float | None) -> str:
    """`number(value)`, and by how much it may be wrong where that is more than 1 % of it:
    `8.15±1.30`."""
    if value is None or error is None or error <= VISIBLE_ERROR * abs(value):
        return number(value)
    return f"{number(value)}±{number(error)}"


def moment(at: datetime) -> str:
    """`2026-01-02 14:30:05 UTC`, to the second."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
