"""A chart's data as the page gets it: columns of numbers, times as seconds since 1970."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_bridge.stores.reading.gaps import NO_REASONS

if TYPE_CHECKING:
    from datetime import datetime

    from trio_bridge.model import ApiEvent
    from trio_bridge.stores.reading.buckets import Window
    from trio_bridge.stores.reading.gaps import Gap
    from trio_bridge.stores.reading.history import Chart
    from trio_bridge.stores.reading.landing import LandedEvent

SERIES = ("delta", "gamma", "vega", "theta", "underlying_price")


def chart_json(chart: Chart) -> dict[str, Any]:
    """`t` holds the time of each bucket's last row; a series its last value, and its lowest and
    highest where a bucket may hold several rows."""
    window, buckets = chart.window, chart.buckets
    thinned = window.bucket_s > window.interval_s
    series = {}
    for name in SERIES:
        columns = {"last": [getattr(bucket, name) for bucket in buckets]}
        if thinned:
            columns["min"] = [getattr(bucket, f"{name}_min") for bucket in buckets]
            columns["max"] = [getattr(bucket, f"{name}_max") for bucket in buckets]
        series[name] = columns
    return {
        "from": seconds(window.start),
        "to": seconds(window.end),
        "interval_s": window.interval_s,
        "bucket_s": window.bucket_s,
        "t": [seconds(bucket.last) for bucket in buckets],
        "series": series,
        "gaps": [_gap(gap, window) for gap in chart.gaps],
        "no_reasons": NO_REASONS,
        "coverage": _coverage(chart),
    }


def event_json(event: LandedEvent | ApiEvent) -> dict[str, Any]:
    return {
        "timestamp": event.timestamp,
        "api_mode": event.api_mode,
        "status": event.status,
        "message": event.message,
        "kind": event.kind,
    }


def seconds(at: datetime) -> float:
    return round(at.timestamp(), 3)


def _gap(gap: Gap, window: Window) -> dict[str, Any]:
    return {
        "from": seconds(gap.start),
        "to": seconds(gap.end),
        "open": gap.is_open,
        "slots": gap.slots_within(window),
        "usual_s": gap.usual_s,
        "reasons": [event_json(event) for event in gap.reasons],
    }


def _coverage(chart: Chart) -> dict[str, Any]:
    """How many slots of the window, from the first row ever on, have a row with known Greeks.

    `slowest_s`: rows that came so seldom, but regularly, count as full coverage of their time.
    """
    taken = sum(bucket.rows for bucket in chart.buckets)
    missing = sum(gap.slots_within(chart.window) for gap in chart.gaps)
    return {
        "since": None if chart.since is None else seconds(chart.since),
        "rows": sum(bucket.right_rows for bucket in chart.buckets),
        "slots": taken + missing,
        "slowest_s": chart.slowest_s,
    }
