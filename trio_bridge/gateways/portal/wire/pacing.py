"""How often the Client Portal Gateway may be asked: every endpoint we use, and its limit.

Limits: 10 requests a second overall, `/portfolio/accounts` 1 in 5 s, `/tickle` 1 a second,
snapshots 10 a second (https://www.interactivebrokers.com/campus/ibkr-api-page/cpapi-v1/#pacing).
Exceeding them brings HTTP 429 and ten minutes in a penalty box; repeat offenders are blocked for
good.

Behind the gateway are five connections and a queue without end. When what is behind it hangs, the
requests that we have given up stay in that queue, and all of it is sent at once when it returns. So
only a few may be unanswered at any time (`Unanswered`).
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from trio_bridge.gateways.portal.wire.pace_file import PaceFile


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
    stream_mute_s: float = 20.0
    """One that has brought no data for this long after subscribing is dropped."""
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
CONTRACT_RULES: Final = EndpointLimit("GET", "/iserver/contract/{con_id}/info-and-rules")
STREAM: Final = EndpointLimit("GET", "/ws")

OVERALL: Final = Rate(8, 1.0)
"""Two of the gateway's ten a second are left to the owner."""

MARGIN_S: Final = 0.01
"""Added to each period: the gateway's clock may run a little slower, and sums of floats round."""

MOST_UNANSWERED: Final = 4
"""Of the gateway's five connections; the last one is left to the owner."""

TRY_AGAIN_S: Final = (15.0, 15.0, 30.0, 60.0, 60.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0)
"""How long after each further request that was given up the next one is sent: seven in ten minutes,
eleven in seventy. With those before, the queue holds no more than may be sent within a second."""

SNAPSHOT_CON_IDS: Final = 100
DEFINITION_CON_IDS: Final = 100


class Pace:
    """Keeps a rate as the gateway sees it, first come, first served.

    A request counts from before it is sent until a period (and a little) after its answer. It has
    arrived at some time in between; so however the network delays and bunches requests, the gateway
    never sees more than allowed in any period.

    Args:
        rate: the limit.
        file: the same rate, kept by all processes of this user together.
    """

    def __init__(self, rate: Rate, file: PaceFile | None = None) -> None:
        self._rate = rate
        self._file = file
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
            async with nullcontext() if self._file is None else self._file.turn():
                yield
        finally:
            self._under_way -= 1
            self._count(1)
            self._ended.set()
            self._ended = trio.Event()

    def count(self, requests: int) -> None:
        """These, beside those that had a turn, may have arrived just now."""
        self._count(requests)
        if self._file is not None:
            self._file.count(requests)

    def _count(self, requests: int) -> None:
        until = trio.current_time() + self._rate.period_s + MARGIN_S
        self._expiries.extend([until] * requests)

    def _has_room(self) -> bool:
        now = trio.current_time()
        while self._expiries and self._expiries[0] <= now:
            self._expiries.popleft()
        return self._under_way + len(self._expiries) < self._rate.requests


class Progress:
    """How far one request has come, as its client notes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.sent_at = math.inf
        self.is_answered = False
        self.is_over = False
        """Whether the gateway owes nothing for it: answered, or the connection has ended."""

    def sent(self) -> None:
        self.sent_at = trio.current_time()

    def answered(self) -> None:
        self.is_answered = self.is_over = True

    def closed(self) -> None:
        """The gateway has closed the connection without an answer."""
        self.is_over = True


class Unanswered:
    """What the gateway still owes an answer: requests under way, and those that we gave up.

    The gateway goes on with a request whose client has left, so that one counts until a request
    sent after it has been answered: then it has left the gateway's queue, too. While none is, one
    more is tried now and then (`TRY_AGAIN_S`): what was given up is never answered.
    """

    def __init__(self) -> None:
        self._waited_for = 0
        self._given_up: list[Progress] = []
        self._try_at = math.inf
        self._changed = trio.Event()

    async def wait_room(self, endpoint: EndpointLimit, patience_s: float) -> None:
        """Wait until one more may be sent to this endpoint, and count it.

        Raises:
            trio.TooSlowError: there is none after `patience_s`.
        """
        with trio.fail_after(patience_s):
            while not self._has_room(endpoint):
                due = self._try_at if self._try_at > trio.current_time() else math.inf
                with trio.move_on_at(due):
                    await self._changed.wait()
        self._waited_for += 1

    def end(self, request: Progress) -> list[Progress]:
        """A request is no longer waited for; return those given up that have left the queue."""
        self._waited_for -= 1
        left: list[Progress] = []
        if request.is_answered:
            left = [one for one in self._given_up if one.sent_at <= request.sent_at]
            self._given_up = [one for one in self._given_up if one.sent_at > request.sent_at]
        elif request.sent_at < math.inf and not request.is_over:
            self._given_up.append(request)
            excess = len(self._given_up) - MOST_UNANSWERED
            if excess >= 0:
                self._try_at = trio.current_time() + TRY_AGAIN_S[min(excess, len(TRY_AGAIN_S) - 1)]
        self._notify()
        return left

    def forget(self) -> None:
        """The gateway's process has ended, and its queue with it."""
        self._given_up.clear()
        self._notify()

    def _has_room(self, endpoint: EndpointLimit) -> bool:
        given_up = len(self._given_up)
        if endpoint.rate is not None:
            of_its_own = sum(one.path == endpoint.path for one in self._given_up)
            if of_its_own >= endpoint.rate.requests:
                return False
        if given_up + self._waited_for < MOST_UNANSWERED:
            return True
        return (
            given_up >= MOST_UNANSWERED
            and self._waited_for == 0
            and trio.current_time() >= self._try_at
        )

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Pacing:
    """The paces of all endpoints, and the pause that the gateway may have asked for.

    It outlives a connection: a reconnect must not forget what was sent a second ago.

    Args:
        files: finds the file in which other processes of this user keep a rate, too, by the path of
            the endpoint ("" for all of them); None: they don't.
    """

    def __init__(self, files: Callable[[str, Rate], PaceFile] | None = None) -> None:
        self._files = files
        self._overall = self._new_pace("", OVERALL)
        self._single: dict[str, Pace] = {}
        self.unanswered = Unanswered()
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
    async def turn(
        self, endpoint: EndpointLimit, *, patience_s: float = math.inf
    ) -> AsyncGenerator[Progress]:
        """Wait until the endpoint may be asked, and hold the turn during one request.

        Raises:
            trio.TooSlowError: before the turn: for `patience_s` too many have been unanswered.
        """
        await self.unanswered.wait_room(endpoint, patience_s)
        progress = Progress(endpoint.path)
        try:
            async with self._pace(endpoint):
                yield progress
        finally:
            for one in self.unanswered.end(progress):
                self._overall.count(1)
                if one.path in self._single:
                    self._single[one.path].count(1)

    @asynccontextmanager
    async def _pace(self, endpoint: EndpointLimit) -> AsyncGenerator[None]:
        if endpoint.rate is None:
            async with self._overall.turn():
                yield
            return
        if endpoint.path not in self._single:
            self._single[endpoint.path] = self._new_pace(endpoint.path, endpoint.rate)
        async with self._single[endpoint.path].turn(), self._overall.turn():
            yield

    def _new_pace(self, path: str, rate: Rate) -> Pace:
        return Pace(rate, None if self._files is None else self._files(path, rate))
