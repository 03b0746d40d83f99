"""How long to wait before the next attempt to connect: 5, 10, 20, 20, … seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Backoff:
    """A position in the sequence of waits. Immutable: each step returns the next state.

    A connection that lasted `healthy_after_s` seconds restarts the sequence; a shorter one does
    not, so that a gateway which accepts and drops connections is not hammered.

    Raises:
        ValueError: there are no delays, or one of them is negative or not finite.
    """

    delays: tuple[float, ...]
    healthy_after_s: float = 60.0
    attempts: int = 0
    """Attempts made since the sequence began."""

    def __post_init__(self) -> None:
        if not self.delays or not all(0 <= delay < float("inf") for delay in self.delays):
            raise ValueError(f"not a sequence of waits in seconds: {self.delays!r}")

    @property
    def attempt(self) -> int:
        """The number of the next attempt, counted from 1."""
        return self.attempts + 1

    @property
    def delay_s(self) -> float:
        """How long to wait before that attempt; the last delay repeats forever."""
        return self.delays[min(self.attempts, len(self.delays) - 1)]

    def attempted(self) -> Backoff:
        """The state once that attempt has begun, whatever its outcome."""
        return replace(self, attempts=self.attempts + 1)

    def lost(self, *, up_s: float) -> Backoff:
        """The state after the end of a connection that lasted `up_s` seconds."""
        return self.restarted() if up_s >= self.healthy_after_s else self

    def restarted(self) -> Backoff:
        """The start of the sequence."""
        return replace(self, attempts=0)
