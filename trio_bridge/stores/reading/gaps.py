"""Finds where rows are missing, exactly, and what `api_logs` says about it.

A gap is a time between two rows in which another row was due, by the interval that was set then
(`intervals.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from trio_bridge.events.gateway import (
    Connected,
    ConnectionLost,
    GatewaySilent,
    HoldBegun,
    UpstreamLost,
)
from trio_bridge.events.portal import (
    CompetingLogin,
    LoggedOut,
    LoginCutOff,
    NoBrokerageSession,
)
from trio_bridge.events.rows import (
    CircuitChanged,
    CircuitClosed,
    CircuitOpened,
    RowsDropped,
    RowsMissed,
    RowsQuarantined,
    SlotsSkipped,
)
from trio_bridge.events.service import ServiceStarted, ServiceStopped
from trio_bridge.rows import PORTFOLIO_GREEKS
from trio_bridge.stores.reading.intervals import read_intervals
from trio_bridge.stores.reading.landing import EVENT_COLUMNS, LandedEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from trio_bridge.stores.database.connection import TrioConnection
    from trio_bridge.stores.reading.buckets import Bucket, Window
    from trio_bridge.stores.reading.intervals import Intervals

MISSING = 1.75
"""Two rows further apart than this many intervals have at least one slot between them without a
row. (One of an older version may be half an interval late by its time, so two neighbours are at
most 1.5 apart.)"""

IN_THE_DARK_S = 4.0
"""A row may take three seconds to become safe: for this long a missing row proves nothing."""

MOST_GAPS = 300
"""The longest ones."""

REASONS_PER_GAP = 3

CAUSES = tuple(
    event.kind
    for event in (
        *(RowsMissed, SlotsSkipped, RowsDropped, RowsQuarantined),
        *(ServiceStarted, ServiceStopped),
        *(ConnectionLost, HoldBegun, GatewaySilent, UpstreamLost),
        *(LoggedOut, NoBrokerageSession, CompetingLogin, LoginCutOff),
    )
)
"""Events that say why there are no rows; a start shows that there was no service until then."""

NO_REASONS = tuple(
    event.kind for event in (Connected, CircuitChanged, CircuitOpened, CircuitClosed)
)
"""Events that explain no gap: while the database is down, rows are still taken and arrive later;
and a new connection is not why rows were missing before it."""

_HOLES = f"""
    SELECT before, after
    FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[], %(intervals)s::float8[])
        AS stretch(start, "end", interval_s)
    CROSS JOIN LATERAL (
        SELECT lag("timestamp") OVER (ORDER BY "timestamp") AS before, "timestamp" AS after
        FROM portfolio_greeks
        WHERE {PORTFOLIO_GREEKS.ours} AND "timestamp" >= start AND "timestamp" <= "end"
    ) AS pair
    WHERE extract(epoch FROM after - before) > interval_s * {MISSING}
    ORDER BY after - before DESC LIMIT {MOST_GAPS}
"""
# Events of an older version have no kind.
_REASONS = f"""
    SELECT start, {EVENT_COLUMNS}
    FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS gap(start, "end")
    CROSS JOIN LATERAL (
        SELECT *, kind IS NOT NULL AND kind = ANY (%(causes)s) AS is_cause FROM api_logs
        WHERE "timestamp" > start AND "timestamp" <= "end"
          AND coalesce(kind <> ALL (%(no_reasons)s), message !~ '^(database circuit|connected to)')
        ORDER BY is_cause DESC, "timestamp", id LIMIT %(most)s
    ) AS said
    ORDER BY start, said.is_cause DESC, said."timestamp", said.id
"""


@dataclass(frozen=True, slots=True)
class Gap:
    """No row after `start` and before `end`; `reasons` are events in between, causes first.

    `start` is a row's time and may lie before the window. `is_open`: `end` is the window's end.
    `interval_s`: how far apart rows were due, seconds.
    """

    start: datetime
    end: datetime
    is_open: bool
    interval_s: float
    reasons: tuple[LandedEvent, ...] = ()

    def slots_within(self, window: Window) -> int:
        """How many slots of the window have no row. A slot whose row may still come does not count,
        so the number of an open gap only grows until the gap is closed, and does not shrink then.
        """
        start, end = max(self.start, window.start), self.end
        if self.is_open:
            still_come_s = IN_THE_DARK_S + (MISSING - 1) * self.interval_s
            end = min(end, window.now - timedelta(seconds=still_come_s))
        intervals = (end - start).total_seconds() / self.interval_s
        between_rows = self.start >= window.start and not self.is_open
        return round(intervals) - 1 if between_rows else max(0, int(intervals))


async def find_gaps(
    connection: TrioConnection, window: Window, buckets: Sequence[Bucket], before: datetime | None
) -> list[Gap]:
    """The longest gaps, in order.

    `before` is the last row ahead of the window. Raises psycopg's errors.
    """
    intervals = await read_intervals(
        connection, before or window.start, window.end, today_s=window.interval_s
    )
    pairs = [(one.last, other.first) for one, other in pairwise(buckets)]
    if buckets and before is not None:
        pairs.append((before, buckets[0].first))
    pairs += await _far_apart(connection, buckets, intervals)
    found = [
        Gap(start, end, False, interval_s)
        for start, end in pairs
        if _is_gap(start, end, interval_s := intervals.longer(start, end))
    ]
    last = buckets[-1].last if buckets else before
    certain = min(window.end, window.now - timedelta(seconds=IN_THE_DARK_S))
    if last is not None and _is_gap(last, certain, interval_s := intervals.longer(last, certain)):
        found.append(Gap(last, window.end, True, interval_s))
    longest = sorted(found, key=lambda gap: gap.end - gap.start)[-MOST_GAPS:]
    return await _explain(connection, sorted(longest, key=lambda gap: gap.start))


async def _far_apart(
    connection: TrioConnection, buckets: Sequence[Bucket], intervals: Intervals
) -> list[tuple[datetime, datetime]]:
    """Neighbours in the same bucket that may have a gap between them. Only those buckets are
    searched that hold fewer rows than their time allows."""
    short = [
        (bucket, shortest_s)
        for bucket in buckets
        if bucket.is_short(shortest_s := intervals.shortest(bucket.first, bucket.last))
    ]
    if not short:
        return []
    parameters = {
        "starts": [bucket.first for bucket, _ in short],
        "ends": [bucket.last for bucket, _ in short],
        "intervals": [shortest_s for _, shortest_s in short],
    }
    cursor = await connection.execute(_HOLES, parameters)
    return [(before, after) for before, after in await cursor.fetchall()]


def _is_gap(start: datetime, end: datetime, interval_s: float) -> bool:
    return (end - start).total_seconds() > MISSING * interval_s


async def _explain(connection: TrioConnection, gaps: Sequence[Gap]) -> list[Gap]:
    """Add to each gap what `api_logs` says about its time."""
    if not gaps:
        return []
    parameters = {
        "starts": [gap.start for gap in gaps],
        "ends": [gap.end for gap in gaps],
        "most": REASONS_PER_GAP,
        "no_reasons": list(NO_REASONS),
        "causes": list(CAUSES),
    }
    cursor = await connection.execute(_REASONS, parameters)
    reasons = _by_start(await cursor.fetchall())
    return [replace(gap, reasons=tuple(reasons.get(gap.start, ()))) for gap in gaps]


def _by_start(rows: Iterable[Sequence[Any]]) -> dict[datetime, list[LandedEvent]]:
    found: dict[datetime, list[LandedEvent]] = {}
    for start, *event in rows:
        found.setdefault(start, []).append(LandedEvent(*event))
    return found
