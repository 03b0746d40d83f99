"""What is wrong with the gateway now.

Three questions: does the gateway answer at all (`Health`; if not, the connection is lost), are its
answers of use (`Answers`), and is the brokerage session well (`SessionState`)? The client notes how
requests end, the login how the session is.
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
from trio_bridge.gateways.portal.wire.pacing import (
    CONTRACT_INFO,
    DEFINITIONS,
    LEDGER,
    OPEN_SESSION,
    STATUS,
    SUB_ACCOUNT_PAGES,
    SUB_ACCOUNTS,
    SUMMARY,
)
from trio_bridge.gateways.readiness import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_bridge.gateways.ongoing import Ongoing
    from trio_bridge.gateways.portal.wire.pacing import EndpointLimit
    from trio_bridge.gateways.readiness import Readiness

LOST_AFTER_FAILURES: Final = 3
LOST_AFTER_S: Final = 5.0
SUSPECT_AFTER_FAILURES: Final = 2

TROUBLE_AFTER_FAILURES: Final = 2
TROUBLE_AFTER_S: Final = 2.0
FORGET_S: Final = 120.0
"""An endpoint whose last failure is older than this no longer counts: it is not asked any more."""

REPORTED_OTHERWISE: Final = (
    *(DEFINITIONS, CONTRACT_INFO, OPEN_SESSION),
    *(SUB_ACCOUNTS, SUB_ACCOUNT_PAGES, SUMMARY, LEDGER),
)
"""Endpoints whose failures are reported by what they cause: no multiplier, no brokerage session, no
confirmed positions; or that not every login has."""

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
    """The gateway has no login (HTTP 401, or a redirect to the login page)."""


class PausedError(AnswerError):
    """The gateway wants no requests for a while (HTTP 429)."""


class SessionState(Enum):
    """How the brokerage session is; the value is the reason it gives for there being no row."""

    HEALTHY = None
    UNKNOWN = Reason.SESSION_UNKNOWN
    LOGGED_OUT = Reason.LOGGED_OUT
    NO_BROKERAGE = Reason.NO_BROKERAGE
    COMPETING = Reason.COMPETING
    UPSTREAM_LOST = Reason.UPSTREAM_LOST


@dataclass(slots=True)
class _Failing:
    count: int
    since: float
    last: float


class Answers:
    """Whether the answers are of use, endpoint by endpoint and account by account: 5xx, HTML, one
    that hangs.

    A gateway that answers nothing at all is not reported here: the connection to it is lost.
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
        self._last_answer = -math.inf

    def note(self, endpoint: str, error: GatewayError | None) -> None:
        """A request to this endpoint, of this account, has ended."""
        now = self._clock()
        if isinstance(error, PausedError):
            self._troubles.begin("pause", RequestsPaused(str(error)))
            return
        if not isinstance(error, NoAnswerError):
            self._last_answer = now
        if error is not None:
            self._fail(endpoint, error, now)
            return
        self._failing.pop(endpoint, None)
        for other in [name for name, one in self._failing.items() if one.last < now - FORGET_S]:
            del self._failing[other]
        if not self._is_paused():
            self._troubles.end("pause", RequestsResumed)
        if not self._failing:
            self._troubles.end("answers", AnswersUsable)

    def _fail(self, endpoint: str, error: GatewayError, now: float) -> None:
        failing = self._failing.setdefault(endpoint, _Failing(0, now, now))
        failing.count += 1
        failing.last = now
        lasting = failing.count >= TROUBLE_AFTER_FAILURES and now - failing.since >= TROUBLE_AFTER_S
        # While no other endpoint answers either, it is the connection that is in trouble.
        if lasting and self._last_answer >= failing.since:
            self._troubles.begin("answers", AnswersUnusable(str(error)))


class Health:
    """One connection: whether the gateway answers it, and how the brokerage session is.

    Args:
        answers: takes note of each answer, beyond this connection.
        readiness: blocked while the gateway is silent or the session not well.
        stale_s: how long the session counts as well after an answer that said so.
    """

    def __init__(self, answers: Answers, readiness: Readiness, stale_s: float) -> None:
        self.session = SessionState.UNKNOWN
        self.well_at = -math.inf
        """When the session was last called well."""
        self._readiness = readiness
        self._readiness.block(Reason.SESSION_UNKNOWN)
        self._stale_s = stale_s
        self._answers = answers
        self._unanswered = 0
        """How many requests in a row, and since when."""
        self._unanswered_since = math.inf
        self._useless = 0
        """How many answers in a row, over all endpoints, and since when."""
        self._useless_since = math.inf
        self._silent = trio.Event()
        self._silent_error = NoAnswerError("")
        self._session_changed = trio.Event()
        self._session_doubted = trio.Event()

    def note(self, endpoint: EndpointLimit, error: GatewayError | None, account: str = "") -> None:
        """A request, about this account if any, has ended with a usable answer or this error."""
        if isinstance(error, NoAnswerError):
            self._count_silence(error)
        else:
            self._unanswered = 0
            self._readiness.clear(Reason.NO_ANSWER)
        # Neither says anything of the answers.
        if not isinstance(error, PausedError | LoggedOutError):
            self._count_useless(error)
        if isinstance(error, AnswerError) and error.status in SESSION_HINTS:
            if not self.is_well:
                return  # that is what "not well" means
            if endpoint is not STATUS:
                self.doubt_session()
        # A pause concerns every request, whichever has met it.
        if endpoint not in REPORTED_OTHERWISE or isinstance(error, PausedError):
            self._answers.note(endpoint.path.replace("{account}", account), error)

    def _count_silence(self, error: NoAnswerError) -> None:
        now = trio.current_time()
        if self._unanswered == 0:
            self._unanswered_since = now
        self._unanswered += 1
        if self._unanswered >= SUSPECT_AFTER_FAILURES:
            self._readiness.block(Reason.NO_ANSWER, str(error))
        lasting = now - self._unanswered_since >= LOST_AFTER_S
        if self._unanswered >= LOST_AFTER_FAILURES and lasting and not self._silent.is_set():
            self._silent_error = error
            self._silent.set()

    def _count_useless(self, error: GatewayError | None) -> None:
        """A gateway that refuses everything says no more than one that is silent."""
        if error is None:
            self._useless = 0
            self._readiness.clear(Reason.USELESS_ANSWERS)
            return
        now = trio.current_time()
        if self._useless == 0:
            self._useless_since = now
        self._useless += 1
        if self._useless >= LOST_AFTER_FAILURES and now - self._useless_since >= LOST_AFTER_S:
            self._readiness.block(Reason.USELESS_ANSWERS, str(error))

    async def wait_silent(self) -> NoAnswerError:
        """Wait until the gateway no longer answers; return what came of the last request."""
        await self._silent.wait()
        return self._silent_error

    @property
    def is_well(self) -> bool:
        """Whether the session was well when it was last checked."""
        return self.session is SessionState.HEALTHY

    def note_session(self, state: SessionState) -> None:
        """The session has been found in this state."""
        if state is self.session:
            return
        if self.session.value is not None:
            self._readiness.clear(self.session.value)
        if state.value is not None:
            self._readiness.block(state.value)
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
        """Something hints that the session has changed: have it checked at once."""
        self._session_doubted.set()

    async def wait_doubted(self) -> None:
        """Wait until something hints that the session has changed."""
        await self._session_doubted.wait()
        self._session_doubted = trio.Event()
