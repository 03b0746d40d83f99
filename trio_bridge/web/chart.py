"""A chart's data for the page: columns of numbers, times as seconds since 1970; and the facts that
the page shares with the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_bridge.events.folding import FOLDED
from trio_bridge.model import Verdict
from trio_bridge.policy.schedule import INTERVALS_ALLOWED
from trio_bridge.rows import API_LOGS, PORTFOLIO_GREEKS, values_of
from trio_bridge.stores.reading.buckets import CHARTED
from trio_bridge.stores.reading.gaps import (
    CAUSES,
    IN_THE_DARK_S,
    MISSING,
    NO_REASONS,
    REASONS_PER_GAP,
)
from trio_bridge.web.streams import STATUS_EVERY_S

if TYPE_CHECKING:
    from datetime import datetime

    from trio_bridge.model import ApiEvent
    from trio_bridge.stores.reading.buckets import Window
    from trio_bridge.stores.reading.gaps import Gap
    from trio_bridge.stores.reading.history import Chart
    from trio_bridge.stores.reading.landing import LandedEvent

BLIND_S = 3 * STATUS_EVERY_S
"""Without a message for this long the page says that it knows nothing of now."""

PRICES = ("underlying_price",)
"""Charts of a level, where nobody expects zero; the others are sums of gains and losses."""

PAGE_PATIENCE_S = 20.0
"""How long the page waits for an answer: more than the history may take (ANSWER_TIMEOUT_S)."""


def page_facts(interval_s: float) -> dict[str, Any]:
    """What the server and the page's scripts must agree on."""
    columns = PORTFOLIO_GREEKS.columns
    return {
        "series": [
            {
                "name": name,
                "title": columns[name].chart,
                "unit": columns[name].unit,
                "is_price": name in PRICES,
            }
            for name in PORTFOLIO_GREEKS.charted
        ],
        "verdicts": list(Verdict),  # from best to worst
        "interval_s": interval_s,
        "intervals_allowed": INTERVALS_ALLOWED,
        "missing": MISSING,
        "in_the_dark_s": IN_THE_DARK_S,
        "reasons_per_gap": REASONS_PER_GAP,
        "no_reasons": NO_REASONS,
        "causes": CAUSES,
        "folded": FOLDED,
        "blind_s": BLIND_S,
        "patience_s": PAGE_PATIENCE_S,
    }


def chart_json(chart: Chart) -> dict[str, Any]:
    """`t` holds the time of each bucket's last row; a series its last value, and its lowest and
    highest where a bucket may hold several rows."""
    window, buckets = chart.window, chart.buckets
    thinned = window.bucket_s > window.interval_s
    series = {}
    for number, name in enumerate(CHARTED):
        series[name] = {"last": [bucket.final[number] for bucket in buckets]}
        if thinned:
            series[name]["min"] = [bucket.lowest[number] for bucket in buckets]
            series[name]["max"] = [bucket.highest[number] for bucket in buckets]
    return {
        "from": seconds(window.start),
        "to": seconds(window.end),
        "interval_s": window.interval_s,
        "bucket_s": window.bucket_s,
        "t": [seconds(bucket.last) for bucket in buckets],
        "verdict": [bucket.verdict for bucket in buckets],
        "series": series,
        "gaps": [_gap(gap, window) for gap in chart.gaps],
        "coverage": _coverage(chart),
    }


def event_json(event: LandedEvent | ApiEvent) -> dict[str, Any]:
    return values_of(event, API_LOGS.shown)


def seconds(at: datetime) -> float:
    return round(at.timestamp(), 3)


def _gap(gap: Gap, window: Window) -> dict[str, Any]:
    return {
        "from": seconds(gap.start),
        "to": seconds(gap.end),
        "open": gap.is_open,
        "slots": gap.slots_within(window),
        "reasons": [event_json(event) for event in gap.reasons],
    }


def _coverage(chart: Chart) -> dict[str, Any]:
    """How many slots of the window, since the first row ever, have a row with known Greeks, and how
    many a complete one."""
    taken = sum(bucket.rows for bucket in chart.buckets)
    missing = sum(gap.slots_within(chart.window) for gap in chart.gaps)
    return {
        "since": None if chart.since is None else seconds(chart.since),
        "rows": sum(bucket.right_rows for bucket in chart.buckets),
        "complete": sum(bucket.complete_rows for bucket in chart.buckets),
        "slots": taken + missing,
    }
