"""Made-up rows for writer, spool and database, distinguished by a running number."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import orjson

from trio_bridge.model import ApiEvent, ApiMode, DataType, Snapshot
from trio_bridge.stores.record import record_of

if TYPE_CHECKING:
    from trio_bridge.rows import EventRow, PortfolioRow
    from trio_bridge.stores.record import Record

Row = TypeVar("Row", bound="PortfolioRow | EventRow")

START = datetime(2026, 1, 2, 14, 30, tzinfo=UTC)


def snapshot(number: int, at: datetime | None = None) -> Snapshot:
    """A row whose delta is its number; the same number gives the same row."""
    return Snapshot(
        timestamp=at or START + timedelta(seconds=5 * number),
        account="U1",
        delta=float(number),
        gamma=0.5,
        vega=-3.25,
        theta=12.0,
        underlying_price=100.25,
        positions=3,
        priced=3,
        greeks_age_s=0.0,
        data_type=DataType.LIVE,
        event_id=UUID(int=(1 << 100) + number),
    )


def event(text: str, at: datetime | None = None, kind: str | None = None) -> ApiEvent:
    return ApiEvent(at or START, ApiMode.SOCKET, text, kind=kind)


def record(number: int) -> Record:
    return record_of(snapshot(number))


def number_of(row: Record) -> int:
    """The number that `record` or `snapshot` was made from; -1 for an event."""
    return int(orjson.loads(row.row).get("delta", -1))


def row_as_read(row: type[Row], **known: Any) -> Row:
    """A row as readers get it; columns that are not named are NULL."""
    columns: dict[str, Any] = dict.fromkeys(field.name for field in fields(row))
    return row(**columns | known)
