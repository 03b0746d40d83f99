"""What is wrong with the gateway now. Pure.

Three questions, kept apart: does the gateway answer at all (`Silence`: the supervisor's business),
are its answers of use (`Answers`), and is the brokerage session well (`portal_session`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trio_bridge.events.portal import (
    AnswersUnusable,
    AnswersUsable,
    RequestsPaused,
    RequestsResumed,
)
from trio_bridge.gateways.portal.errors import NoAnswerError, PausedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_bridge.errors import GatewayError
    from trio_bridge.gateways.ongoing import Ongoing

LOST_AFTER_FAILURES: Final = 3
LOST_AFTER_S: Final = 5.0
SUSPECT_AFTER_FAILURES: Final = 2

TROUBLE_AFTER_FAILURES: Final = 2
TROUBLE_AFTER_S: Final = 2.0
FORGET_S: Final = 120.0
"""An endpoint that has not failed for so long is no longer asked: there is nothing to ask it."""


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
