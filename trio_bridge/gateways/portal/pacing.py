"""How often the Client Portal Gateway may be asked: every endpoint we use, and its limit.

Limits: 10 requests a second overall, `/portfolio/accounts` 1 in 5 s, `/tickle` 1 a second,
snapshots 10 a second (https://www.interactivebrokers.com/campus/ibkr-api-page/cpapi-v1/#pacing).
Exceeding them brings HTTP 429 and ten minutes in a penalty box; repeat offenders are blocked for
good.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping


class Timing(NamedTuple):
    """How often things are asked for, and how long they may take, in seconds."""

    tickle_s: float = 60.0
    """The session ends after some minutes without one."""
    tickle_retry_s: float = 15.0
    status_s: float = 5.0
    """Greeks count as no younger than the last status."""
    status_stale_s: float = 60.0
    """After this long (12 checks) without a healthy status the session counts as unhealthy."""
    login_retry_s: float = 30.0
    """While the session is not well: a person may need hours to log in."""
    positions_s: float = 5.0
    """With the gateway's cache invalidated each time: it would hide trades for minutes."""
    accounts_s: float = 60.0
    """How often to look for newly managed accounts."""
    values_s: float = 60.0
    """How often each account's values are asked for; of many accounts, less often (`values_gap_s`):
    two requests each."""
    values_gap_s: float = 2.0
    quotes_s: float = 2.5
    streamed_quotes_s: float = 10.0
    """While the WebSocket brings the changes: only to check that it does."""
    first_quotes_s: float = 1.0
    """Until every option has answered: computed fields come one by one, one per request."""
    definitions_retry_s: float = 60.0
    silent_s: float = 120.0
    """After this long without Greeks an option is asked for again, starting with its definition."""
    stream_tic_s: float = 30.0
    stream_silent_s: float = 60.0
    """A WebSocket that has been silent for this long is dropped; it has a heartbeat."""
    resubscribe_s: float = 480.0
    """A subscription ends by itself after ten minutes."""
    backoff_s: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0, 30.0)
    """The pauses after unusable answers."""
    answer_s: float = 5.0
    slow_answer_s: float = 15.0
    """For what the gateway itself has to ask Interactive Brokers for: positions, the session."""
    settle_s: float = 10.0
    """How long the first rows wait for options that have not answered yet."""
    positions_stale_s: float = 60.0
    """Positions that could not be read again for this long (12 polls) no longer count."""


USUAL_TIMING: Final = Timing()


class Rate(NamedTuple):
    """At most `requests` within any `period_s` seconds."""

    requests: int
    period_s: float


class EndpointLimit(NamedTuple):
    """One request that may be made.

    The client sends nothing else: no order, no logout, and `compete` is always false.
    """

    method: str
    path: str
    rate: Rate | None = None
    body: Mapping[str, bool] = {}
    """A POST always sends a JSON body: without one the gateway may answer 411."""


TICKLE: Final = EndpointLimit("POST", "/tickle", Rate(1, 1.0))
STATUS: Final = EndpointLimit("POST", "/iserver/auth/status")
OPEN_SESSION: Final = EndpointLimit(
    "POST", "/iserver/auth/ssodh/init", body={"publish": True, "compete": False}
)
BROKERAGE_ACCOUNTS: Final = EndpointLimit("GET", "/iserver/accounts")
ACCOUNTS: Final = EndpointLimit("GET", "/portfolio/accounts", Rate(1, 5.0))
SUB_ACCOUNTS: Final = EndpointLimit("GET", "/portfolio/subaccounts", Rate(1, 5.0))
SUB_ACCOUNT_PAGES: Final = EndpointLimit("GET", "/portfolio/subaccounts2")
SUMMARY: Final = EndpointLimit("GET", "/portfolio/{account}/summary")
LEDGER: Final = EndpointLimit("GET", "/portfolio/{account}/ledger")
INVALIDATE: Final = EndpointLimit("POST", "/portfolio/{account}/positions/invalidate")
POSITIONS: Final = EndpointLimit("GET", "/portfolio/{account}/positions/{page}")
SNAPSHOT: Final = EndpointLimit("GET", "/iserver/marketdata/snapshot", Rate(10, 1.0))
DEFINITIONS: Final = EndpointLimit("GET", "/trsrv/secdef")
CONTRACT_INFO: Final = EndpointLimit("GET", "/iserver/contract/{con_id}/info")
STREAM: Final = EndpointLimit("GET", "/ws")

OVERALL: Final = Rate(8, 1.0)
"""Two of the gateway's ten a second are left to the owner."""

MARGIN_S: Final = 0.01
"""Added to each period: the gateway's clock may run a little slower, and sums of floats round."""

SNAPSHOT_CON_IDS: Final = 100
DEFINITION_CON_IDS: Final = 100


class Pace:
    """Keeps a rate as the gateway sees it, first come, first served.

    A request counts from before it is sent until a period (and a little) after its answer. It has
    arrived at some time in between; so however the network delays and bunches requests, the gateway
    never sees more than allowed in any period.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._queue = trio.Lock()
        self._under_way = 0
        self._expiries: deque[float] = deque()
        self._ended = trio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait for a turn and hold it during one request."""
        async with self._queue:
            while not self._has_room():
                with trio.move_on_at(self._expiries[0] if self._expiries else math.inf):
                    await self._ended.wait()
            self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._expiries.append(trio.current_time() + self._rate.period_s + MARGIN_S)
            self._ended.set()
            self._ended = trio.Event()

    def _has_room(self) -> bool:
        now = trio.current_time()
        while self._expiries and self._expiries[0] <= now:
            self._expiries.popleft()
        return self._under_way + len(self._expiries) < self._rate.requests


class Pacing:
    """The paces of all endpoints, and the pause that the gateway may have asked for.

    It outlives a connection: a reconnect must not forget what was sent a second ago.
    """

    def __init__(self) -> None:
        self._overall = Pace(OVERALL)
        self._single: dict[str, Pace] = {}
        self.paused_until = -math.inf
        self.requests = self.answers = 0
        """How many since the start, for the metrics."""

    @property
    def pause_s(self) -> float:
        """Seconds until requests may be sent again; 0 if they may be sent now."""
        return max(0.0, self.paused_until - trio.current_time())

    def pause(self, seconds: float) -> None:
        self.paused_until = max(self.paused_until, trio.current_time() + seconds)

    @asynccontextmanager
    async def turn(self, endpoint: EndpointLimit) -> AsyncGenerator[None]:
        """Wait until the endpoint may be asked, and hold the turn during one request."""
        if endpoint.rate is None:
            async with self._overall.turn():
                yield
            return
        pace = self._single.setdefault(endpoint.path, Pace(endpoint.rate))
        async with pace.turn(), self._overall.turn():
            yield
