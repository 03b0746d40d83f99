"""What the real gateway insists on: login, order of calls, pacing, nothing forbidden. Pure.

A forgiving simulator hides bugs. So anything that a read-only bridge must never do is recorded as a
violation, and when the simulator ends it fails loudly with the list.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

OVERALL: Final = (10, 1.0)
"""At most this many requests in this many seconds, over all endpoints."""

SINGLE: Final = {
    "/tickle": (1, 1.0),
    "/portfolio/accounts": (1, 5.0),
    "/portfolio/subaccounts": (1, 5.0),
    "/iserver/marketdata/snapshot": (10, 1.0),
    "/iserver/account/pnl/partitioned": (1, 5.0),
    "/sso/validate": (1, 60.0),
}
ACCOUNT_LISTS: Final = frozenset(
    {"/portfolio/accounts", "/portfolio/subaccounts", "/portfolio/subaccounts2"}
)
"""One of them has to be asked for before anything about an account."""
PENALTY_S: Final = 600.0
SESSION_LIFE_S: Final = 360.0
"""After this long without a tickle the login has expired and a person must log in again."""

FORBIDDEN_PARTS: Final = frozenset({"order", "orders", "reply", "whatif", "logout", "dynaccount"})
FORBIDDEN_PATHS: Final = frozenset({"/iserver/reauthenticate", "/iserver/account"})


class Refusal(NamedTuple):
    """A response other than 200 with the requested document."""

    status: int
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()


class Request(NamedTuple):
    """One request as it arrived; `at` on the simulator's clock, `path` without /v1/api."""

    at: float
    method: str
    path: str
    query: dict[str, str]


@dataclass
class SimulatedLogin:
    """The state of the login and of the brokerage session. Tests set these as they like."""

    logged_in: bool = True
    brokerage: bool = True
    competing: bool = False
    connected: bool = True
    can_open: bool = True
    """Whether `ssodh/init` opens a missing brokerage session."""
    established: bool | None = None
    """Whether the session is ready for requests; None where the gateway does not say so."""
    message: str = ""
    """The gateway's own words in its status."""
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def authenticated(self) -> bool:
        return self.logged_in and self.brokerage

    def log_out(self) -> None:
        """The login has ended: a person must log in again."""
        self.logged_in = self.brokerage = False

    def log_in(self) -> None:
        """A person has logged in with a browser; the brokerage session is not open yet."""
        self.logged_in = True
        self.brokerage = False
        self.token = secrets.token_hex(16)

    def status(self) -> dict[str, Any]:
        """The response of `/iserver/auth/status`."""
        ready = {} if self.established is None else {"established": self.established}
        return ready | {
            "authenticated": self.authenticated,
            "competing": self.competing,
            "connected": self.connected,
            "message": self.message,
            "MAC": "98:F2:B3:00:00:01",
            "serverInfo": {"serverName": "Simulated", "serverVersion": "Build 10.25.0p"},
        }


class Rules:
    """Judges every request, in order of arrival.

    Args:
        login: the session that requests require.
        clock: seconds from any origin.
    """

    def __init__(self, login: SimulatedLogin, clock: Callable[[], float]) -> None:
        self.violations: list[str] = []
        self.requests: deque[Request] = deque(maxlen=200_000)
        self.counts: Counter[str] = Counter()
        """Requests by path."""
        self.wants_bodies = True
        """Respond 411 to a POST without a JSON object, as some gateways do."""
        self.most_in_a_second = 0
        self.sent_in_penalty = 0
        self.out_of_order = 0
        """Requests that were refused because another one should have been made first."""
        self.retry_after: str | None = None
        """The Retry-After header of a 429."""
        self.asked_accounts = False
        """Whether one of `ACCOUNT_LISTS` was called: other portfolio calls need that."""
        self.asked_brokerage_accounts = False
        """Whether `/iserver/accounts` was called: snapshots need that."""
        self._login = login
        self._clock = clock
        self._arrivals: dict[str, deque[float]] = {}
        self._penalty_until = -math.inf
        self._alive_at = clock()

    def penalize(self, seconds: float = PENALTY_S, *, retry_after: int | None = None) -> None:
        """Respond 429 for this long, as if another client had exceeded the limit."""
        self._penalty_until = self._clock() + seconds
        self.retry_after = None if retry_after is None else str(retry_after)

    def forget_calls(self) -> None:
        """A new session begins: the required order of calls starts over."""
        self.asked_accounts = self.asked_brokerage_accounts = False

    def judge(self, method: str, path: str, query: dict[str, str], body: Any) -> Refusal | None:
        """Record a request; return its refusal, or None."""
        now = self._clock()
        self.requests.append(Request(now, method, path, query))
        self.counts[path] += 1
        self._forbid(method, path, body)
        if (refusal := self._pace(path, now)) is not None:
            return refusal
        if method == "POST" and self.wants_bodies and not isinstance(body, dict):
            return Refusal(411, "<html><body>411 Length Required</body></html>")
        if now - self._alive_at > SESSION_LIFE_S:
            self._login.log_out()
        if not self._login.logged_in:
            self.forget_calls()
            return Refusal(401, {"error": "not authenticated", "statusCode": 401})
        if path == "/tickle":
            self._alive_at = now
        return self._order(path)

    def person_logs_in(self) -> None:
        """A person logs in: the session's lifetime starts over."""
        self._login.log_in()
        self._alive_at = self._clock()
        self.forget_calls()

    def violate(self, text: str) -> None:
        """Record something that a read-only bridge must never do."""
        self.violations.append(text)

    def _forbid(self, method: str, path: str, body: Any) -> None:
        parts = set(path.strip("/").split("/"))
        if parts & FORBIDDEN_PARTS or path in FORBIDDEN_PATHS or method not in ("GET", "POST"):
            self.violate(f"{method} {path} must never be sent")
        if isinstance(body, dict) and body.get("compete", False) is not False:
            self.violate(f"{method} {path} with compete {body['compete']!r}")
        if path == "/iserver/auth/ssodh/init" and "compete" not in (body or {}):
            self.violate("ssodh/init without compete false")

    def _pace(self, path: str, now: float) -> Refusal | None:
        busy = self._too_many("", *OVERALL, now)
        self.most_in_a_second = max(self.most_in_a_second, len(self._arrivals[""]))
        if path in SINGLE:
            busy = self._too_many(path, *SINGLE[path], now) or busy
        if busy:
            self.violate(f"{path} broke the pacing")
            self._penalty_until = now + PENALTY_S
            self.retry_after = None
        if now >= self._penalty_until:
            return None
        self.sent_in_penalty += not busy
        headers = () if self.retry_after is None else (("Retry-After", self.retry_after),)
        return Refusal(429, {"error": "Too many requests"}, headers)

    def _too_many(self, key: str, allowed: int, period_s: float, now: float) -> bool:
        arrivals = self._arrivals.setdefault(key, deque())
        while arrivals and now - arrivals[0] >= period_s:
            arrivals.popleft()
        arrivals.append(now)
        return len(arrivals) > allowed

    def _order(self, path: str) -> Refusal | None:
        if path in ACCOUNT_LISTS:
            self.asked_accounts = True
        elif path.startswith("/portfolio/") and not self.asked_accounts:
            self.out_of_order += 1
            return Refusal(400, {"error": "Please query /portfolio/accounts first"})
        if path.startswith("/iserver/") and not path.startswith("/iserver/auth/"):
            if not self._login.brokerage or not self._login.connected:
                return Refusal(400, {"error": "no bridge", "statusCode": 400})
            if path == "/iserver/accounts":
                self.asked_brokerage_accounts = True
            elif path == "/iserver/marketdata/snapshot" and not self.asked_brokerage_accounts:
                self.out_of_order += 1
                return Refusal(400, {"error": "Please query /accounts first"})
        return None
