"""What is wrong with the gateway now.

Three questions, kept apart: does the gateway answer at all (`Silence`: the supervisor's business),
are its answers of use (`Answers`), and is the brokerage session well (`SessionState`). The client
notes how requests end, the login how the session is; whoever needs to know asks `Health`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.events.portal import (
    AnswersUnusable,
    AnswersUsable,
    RequestsPaused,
    RequestsResumed,
)
from trio_bridge.gateways.portal.pacing import (
    CONTRACT_INFO,
    DEFINITIONS,
    OPEN_SESSION,
    STATUS,
)
from trio_bridge.gateways.readiness import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_bridge.gateways.ongoing import Ongoing
    from trio_bridge.gateways.portal.pacing import EndpointLimit
    from trio_bridge.gateways.readiness import Readiness

LOST_AFTER_FAILURES: Final = 3
LOST_AFTER_S: Final = 5.0
SUSPECT_AFTER_FAILURES: Final = 2

TROUBLE_AFTER_FAILURES: Final = 2
TROUBLE_AFTER_S: Final = 2.0
FORGET_S: Final = 120.0
"""An endpoint that has not failed for so long is no longer asked: there is nothing to ask it."""

UNTOLD: Final = (DEFINITIONS, CONTRACT_INFO, OPEN_SESSION)
"""Endpoints whose failures are told by what they lead to: no multiplier, no brokerage session."""

SESSION_HINTS: Final = frozenset({400, 401})
"""What other endpoints answer when the session is gone ("no bridge", "not authenticated")."""


class NoAnswerError(GatewayError):
    """Nothing came back: refused, reset, TLS failed, or too slow."""


class AnswerError(GatewayError):
    """The gateway lives, but its answer is of no use: an error status, or not what was promised.

    `status` is the HTTP status where that was the trouble.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class LoggedOutError(AnswerError):
    """Nobody is logged in (HTTP 401, or a redirect to the login page)."""


class PausedError(AnswerError):
    """The gateway wants no requests for a while (HTTP 429)."""


class SessionState(Enum):
    """Whether rows can be had, and if not, what for."""

    UNKNOWN = "the session's state is not known yet"
    HEALTHY = "the session is well"
    LOGGED_OUT = "nobody is logged in at the gateway"
    NO_BROKERAGE = "the gateway has no brokerage session"
    COMPETING = "the owner's session elsewhere has the market data"
    UPSTREAM_LOST = "the gateway has lost its connection to Interactive Brokers"


class Silence:
    """Whether the gateway still answers requests, told from how they end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._since = 0.0
        self.last_error = ""

    def note(self, error: GatewayError | None) -> None:
        if not isinstance(error, NoAnswerError):
            self._failures = 0
            return
        if self._failures == 0:
            self._since = self._clock()
        self._failures += 1
        self.last_error = str(error)

    @property
    def is_suspect(self) -> bool:
        """The last requests got no answer: what we know may be about to be old."""
        return self._failures >= SUSPECT_AFTER_FAILURES

    @property
    def is_lost(self) -> bool:
        return self._failures >= LOST_AFTER_FAILURES and self._clock() - self._since >= LOST_AFTER_S


NOT_WELL: Final = {
    SessionState.UNKNOWN: Reason.SESSION_UNKNOWN,
    SessionState.LOGGED_OUT: Reason.LOGGED_OUT,
    SessionState.NO_BROKERAGE: Reason.NO_BROKERAGE,
    SessionState.COMPETING: Reason.COMPETING,
    SessionState.UPSTREAM_LOST: Reason.UPSTREAM_LOST,
}


@dataclass(slots=True)
class _Failing:
    count: int
    since: float
    last: float


class Answers:
    """Whether the answers are of use, endpoint by endpoint: 5xx, HTML, one that hangs.

    A gateway that answers nothing at all is not told here: it is lost.
    """

    def __init__(
        self,
        troubles: Ongoing,
        clock: Callable[[], float],
        *,
        is_paused: Callable[[], bool],
    ) -> None:
        self._troubles = troubles
        self._clock = clock
        self._is_paused = is_paused
        self._failing: dict[str, _Failing] = {}
        self._last_answer = float("-inf")

    def note(self, endpoint: str, error: GatewayError | None) -> None:
        """A request to this endpoint has ended."""
        now = self._clock()
        if isinstance(error, PausedError):
            self._troubles.begin("pause", RequestsPaused(str(error)))
            return
        if not isinstance(error, NoAnswerError):
            self._last_answer = now
        if error is None:
            self._failing.pop(endpoint, None)
            for other in [name for name, one in self._failing.items() if one.last < now - FORGET_S]:
                del self._failing[other]
            if not self._is_paused():
                self._troubles.end("pause", RequestsResumed)
            if not self._failing:
                self._troubles.end("answers", AnswersUsable)
        else:
            self._fail(endpoint, error, now)

    def _fail(self, endpoint: str, error: GatewayError, now: float) -> None:
        failing = self._failing.setdefault(endpoint, _Failing(0, now, now))
        failing.count += 1
        failing.last = now
        lasting = failing.count >= TROUBLE_AFTER_FAILURES and now - failing.since >= TROUBLE_AFTER_S
        # While nothing else is answered either, it is the connection that is in trouble.
        if lasting and self._last_answer >= failing.since:
            self._troubles.begin("answers", AnswersUnusable(str(error)))


class Health:
    """One connection: whether the gateway answers it, and how the brokerage session is.

    Args:
        answers: takes note of each answer, beyond this connection.
        readiness: no row while the gateway is silent, or the session not well.
        stale_s: how long the session counts as well after an answer that said so.
    """

    def __init__(self, answers: Answers, readiness: Readiness, stale_s: float) -> None:
        self.session = SessionState.UNKNOWN
        self.well_at = -math.inf
        """When the session was last called well."""
        self._readiness = readiness
        self._readiness.block(NOT_WELL[self.session])
        self._stale_s = stale_s
        self._silence = Silence(trio.current_time)
        self._answers = answers
        self._silent = trio.Event()
        self._silent_error = NoAnswerError("")
        self._session_changed = trio.Event()
        self._session_doubted = trio.Event()

    def note(self, endpoint: EndpointLimit, error: GatewayError | None) -> None:
        """A request has ended, with an answer of use or with this error."""
        self._silence.note(error)
        if self._silence.is_suspect:
            self._readiness.block(Reason.NO_ANSWER, self._silence.last_error)
        else:
            self._readiness.clear(Reason.NO_ANSWER)
        if isinstance(error, NoAnswerError) and self._silence.is_lost and not self._silent.is_set():
            self._silent_error = error
            self._silent.set()
        if isinstance(error, AnswerError) and error.status in SESSION_HINTS:
            if not self.is_well:
                return  # that is what "not well" means
            if endpoint is not STATUS:
                self.doubt_session()
        # A pause is one for all, whichever request has met it.
        if endpoint not in UNTOLD or isinstance(error, PausedError):
            self._answers.note(endpoint.path, error)

    async def wait_silent(self) -> NoAnswerError:
        """Wait until the gateway no longer answers; return what came of the last request."""
        await self._silent.wait()
        return self._silent_error

    @property
    def is_well(self) -> bool:
        """Whether the session was well when it was last looked at."""
        return self.session is SessionState.HEALTHY

    def note_session(self, state: SessionState) -> None:
        """The session has been found in this state."""
        if state is not self.session:
            for reason in NOT_WELL.values():
                self._readiness.clear(reason)
            if state is not SessionState.HEALTHY:
                self._readiness.block(NOT_WELL[state])
            self.session = state
            self._session_changed.set()
            self._session_changed = trio.Event()

    def note_word(self, state: SessionState, asked_at: float) -> None:
        """An answer has named this state; it was asked for at this instant."""
        if state is SessionState.HEALTHY:
            self.well_at = max(self.well_at, asked_at)
            self._readiness.vouch(
                Reason.SESSION_STALE, at=self.well_at, until=self.well_at + self._stale_s
            )

    async def wait_session(self, *, well: bool) -> None:
        """Wait until the session is (or is no longer) well."""
        while self.is_well is not well:
            await self._session_changed.wait()

    def doubt_session(self) -> None:
        """Something hints that the session has changed: it is looked at without waiting."""
        self._session_doubted.set()

    async def wait_doubted(self) -> None:
        """Wait until something hints that the session has changed."""
        await self._session_doubted.wait()
        self._session_doubted = trio.Event()
