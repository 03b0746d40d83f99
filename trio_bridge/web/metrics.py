"""The metrics of one service, in a registry of their own.

Names and units follow https://prometheus.io/docs/practices/naming/. The number of time series is
fixed: no label takes a value from outside. A figure that is not known now is left out: an old Greek
must not look current.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from trio_bridge.delivery.breaker import BreakerState
from trio_bridge.model import DataType, Severity, Verdict
from trio_bridge.policy.schedule import INTERVALS_ALLOWED
from trio_bridge.rows import PORTFOLIO_GREEKS
from trio_bridge.tasks.supervisor import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

    from trio_bridge.status import BridgeStatus, RecorderStatus
    from trio_bridge.web.observer import Observer
    from trio_bridge.web.streams import Hub

LATENESS_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SAFE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)


class Exposition(NamedTuple):
    """What a scraper gets."""

    content: bytes
    content_type: str


class Metrics(Collector):
    """`lateness` and `time_to_safe` are fed by an observer; everything else is read when asked."""

    _observer: Observer
    _hub: Hub

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.lateness = Histogram(
            "trio_bridge_row_lateness_seconds",
            "How long after its slot on the grid a row was taken",
            buckets=LATENESS_BUCKETS_S,
            registry=self.registry,
        )
        self.time_to_safe = Histogram(
            "trio_bridge_row_time_to_safe_seconds",
            "How long after it was taken a row was committed, or fsynced in the spool",
            buckets=SAFE_BUCKETS_S,
            registry=self.registry,
        )
        self._spool_rows: int | None = None
        ProcessCollector(registry=self.registry)

    def watch(self, observer: Observer, hub: Hub) -> None:
        """Call this once."""
        self._observer, self._hub = observer, hub
        self.registry.register(self)

    def expose(self, accept: str, *, spool_rows: int | None) -> Exposition:
        """`accept` is the request's header; `spool_rows` a figure that takes time to get."""
        self._spool_rows = spool_rows
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it asks for an unknown version
            encode, content_type = choose_encoder("")
        return Exposition(encode(self.registry), content_type)

    def describe(self) -> list[Metric]:
        """No names to check: there is one collector in this registry."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read the service's counters at the moment of the scrape."""
        status = self._observer.status()
        yield InfoMetricFamily(
            "trio_bridge",
            "The running program",
            value={"version": status.version, "api_mode": status.api_mode.value},
        )
        yield from self._rows(status)
        yield from _recorder(status.recorder)
        yield from self._storage(status)
        yield from self._gateway(status)
        yield _gauge("http_event_streams", "Open live streams", self._hub.listeners)
        yield _gauge("tasks", "Living Trio tasks", trio.lowlevel.current_statistics().tasks_living)

    def _rows(self, status: BridgeStatus) -> Iterator[Metric]:
        ticker, observer = status.ticker, self._observer
        yield _counter("rows", "Rows taken", ticker.rows)
        yield _counter("rows_safe", "Rows committed, or fsynced in the spool", observer.safe_rows)
        yield _counter(
            "skipped_slots", "Slots of the grid that could not be served in time", ticker.skipped
        )
        yield _gauge("interval_seconds", "The grid of the rows", status.interval_s)
        has_row = status.verdict.is_of_a_row
        yield _gauge(
            "recording",
            f"1 when a row became safe within the last {INTERVALS_ALLOWED} intervals",
            float(has_row),
        )
        yield _one_of("verdict", "What the last row is worth", Verdict, status.verdict)
        events = CounterMetricFamily(
            "trio_bridge_events", "Events for api_logs, by their status", labels=["status"]
        )
        for kind in Severity:
            events.add_metric([kind.value], observer.events[kind])
        yield events
        last = ticker.last
        if last is None:
            return
        yield _gauge(
            "last_row_timestamp_seconds", "When the last row was taken", last.timestamp.timestamp()
        )
        if not has_row:
            return
        if last.data_type is not None:
            yield _one_of(
                "data_type",
                "The least fresh kind of market data that counts",
                [kind.label for kind in DataType],
                last.data_type,
            )
        for name, column in PORTFOLIO_GREEKS.columns.items():
            if column.metric and (value := getattr(last, name)) is not None:
                yield _gauge(column.metric, column.help, value)

    def _storage(self, status: BridgeStatus) -> Iterator[Metric]:
        storage = status.storage
        yield _one_of("breaker_state", "The database circuit", BreakerState, storage.breaker)
        yield _counter("rows_committed", "Rows and events committed", storage.committed)
        yield _counter("rows_spooled", "Rows and events fsynced in the spool", storage.spooled)
        yield _counter(
            "rows_quarantined",
            "Rows and events that the database will never take, set aside",
            storage.quarantined,
        )
        yield _counter(
            "rows_dropped",
            "Rows and events lost: neither database nor disk took them",
            storage.dropped,
        )
        yield _gauge("rows_waiting", "Rows and events that are not safe yet", storage.waiting)
        yield _gauge("spool_bytes", "Bytes in the spool, to be replayed", storage.spool_bytes)
        if self._spool_rows is not None:
            yield _gauge(
                "spool_rows", "Rows and events in the spool, to be replayed", self._spool_rows
            )

    def _gateway(self, status: BridgeStatus) -> Iterator[Metric]:
        gateway, usage = status.gateway, self._observer.service.bridge.usage()
        yield _one_of("connection_state", "The connection to the gateway", State, gateway.state)
        yield _counter("reconnects", "Connections that were lost", gateway.reconnects)
        if gateway.heartbeat_s is not None:
            yield _gauge(
                "heartbeat_latency_seconds",
                "How long the gateway's last sign of life took",
                gateway.heartbeat_s,
            )
        messages = CounterMetricFamily(
            "trio_bridge_gateway_messages",
            "Messages (SOCKET), or requests and their answers (PORTAL)",
            labels=["direction"],
        )
        messages.add_metric(["received"], usage.received)
        messages.add_metric(["sent"], usage.sent)
        yield messages
        if usage.lines_used is not None:
            yield _gauge("market_data_lines", "Market data lines in use", usage.lines_used)
        if usage.lines_budget is not None:
            yield _gauge(
                "market_data_lines_budget",
                "Market data lines that may be used now",
                usage.lines_budget,
            )


def _recorder(recorder: RecorderStatus) -> Iterator[Metric]:
    yield _gauge("standby", "1 while the recording is left to another", float(recorder.resting))
    yield _counter("takeovers", "How often the standby has taken over", recorder.takeovers)
    yield _gauge(
        "other_recorder",
        "1 when another has recorded the same accounts within the last intervals",
        float(recorder.other is not None),
    )


def _counter(name: str, meaning: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"trio_bridge_{name}", meaning, value=value)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"trio_bridge_{name}", meaning, value=value)


def _one_of(name: str, meaning: str, states: Iterable[str], now: str) -> GaugeMetricFamily:
    """1 for the state it is in, 0 for the others."""
    family = GaugeMetricFamily(f"trio_bridge_{name}", meaning, labels=["state"])
    for state in states:
        family.add_metric([state.lower().replace(" ", "_")], float(state == now))
    return family
