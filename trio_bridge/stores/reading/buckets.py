"""Rows thinned out by the database: a month is half a million, and a chart has some hundred pixels.

The rows are gathered in buckets of equal time, and of each bucket the lowest, the highest and the
last value are kept: a spike of one row is still seen.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, LiteralString, NamedTuple

if TYPE_CHECKING:
    from trio_bridge.stores.database.connection import TrioConnection

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_BUCKETS: LiteralString = """
    WITH bucket AS MATERIALIZED (
        SELECT count(*) AS rows, count(delta) AS right_rows,
               min("timestamp") AS first, max("timestamp") AS last,
               min(delta), max(delta), min(gamma), max(gamma), min(vega), max(vega),
               min(theta), max(theta), min(underlying_price), max(underlying_price)
        FROM portfolio_greeks
        WHERE contract = 'PORTFOLIO' AND "timestamp" >= %(start)s AND "timestamp" < %(end)s
        GROUP BY date_bin(%(width)s, "timestamp", %(epoch)s)
    )
    SELECT bucket.*, delta, gamma, vega, theta, underlying_price
    FROM bucket CROSS JOIN LATERAL (
        SELECT * FROM portfolio_greeks AS row
        WHERE contract = 'PORTFOLIO' AND row."timestamp" = bucket.last ORDER BY id DESC LIMIT 1
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
    """The rows of one stretch of time; the order is the query's. `right_rows` have known Greeks."""

    rows: int
    right_rows: int
    first: datetime
    last: datetime
    delta_min: float | None
    delta_max: float | None
    gamma_min: float | None
    gamma_max: float | None
    vega_min: float | None
    vega_max: float | None
    theta_min: float | None
    theta_max: float | None
    underlying_price_min: float | None
    underlying_price_max: float | None
    delta: float | None
    gamma: float | None
    vega: float | None
    theta: float | None
    underlying_price: float | None


async def read_buckets(connection: TrioConnection, window: Window) -> list[Bucket]:
    """The window's rows, in order. Raises psycopg's errors."""
    parameters = {
        "start": window.start,
        "end": window.end,
        "width": timedelta(seconds=window.bucket_s),
        "epoch": EPOCH,
    }
    cursor = await connection.execute(_BUCKETS, parameters)
    return [Bucket(*row) for row in await cursor.fetchall()]
