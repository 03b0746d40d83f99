"""The circuit breaker in front of the database: which task may use it now."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

FAILURE_THRESHOLD = 3
"""This many failures in a row open the circuit."""


class BreakerState(StrEnum):
    """CLOSED: the writer writes. OPEN: no task does. HALF_OPEN: only the flusher, replaying."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


class Transition(NamedTuple):
    """A change of state and its reason; each becomes a row of `api_logs`."""

    before: BreakerState
    after: BreakerState
    reason: str


class DBCircuitBreaker:
    """CLOSED → (three failures in a row) → OPEN → (probe) → HALF_OPEN → CLOSED, or OPEN again.

    A pure state machine without clock or database; it stays open for the flusher's interval. Each
    method returns the change it caused, or None.
    """

    def __init__(self, *, failure_threshold: int = FAILURE_THRESHOLD) -> None:
        self.failure_threshold = failure_threshold
        self.failures = 0
        """Failures in a row."""
        self._state = BreakerState.CLOSED

    @property
    def state(self) -> BreakerState:
        return self._state

    def record_success(self) -> None:
        """The database answered: earlier failures no longer count."""
        self.failures = 0

    def record_failure(self, reason: str) -> Transition | None:
        """The database did not take rows, for a reason that is not in the rows."""
        self.failures += 1
        if self._state is BreakerState.HALF_OPEN:
            return self._change(BreakerState.OPEN, reason)
        if self._state is BreakerState.CLOSED and self.failures >= self.failure_threshold:
            return self._change(BreakerState.OPEN, f"{self.failures} failures in a row: {reason}")
        return None

    def probe(self, reason: str) -> Transition | None:
        """The flusher is about to try the database; only from OPEN."""
        if self._state is BreakerState.OPEN:
            return self._change(BreakerState.HALF_OPEN, reason)
        return None

    def hold_back(self, reason: str) -> Transition | None:
        """Open without a failure, so that the flusher replays a backlog first; only from CLOSED."""
        if self._state is BreakerState.CLOSED:
            return self._change(BreakerState.OPEN, reason)
        return None

    def close(self, reason: str) -> Transition | None:
        """The flusher has replayed everything; only from HALF_OPEN.

        The caller makes sure that nothing is added to the backlog between its check and this call.
        """
        if self._state is BreakerState.HALF_OPEN:
            self.failures = 0
            return self._change(BreakerState.CLOSED, reason)
        return None

    def _change(self, after: BreakerState, reason: str) -> Transition:
        before, self._state = self._state, after
        return Transition(before, after, reason)
