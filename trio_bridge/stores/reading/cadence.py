"""A guess at how far apart rows usually were, where that was not today's interval.

The interval may have been longer once, and tables of an earlier system have rows at its own pace.
Rows that come regularly, only further apart, are not gaps. The guess is made from the rows alone:
the interval itself is recorded nowhere but in a sentence. Everything about it is in this module, so
that it can go once each start of the service records its interval as a number.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from trio_bridge.stores.reading.buckets import ROWS_IN_PAIRS, stretches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_bridge.stores.database.connection import TrioConnection
    from trio_bridge.stores.reading.buckets import Bucket, Window

NEIGHBOURS = 4
"""This many spacings on each side show what is usual."""

FEWEST = 4
REGULAR = 0.1
"""How far they may be from their median, as a part of it: an unsteady connection, which gives a row
now and then, does not count as a slow pace."""

ENOUGH = 0.75
"""This part of them must be regular: a gap or a change of pace may be among them."""

FEWEST_ROWS = 4
"""A bucket with fewer rows does not show what is usual between them."""

_USUAL_WITHIN = f"""
    WITH spacing AS MATERIALIZED (
        SELECT number, extract(epoch FROM after - before)::float8 AS seconds
        FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[])
            WITH ORDINALITY AS stretch(start, "end", number)
        {ROWS_IN_PAIRS}
        WHERE before IS NOT NULL
    ), middle AS (
        SELECT number, percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds) AS usual
        FROM spacing GROUP BY number
    )
    SELECT CASE WHEN avg((abs(seconds - usual) <= {REGULAR} * usual)::int) >= {ENOUGH}
                THEN usual ELSE 0 END
    FROM spacing JOIN middle USING (number) GROUP BY number, usual ORDER BY number
"""


class Paces(NamedTuple):
    """What is usual, in seconds: `within` each bucket (None where there are too few rows to say),
    and `between` the last row of one bucket and the first of the next. `slowest_s` is the slowest
    of them."""

    within: Sequence[float | None]
    between: Sequence[float]
    slowest_s: float


async def guess_paces(
    connection: TrioConnection, window: Window, buckets: Sequence[Bucket]
) -> Paces:
    """Raises psycopg's errors."""
    within = await _within(connection, window, buckets)
    between = _between(window, buckets, within)
    slowest_s = max((pace for pace in (*within, *between) if pace), default=window.interval_s)
    return Paces(within, between, slowest_s)


async def _within(
    connection: TrioConnection, window: Window, buckets: Sequence[Bucket]
) -> list[float | None]:
    paces = [None if bucket.rows < FEWEST_ROWS else window.interval_s for bucket in buckets]
    short = [
        number
        for number, bucket in enumerate(buckets)
        if paces[number] is not None and bucket.is_short(window.interval_s)
    ]
    if short:
        parameters = stretches([buckets[number] for number in short])
        cursor = await connection.execute(_USUAL_WITHIN, parameters)
        for number, (usual_s,) in zip(short, await cursor.fetchall(), strict=True):
            paces[number] = max(usual_s, window.interval_s)
    return paces


def _between(
    window: Window, buckets: Sequence[Bucket], within: Sequence[float | None]
) -> list[float]:
    spacings = [(other.first - one.last).total_seconds() for one, other in pairwise(buckets)]
    usual = usual_spacings(spacings, window.interval_s)
    return [
        max((side for side in sides if side is not None), default=usual_s)
        for usual_s, sides in zip(usual, pairwise(within), strict=True)
    ]


def usual_spacings(spacings: Sequence[float], interval_s: float) -> list[float]:
    """For each of the spacings between rows, in seconds, what was usual around it.

    That is `interval_s`, or more where the neighbours are regularly further apart. A spacing does
    not count for what is usual at its own place.
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
