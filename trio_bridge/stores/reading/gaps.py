"""Finds where rows are missing, exactly, and what `api_logs` says about it.

A gap is a time between two rows in which a row would have been due, at the pace that was usual
there: the interval may have been another one once (`stores/reading/cadence.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, LiteralString

from trio_bridge.events.gateway import Connected
from trio_bridge.events.rows import CircuitChanged, CircuitOpened
from trio_bridge.stores.reading.cadence import ENOUGH, REGULAR, usual_spacings
from trio_bridge.stores.reading.landing import LandedEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from trio_bridge.stores.database.connection import TrioConnection
    from trio_bridge.stores.reading.buckets import Bucket, Window

MISSING = 1.75
"""Two rows further apart than so many intervals have at least one slot between them without a row.
(A row may be half an interval late, so two neighbours are at most 1.5 apart.)"""

FEWEST_TO_TELL = 4
"""Rows in a bucket that tell what is usual between them."""

IN_THE_DARK_S = 4.0
"""A row may take three seconds until it is safe. (The page's `rows.js` has the same numbers.)"""

MOST_GAPS = 300
"""The longest ones."""

REASONS_PER_GAP = 3
NO_REASONS = tuple(event.kind for event in (Connected, CircuitChanged, CircuitOpened))
"""What the database itself goes through is no reason: rows are taken meanwhile, and come later. Nor
is the end of the gap."""

_PAIRS: LiteralString = """
    CROSS JOIN LATERAL (
        SELECT lag("timestamp") OVER (ORDER BY "timestamp") AS before, "timestamp" AS after
        FROM portfolio_greeks
        WHERE contract = 'PORTFOLIO' AND "timestamp" >= start AND "timestamp" <= "end"
    ) AS pair
"""
_PACES: LiteralString = f"""
    WITH spacing AS MATERIALIZED (
        SELECT number, extract(epoch FROM after - before)::float8 AS seconds
        FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[])
            WITH ORDINALITY AS stretch(start, "end", number)
        {_PAIRS}
        WHERE before IS NOT NULL
    ), middle AS (
        SELECT number, percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds) AS usual
        FROM spacing GROUP BY number
    )
    SELECT CASE WHEN avg((abs(seconds - usual) <= {REGULAR} * usual)::int) >= {ENOUGH}
                THEN usual ELSE 0 END
    FROM spacing JOIN middle USING (number) GROUP BY number, usual ORDER BY number
"""
_HOLES: LiteralString = f"""
    SELECT before, after, usual
    FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[], %(usual)s::float8[])
        AS stretch(start, "end", usual)
    {_PAIRS}
    WHERE extract(epoch FROM after - before) > usual * {MISSING}
    ORDER BY after - before DESC LIMIT {MOST_GAPS}
"""
# Events of an older version have no kind.
_REASONS: LiteralString = """
    SELECT start, said.id, said."timestamp", said.api_mode, said.message, said.status, said.kind
    FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS gap(start, "end")
    CROSS JOIN LATERAL (
        SELECT * FROM api_logs
        WHERE "timestamp" > start AND "timestamp" <= "end"
          AND coalesce(kind <> ALL (%(no_reasons)s), message !~ '^(database circuit|connected to)')
        ORDER BY "timestamp", id LIMIT %(most)s
    ) AS said
    ORDER BY start, said."timestamp", said.id
"""


@dataclass(frozen=True, slots=True)
class Gap:
    """No row after `start` and before `end`; `reasons` are the first events in between.

    `start` is a row's time and may lie before the window. `is_open`: `end` is the window's end.
    `usual_s`: how far apart the rows around it are, seconds.
    """

    start: datetime
    end: datetime
    is_open: bool
    usual_s: float
    reasons: tuple[LandedEvent, ...] = ()

    def slots_within(self, window: Window) -> int:
        """How many slots of the window have no row. One whose row may still come is none of them,
        so the number of an open gap only grows until the gap is closed, and not even then shrinks.
        """
        start, end = max(self.start, window.start), self.end
        if self.is_open:
            still_come_s = IN_THE_DARK_S + (MISSING - 1) * self.usual_s
            end = min(end, window.now - timedelta(seconds=still_come_s))
        intervals = _seconds(start, end) / self.usual_s
        between_rows = self.start >= window.start and not self.is_open
        return round(intervals) - 1 if between_rows else max(0, int(intervals))


async def find_gaps(
    connection: TrioConnection, window: Window, buckets: Sequence[Bucket], before: datetime | None
) -> tuple[list[Gap], float]:
    """The longest gaps in order, and the slowest pace, in seconds, that was taken for usual.

    `before` is the last row ahead of the window. Raises psycopg's errors.
    """
    paces = await _paces_within(connection, window, buckets)
    between = _paces_between(window, buckets, paces)
    found = _gaps_between(buckets, between)
    found += _gaps_at_edges(window, buckets, [*paces[:1], *between, *paces[-1:]], before)
    found += await _gaps_within(connection, buckets, paces, window.interval_s)
    longest = sorted(found, key=lambda gap: gap.end - gap.start)[-MOST_GAPS:]
    slowest_s = max((pace for pace in (*paces, *between) if pace), default=window.interval_s)
    return await _explain(connection, sorted(longest, key=lambda gap: gap.start)), slowest_s


async def _paces_within(
    connection: TrioConnection, window: Window, buckets: Sequence[Bucket]
) -> list[float | None]:
    """What is usual between the rows of each bucket; None where there are too few to tell."""
    paces = [None if bucket.rows < FEWEST_TO_TELL else window.interval_s for bucket in buckets]
    short = [
        number
        for number, bucket in enumerate(buckets)
        if paces[number] is not None and _is_short(bucket, window.interval_s)
    ]
    if short:
        cursor = await connection.execute(_PACES, _stretches([buckets[n] for n in short]))
        for number, (usual_s,) in zip(short, await cursor.fetchall(), strict=True):
            paces[number] = max(usual_s, window.interval_s)
    return paces


def _paces_between(
    window: Window, buckets: Sequence[Bucket], paces: Sequence[float | None]
) -> list[float]:
    """What is usual between one bucket's last row and the next one's first."""
    spacings = [_seconds(one.last, other.first) for one, other in pairwise(buckets)]
    found = []
    for usual_s, sides in zip(
        usual_spacings(spacings, window.interval_s), pairwise(paces), strict=True
    ):
        found.append(max((side for side in sides if side is not None), default=usual_s))
    return found


def _gaps_between(buckets: Sequence[Bucket], between: Sequence[float]) -> list[Gap]:
    """Gaps from a bucket to the next one."""
    return [
        Gap(one.last, other.first, False, usual_s)
        for (one, other), usual_s in zip(pairwise(buckets), between, strict=True)
        if _is_gap(one.last, other.first, usual_s)
    ]


def _gaps_at_edges(
    window: Window,
    buckets: Sequence[Bucket],
    paces: Sequence[float | None],
    before: datetime | None,
) -> list[Gap]:
    """From the row `before` the window to its first one, and from its last one to its end."""
    known = [pace for pace in paces if pace is not None] or [window.interval_s]
    found = []
    if buckets and before is not None and _is_gap(before, buckets[0].first, known[0]):
        found.append(Gap(before, buckets[0].first, False, known[0]))
    last = buckets[-1].last if buckets else before
    told = min(window.end, window.now - timedelta(seconds=IN_THE_DARK_S))
    if last is not None and _is_gap(last, told, known[-1]):
        found.append(Gap(last, window.end, True, known[-1]))
    return found


async def _gaps_within(
    connection: TrioConnection,
    buckets: Sequence[Bucket],
    paces: Sequence[float | None],
    interval_s: float,
) -> list[Gap]:
    """Only those buckets are searched that hold fewer rows than their time allows."""
    known = [(bucket, pace or interval_s) for bucket, pace in zip(buckets, paces, strict=True)]
    short = [(bucket, pace) for bucket, pace in known if _is_short(bucket, pace)]
    if not short:
        return []
    parameters = _stretches([bucket for bucket, _ in short])
    parameters["usual"] = [pace for _, pace in short]
    cursor = await connection.execute(_HOLES, parameters)
    return [Gap(start, end, False, usual_s) for start, end, usual_s in await cursor.fetchall()]


def _is_gap(start: datetime, end: datetime, usual_s: float) -> bool:
    return _seconds(start, end) > MISSING * usual_s


def _is_short(bucket: Bucket, usual_s: float) -> bool:
    return bucket.rows > 1 and _seconds(bucket.first, bucket.last) / usual_s > bucket.rows - 0.5


def _stretches(buckets: Sequence[Bucket]) -> dict[str, list[Any]]:
    return {
        "starts": [bucket.first for bucket in buckets],
        "ends": [bucket.last for bucket in buckets],
    }


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


async def _explain(connection: TrioConnection, gaps: Sequence[Gap]) -> list[Gap]:
    """Add to each gap what `api_logs` says about its time."""
    if not gaps:
        return []
    parameters = {
        "starts": [gap.start for gap in gaps],
        "ends": [gap.end for gap in gaps],
        "most": REASONS_PER_GAP,
        "no_reasons": list(NO_REASONS),
    }
    cursor = await connection.execute(_REASONS, parameters)
    reasons = _by_start(await cursor.fetchall())
    return [replace(gap, reasons=tuple(reasons.get(gap.start, ()))) for gap in gaps]


def _by_start(rows: Iterable[Sequence[Any]]) -> dict[datetime, list[LandedEvent]]:
    found: dict[datetime, list[LandedEvent]] = {}
    for start, *event in rows:
        found.setdefault(start, []).append(LandedEvent(*event))
    return found
