"""How far apart rows usually were, where that was not today's interval.

The interval may have been longer once, and tables of an earlier system have rows at its own pace.
Rows that come regularly, only more seldom, are no gaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NEIGHBOURS = 4
"""So many spacings on each side tell what is usual."""

FEWEST = 4
REGULAR = 0.1
"""How far they may be from their median, as a part of it: an unsteady connection, which gives a row
now and then, is not taken for a slow pace."""

ENOUGH = 0.75
"""So many of them must be: a gap or a change of pace may be among them."""


def usual_spacings(spacings: Sequence[float], interval_s: float) -> list[float]:
    """For each of the spacings between rows, in seconds, what was usual around it.

    That is `interval_s`, or more where the neighbours are regularly further apart. A spacing has no
    say in what is usual at its own place.
    """
    return [_usual(spacings, place, interval_s) for place in range(len(spacings))]


def _usual(spacings: Sequence[float], place: int, interval_s: float) -> float:
    before = spacings[max(0, place - NEIGHBOURS) : place]
    around = [*before, *spacings[place + 1 : place + 1 + NEIGHBOURS]]
    if len(around) < FEWEST:
        return interval_s
    middle = sorted(around)[len(around) // 2]
    regular = sum(abs(spacing - middle) <= REGULAR * middle for spacing in around)
    return max(interval_s, middle) if regular >= ENOUGH * len(around) else interval_s
