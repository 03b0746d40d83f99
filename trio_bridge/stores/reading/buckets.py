"""Rows thinned out by the database: a month is half a million, and a chart has some hundred pixels.

The rows are grouped into buckets of equal time. The lowest, the highest and the last value of each
bucket are kept, so that a spike of one row is still seen.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from trio_bridge.model import Verdict
from trio_bridge.rows import PORTFOLIO_GREEKS

if TYPE_CHECKING:
    from trio_bridge.stores.database.connection import TrioConnection

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

CHARTED = PORTFOLIO_GREEKS.charted

PARTIAL = f"""coalesce(
    verdict = '{Verdict.PARTIAL}', delta IS NULL OR coalesce(priced <> positions, false))"""
"""The SQL condition for a row that is partial; rows of older versions have no verdict
(`risk.verdict.verdict_of`)."""


def _each(template: str) -> str:
    return ", ".join(template.format(column) for column in CHARTED)


_BUCKETS = f"""
    WITH bucket AS MATERIALIZED (
        SELECT count(*) AS rows, count(delta) AS right_rows,
               count(*) FILTER (WHERE {PARTIAL}) AS partial_rows,
               count(*) FILTER (WHERE verdict = '{Verdict.STALE}') AS stale_rows,
               min("timestamp") AS first, max("timestamp") AS last,
               {_each("min({})")}, {_each("max({})")}
        FROM portfolio_greeks
        WHERE {PORTFOLIO_GREEKS.ours} AND "timestamp" >= %(start)s AND "timestamp" < %(end)s
        GROUP BY date_bin(%(width)s, "timestamp", %(epoch)s)
    )
    SELECT bucket.*, {_each("{}")}
    FROM bucket CROSS JOIN LATERAL (
        SELECT * FROM portfolio_greeks AS row
        WHERE {PORTFOLIO_GREEKS.ours} AND row."timestamp" = bucket.last ORDER BY id DESC LIMIT 1
    ) AS final
    ORDER BY bucket.last
"""


class Window(NamedTuple):
    """What to read: from `start` to before `end`, in buckets of `bucket_s`. `interval_s` is the
    grid of the rows; a bucket as wide as that (or less) holds single rows. `now` is when it is
    asked: by default long after."""

    start: datetime
    end: datetime
    bucket_s: float
    interval_s: float
    now: datetime = datetime.max.replace(tzinfo=UTC)


class Bucket(NamedTuple):
    """The rows of one stretch of time. `right_rows` have known Greeks, `partial_rows` and
    `stale_rows` that verdict; `lowest`, `highest` and
    `final` have a value for each of the `CHARTED` columns."""

    rows: int
    right_rows: int
    partial_rows: int
    stale_rows: int
    first: datetime
    last: datetime
    lowest: tuple[float | None, ...]
    highest: tuple[float | None, ...]
    final: tuple[float | None, ...]

    @property
    def complete_rows(self) -> int:
        return self.rows - self.partial_rows - self.stale_rows

    @property
    def verdict(self) -> Verdict:
        """The worst of its rows."""
        if self.partial_rows:
            return Verdict.PARTIAL
        return Verdict.STALE if self.stale_rows else Verdict.COMPLETE

    def is_short(self, interval_s: float) -> bool:
        """Whether it holds fewer rows than its time allows when they are due `interval_s` apart."""
        span_s = (self.last - self.first).total_seconds()
        return self.rows > 1 and span_s / interval_s > self.rows - 0.5


async def read_buckets(connection: TrioConnection, window: Window) -> list[Bucket]:
    """The window's rows, in order. Raises psycopg's errors."""
    parameters = {
        "start": window.start,
        "end": window.end,
        "width": timedelta(seconds=window.bucket_s),
        "epoch": EPOCH,
    }
    cursor = await connection.execute(_BUCKETS, parameters)
    return [_bucket(*row) for row in await cursor.fetchall()]


def _bucket(
    rows: int,
    right: int,
    partial: int,
    stale: int,
    first: datetime,
    last: datetime,
    *values: float | None,
) -> Bucket:
    n = len(CHARTED)
    lowest, highest, final = values[:n], values[n : 2 * n], values[2 * n :]
    return Bucket(rows, right, partial, stale, first, last, lowest, highest, final)
