"""The tables and each of their columns, once.

The class of a table's rows declares its columns: a field's annotation is the Python type that a
reader gets, with a `Column` beside it. Schema, encoding, SELECT lists, export, status JSON, metrics
and the page are made from that. `docs/architecture.md` has the recipe for adding a column.
"""

# No `from __future__ import annotations` here: the annotations are read when this is imported.
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, get_type_hints

from trio_bridge.model import PORTFOLIO, DataType

REAL = "double precision"


@dataclass(frozen=True, slots=True)
class Column:
    """What a column is to the database and to people.

    Attributes:
        type: its type in SQL.
        meaning: what it holds, without the unit; in a metric's help, too.
        unit: the unit, in words; also shown beside the column's chart.
        default: an SQL expression for a value that is missing.
        required: NULL is refused in a table that the bridge makes (an adopted one may hold some).
        chart: the heading of its chart on the page; empty: it is not charted.
        metric: the name of its gauge, after `trio_bridge_`; empty: it has none.
    """

    type: str
    meaning: str
    unit: str = ""
    default: str = ""
    required: bool = False
    chart: str = ""
    metric: str = ""

    @property
    def help(self) -> str:
        """Meaning and unit as one text."""
        return f"{self.meaning}, {self.unit}" if self.unit else self.meaning


_RECORDER = Column("text", "The process that wrote it: host:process-id and four digits")


@dataclass(frozen=True, slots=True)
class PortfolioRow:
    """A row of `portfolio_greeks` as readers get it; see `model.Snapshot`.

    None where the database has NULL: rows of an earlier system lack what it did not know.
    """

    timestamp: Annotated[
        datetime, Column("timestamptz", "The slot's instant", default="now()", required=True)
    ]
    account: Annotated[
        str | None,
        Column("text", "The accounts, separated by commas, or a key of `account_sets`"),
    ]
    delta: Annotated[
        float | None,
        Column(
            REAL,
            "Net delta",
            "per 1-point move of the underlying",
            chart="Delta",
            metric="portfolio_delta",
        ),
    ]
    gamma: Annotated[
        float | None,
        Column(
            REAL,
            "Net gamma",
            "change of delta per 1-point move",
            chart="Gamma",
            metric="portfolio_gamma",
        ),
    ]
    vega: Annotated[
        float | None,
        Column(
            REAL, "Net vega", "per volatility point (1 %)", chart="Vega", metric="portfolio_vega"
        ),
    ]
    theta: Annotated[
        float | None,
        Column(REAL, "Net theta", "per calendar day", chart="Theta", metric="portfolio_theta"),
    ]
    underlying_price: Annotated[
        float | None,
        Column(
            REAL,
            "Price of the underlying with the most option positions",
            chart="Underlying price",
            metric="portfolio_underlying_price",
        ),
    ]
    positions: Annotated[int | None, Column("integer", "Positions held", metric="positions")]
    priced: Annotated[
        int | None,
        Column("integer", "Positions whose contribution is known", metric="positions_priced"),
    ]
    greeks_age_s: Annotated[
        float | None,
        Column(
            REAL,
            "Age of the oldest datum that counts: a Greek, or in PORTAL mode the positions (0 = "
            "all current, in SOCKET mode only: the portal is asked every few seconds)",
            "seconds",
            metric="greeks_age_seconds",
        ),
    ]
    data_type: Annotated[
        str | None, Column("text", "The least fresh kind of market data that counts")
    ]
    currency: Annotated[str | None, Column("text", "The currency of vega and theta")]
    gamma_error: Annotated[
        float | None,
        Column(
            REAL,
            "The most by which gamma may be wrong because the gateway sends rounded text",
            metric="portfolio_gamma_error",
        ),
    ]
    verdict: Annotated[
        str | None, Column("text", "complete, stale or partial: whether the sums can be trusted")
    ]
    late_s: Annotated[
        float | None, Column(REAL, "How long after `timestamp` the Greeks were read", "seconds")
    ]
    recorder: Annotated[str | None, _RECORDER]


@dataclass(frozen=True, slots=True)
class EventRow:
    """A row of `api_logs` as readers get it; see `model.ApiEvent`."""

    timestamp: Annotated[
        datetime, Column("timestamptz", "When it happened", default="now()", required=True)
    ]
    api_mode: Annotated[str | None, Column("text", "SOCKET or PORTAL")]
    status: Annotated[
        str | None, Column("text", "info, warning or error", default="'info'", required=True)
    ]
    message: Annotated[str | None, Column("text", "What happened, in a sentence")]
    kind: Annotated[str | None, Column("text", "What happened: the stable name")]
    recorder: Annotated[str | None, _RECORDER]


@dataclass(frozen=True, slots=True)
class AccountSetRow:
    """A row of `account_sets` as readers get it; see `model.AccountSet`."""

    timestamp: Annotated[
        datetime,
        Column(
            "timestamptz",
            "The first row of a process with this key",
            default="now()",
            required=True,
        ),
    ]
    key: Annotated[str | None, Column("text", "What `portfolio_greeks.account` holds instead")]
    accounts: Annotated[str | None, Column("text", "The accounts, separated by commas")]


@dataclass(frozen=True, slots=True)
class Table:
    """A table that the bridge fills. All have an `id` besides, which only the database gives.

    Attributes:
        columns: name → column, in the order of a new table.
        shown: the columns that readers get, in their order.
        ours: the SQL condition for the rows that are the bridge's.
    """

    name: str
    columns: Mapping[str, Column]
    shown: tuple[str, ...]
    ours: str = "true"

    @property
    def charted(self) -> tuple[str, ...]:
        return tuple(name for name, column in self.columns.items() if column.chart)


def _table(
    name: str,
    row: type,
    *,
    oldest: Iterable[str],
    hidden: Mapping[str, Column],
    ours: str = "true",
) -> Table:
    """`oldest` are the columns that the earliest readers know: they come first in a new table."""
    hints = get_type_hints(row, include_extras=True)
    shown = {column: hint.__metadata__[0] for column, hint in hints.items()}
    known = {**hidden, **shown}
    order = dict.fromkeys((*oldest, *known))
    return Table(name, {column: known[column] for column in order}, tuple(shown), ours)


_EVENT_ID = Column("uuid", "Made by the client; the same row sent twice is stored once")

PORTFOLIO_GREEKS = _table(
    "portfolio_greeks",
    PortfolioRow,
    oldest=("timestamp", "contract", "delta", "gamma", "vega", "theta", "underlying_price"),
    hidden={
        "contract": Column(
            "text", "PORTFOLIO in the bridge's rows", default=f"'{PORTFOLIO}'", required=True
        ),
        "event_id": _EVENT_ID,
    },
    ours=f"contract = '{PORTFOLIO}'",
)
API_LOGS = _table(
    "api_logs",
    EventRow,
    oldest=("timestamp", "api_mode", "message", "status"),
    hidden={"event_id": _EVENT_ID, "numbers": Column("jsonb", "The event's numbers, by name")},
)
ACCOUNT_SETS = _table(
    "account_sets",
    AccountSetRow,
    oldest=("timestamp", "key", "accounts"),
    hidden={"event_id": _EVENT_ID},
)
TABLES: Mapping[str, Table] = {
    table.name: table for table in (PORTFOLIO_GREEKS, API_LOGS, ACCOUNT_SETS)
}


def values_of(item: object, columns: Iterable[str]) -> dict[str, Any]:
    """Columns and their values, as they are stored, of a value whose fields have their names."""
    return {name: _stored(getattr(item, name)) for name in columns}


def _stored(value: object) -> object:
    return value.label if isinstance(value, DataType) else value
