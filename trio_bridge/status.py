"""The state of a running bridge at one instant, for the endpoint and the terminal.

`status_of` reads it from a service, `GET /api/status` sends it as JSON, and `from_json` reads that
JSON on the other side. Times are UTC, durations seconds; None means "not known".
"""

# No `from __future__ import annotations` here: pydantic reads the annotations of these classes.
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import trio
from pydantic import TypeAdapter

from trio_bridge.delivery.breaker import BreakerState
from trio_bridge.model import ApiMode, Defect, Verdict
from trio_bridge.rows import API_LOGS, PORTFOLIO_GREEKS, EventRow, PortfolioRow, values_of
from trio_bridge.stores.database.conninfo import safe_target
from trio_bridge.tasks.supervisor import State
from trio_bridge.version import __version__

if TYPE_CHECKING:
    from trio_bridge.service import Service


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """The connection to the gateway. `heartbeat_s` is how long its last sign of life took."""

    endpoint: str
    state: State
    reason: str
    since: datetime | None
    reconnects: int
    heartbeat_s: float | None


@dataclass(frozen=True, slots=True)
class TickerView:
    """The grid since the start.

    `silent_because`: why there are no rows now. `accounts`: those that the last row covers, by
    name.
    """

    rows: int
    skipped: int
    silent_because: str | None
    last: PortfolioRow | None
    accounts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecorderStatus:
    """Who records. `name`: this process in the column `recorder`. `standby`: whether it is one
    (BRIDGE_STANDBY), `resting`: and leaves the recording to another. `other`: who else has recorded
    the accounts within the last intervals, as far as was seen."""

    name: str
    standby: bool
    resting: bool
    takeovers: int
    other: str | None


@dataclass(frozen=True, slots=True)
class StorageStatus:
    """The rows' way into the database. `waiting` rows are not safe yet."""

    database: str
    breaker: BreakerState
    spool: str
    spool_bytes: int
    waiting: int
    committed: int
    spooled: int
    quarantined: int
    dropped: int


@dataclass(frozen=True, slots=True)
class BridgeStatus:
    """Everything; `events` are the latest ones, oldest first.

    `verdict` is that of the last row that became safe, BLIND when there was none within three
    intervals, STANDBY while it could record but leaves that to another; `defects` says position by
    position why it is not complete.
    """

    version: str
    pid: int
    at: datetime
    started_at: datetime
    api_mode: ApiMode
    interval_s: float
    verdict: Verdict
    defects: tuple[Defect, ...]
    gateway: GatewayStatus
    ticker: TickerView
    recorder: RecorderStatus
    storage: StorageStatus
    events: tuple[EventRow, ...]


_ADAPTER = TypeAdapter(BridgeStatus)


def from_json(text: bytes) -> BridgeStatus:
    """Raises ValueError when it is not the JSON of a status."""
    return _ADAPTER.validate_json(text)


def status_of(service: "Service", verdict: Verdict) -> BridgeStatus:
    """The service as it is now, from memory alone; to be called within Trio."""
    settings, delivery = service.settings, service.delivery
    return BridgeStatus(
        version=__version__,
        pid=service.pid,
        at=service.now(),
        started_at=service.started_at,
        api_mode=settings.ib_api_mode,
        interval_s=settings.poll_interval_s,
        verdict=verdict,
        defects=tuple(service.bridge.defects()) if verdict.is_of_a_row else (),
        gateway=_gateway(service),
        ticker=_ticker(service),
        recorder=_recorder(service),
        storage=StorageStatus(
            database=safe_target(service.conninfo),
            breaker=delivery.breaker_state,
            spool=str(settings.buffer_path),
            spool_bytes=delivery.backlog_bytes,
            waiting=delivery.waiting,
            committed=delivery.status.committed,
            spooled=delivery.status.spooled,
            quarantined=delivery.status.quarantined,
            dropped=delivery.status.dropped + service.outlet.dropped,
        ),
        events=tuple(EventRow(**values_of(event, API_LOGS.shown)) for event in service.events),
    )


def _gateway(service: "Service") -> GatewayStatus:
    about = service.supervisor.status
    return GatewayStatus(
        endpoint=service.bridge.endpoint,
        state=about.state,
        reason=about.reason,
        since=about.since,
        reconnects=about.reconnects,
        heartbeat_s=about.probe_latency_s,
    )


def _recorder(service: "Service") -> RecorderStatus:
    about = service.recorders
    return RecorderStatus(
        name=about.name,
        standby=about.stands_by,
        resting=about.is_resting,
        takeovers=about.takeovers,
        other=about.other(trio.current_time()),
    )


def _ticker(service: "Service") -> TickerView:
    about = service.ticker.status
    last = about.last
    return TickerView(
        rows=about.rows,
        skipped=about.skipped,
        silent_because=about.silent_because,
        last=None if last is None else PortfolioRow(**values_of(last, PORTFOLIO_GREEKS.shown)),
        accounts=about.accounts,
    )
