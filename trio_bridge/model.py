"""The frozen values that cross the bridge's channels.

Units follow the TWS API: delta per 1-point move of the underlying, gamma per 1 point squared, vega
per volatility point (1 %), theta per calendar day.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from trio_bridge.identity import NO_ID, derived_event_id, new_event_id, recorder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

PORTFOLIO = "PORTFOLIO"
"""`portfolio_greeks.contract` of every row that the bridge makes."""


class ApiMode(StrEnum):
    """Which of Interactive Brokers' two APIs the bridge uses."""

    SOCKET = "SOCKET"
    PORTAL = "PORTAL"

    @classmethod
    def _missing_(cls, value: object) -> ApiMode | None:
        """Accept any case."""
        return cls.__members__.get(str(value).upper())


class Severity(StrEnum):
    """How serious an event is, as stored in `api_logs.status`."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Verdict(StrEnum):
    """What a row is worth, from best to worst (`risk/verdict.py`); the value is what users read."""

    COMPLETE = "complete"
    STALE = "stale"
    PARTIAL = "partial"
    STANDBY = "standby"
    BLIND = "blind"

    @property
    def is_of_a_row(self) -> bool:
        """Whether a row can be worth this: the others say why there is none."""
        return self not in (Verdict.STANDBY, Verdict.BLIND)

    @property
    def rank(self) -> int:
        """0 is the best."""
        return list(Verdict).index(self)


class DataType(IntEnum):
    """How fresh the market data behind a Greek is; a larger value is worse.

    The numbers are the TWS API's own (reqMarketDataType, message 58).
    """

    LIVE = 1
    FROZEN = 2
    DELAYED = 3
    DELAYED_FROZEN = 4

    @property
    def label(self) -> str:
        """The word stored in `portfolio_greeks.data_type`."""
        return self.name.lower().replace("_", "-")


class PositionState(StrEnum):
    """Whether a position counts in the sums, and if not, why; the value is what users read."""

    PRICED = "priced"
    WAITING = "waiting"
    """Requested, and not answered yet."""
    NO_DATA = "no data"
    """Requested; no computation has come, and nothing says why."""
    REFUSED = "refused"
    """The gateway has said why there is no computation."""
    STALE = "stale"
    """The last computation is too old to count."""
    EXPIRED = "expired"
    """Past its last trading instant, whatever the gateway still sends."""
    NO_MULTIPLIER = "no multiplier"
    """What one contract stands for is not known (yet)."""
    UNKNOWN_TYPE = "unknown type"
    """Of a security type that adds nothing."""


class Trouble(NamedTuple):
    """Why a contract has no current Greeks, as far as its gateway tells: WAITING, NO_DATA or
    REFUSED, and the reason with its remedy in words."""

    state: PositionState
    reason: str = ""


OLD: Final = "old"
"""A position that counts, but with old Greeks."""


@dataclass(frozen=True, slots=True)
class Defect:
    """What keeps a row from being complete: a contract, its state in a word, the reason in words.

    The state is a `PositionState`, or OLD. PRICED: it is in delta and gamma, but the reason keeps
    it out of vega and theta.
    """

    contract: str
    state: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.contract} ({': '.join(filter(None, (self.state, self.reason)))})"


class ExchangeRates(NamedTuple):
    """What one unit of each currency is worth in the base currency, by the gateway's ledger.

    A rate that is not known, or no longer, is missing; `base` is then empty if that is unknown.
    """

    base: str = ""
    to_base: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Position:
    """One account's holding of one contract.

    `quantity` is the signed number of contracts or shares. `multiplier` is None while unknown: it
    is never guessed. `underlying` is any key that equal underlyings share; empty if unknown, as is
    `currency`. `magnifier` says in how many parts of the currency an option's prices are quoted
    (100: in cents), None while unknown. `last_trade` is the instant at which an option stops
    trading, None if unknown.
    """

    account: str
    con_id: int
    sec_type: str
    symbol: str
    quantity: float
    multiplier: float | None
    underlying: str = ""
    currency: str = ""
    magnifier: float | None = 1.0
    last_trade: datetime | None = None


class Greeks(NamedTuple):
    """The model Greeks of a single contract unit, as the gateway last sent them.

    None means "not computed". `current_until` is None while something vouches for them (the
    subscription lives, its data farm is well, and it has spoken lately or is being renewed);
    otherwise the monotonic instant (seconds, the clock of `trio.current_time`) at which that ended,
    from which the age counts. `gamma_error` is the most by which the gamma may be wrong
    because its text was rounded.
    """

    delta: float | None
    gamma: float | None
    vega: float | None
    theta: float | None
    underlying_price: float | None
    data_type: DataType = DataType.LIVE
    current_until: float | None = None
    gamma_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One row of `portfolio_greeks`: the net Greeks of all selected accounts at one instant.

    `timestamp` is the slot's instant, `late_s` how many seconds later the Greeks were read: without
    a slot they were read at `timestamp`. Two services that record the same accounts give a slot's
    row the same `event_id`, so that the database takes only one. `account` is `account_of` the
    accounts.

    The four sums cover the same positions; all four are None if some position is unpriced and no
    option is priced. `positions` counts the holdings, `priced` those whose contribution is known:
    the row covers the whole portfolio exactly when both are equal. `verdict` says whether it does,
    and with current data. `greeks_age_s` is the age in seconds of the oldest datum that counted: a
    Greek, or the positions where they are polled (PORTAL); 0 means that all are current, which only
    SOCKET mode can say; None if nothing in the row has an age. `data_type` is the worst data type
    that counted, None if no option counted.

    `currency` is that of vega and theta: the options' own, or the base currency where they have
    several; None without options, or while unknown. Vega and theta are None where a rate that they
    need is missing. `gamma_error` is the most by which gamma may be wrong because the gateway sends
    rounded text.
    """

    timestamp: datetime
    account: str
    delta: float | None
    gamma: float | None
    vega: float | None
    theta: float | None
    underlying_price: float | None
    positions: int
    priced: int
    greeks_age_s: float | None = None
    data_type: DataType | None = None
    verdict: Verdict = Verdict.COMPLETE
    currency: str | None = None
    gamma_error: float | None = None
    contract: str = PORTFOLIO
    late_s: float = 0.0
    recorder: str = field(default_factory=recorder)
    event_id: UUID = NO_ID

    def __post_init__(self) -> None:
        if self.event_id == NO_ID:
            accounts = ",".join(sorted(self.account.split(",")))
            event_id = derived_event_id(self.timestamp, self.contract, accounts)
            object.__setattr__(self, "event_id", event_id)


@dataclass(frozen=True, slots=True)
class AccountSet:
    """One row of `account_sets`: the accounts (separated by commas) that a key in
    `portfolio_greeks.account` stands for.

    A process writes it before its first row with that key; `timestamp` is that row's, so that two
    services that begin in the same slot write it once.
    """

    timestamp: datetime
    key: str
    accounts: str
    event_id: UUID = NO_ID

    def __post_init__(self) -> None:
        if self.event_id == NO_ID:
            object.__setattr__(self, "event_id", derived_event_id(self.timestamp, self.key))


@dataclass(frozen=True, slots=True)
class ApiEvent:
    """One row of `api_logs`: an event (`events.event.Event`) and when it happened.

    `kind` is the stable name of what happened, `numbers` the event's fields that are numbers; both
    are None in rows of an older version, and `numbers` where there are none.
    A lone surrogate (from undecodable bytes in a gateway's text or a file name) can neither be
    stored nor shown: `message` spells it out, `\\udcff`.
    """

    timestamp: datetime
    api_mode: ApiMode
    message: str
    status: Severity = Severity.INFO
    kind: str | None = None
    numbers: Mapping[str, float] | None = None
    recorder: str = field(default_factory=recorder)
    event_id: UUID = NO_ID

    def __post_init__(self) -> None:
        message = self.message.encode("utf-8", "backslashreplace").decode()
        object.__setattr__(self, "message", message)
        if self.event_id == NO_ID:
            object.__setattr__(self, "event_id", new_event_id(self.timestamp))


class RecentRow(NamedTuple):
    """A row in the database: its slot, its accounts by name, separated by commas, and who recorded
    it; both are None where an older version did not say."""

    at: datetime
    accounts: str | None
    recorder: str | None


Item: TypeAlias = Snapshot | AccountSet | ApiEvent
"""A row of one of the tables (`rows.py`), before it is encoded."""


def utc_now() -> datetime:
    """The wall clock; passed in wherever it is read, so that a test can replace it."""
    return datetime.now(UTC)
