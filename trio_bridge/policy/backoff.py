"""How long to wait before the next attempt to connect: 5, 10, 20, 20, … seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Backoff:
    """Where in the sequence of waits the bridge is. Immutable: each step returns the next state.

    The sequence goes on through connections that die young, so that a gateway which accepts and
    drops at once is not hammered; a connection that stood `healthy_after_s` seconds starts it anew.

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
        """The number of the attempt that comes next, counted from 1."""
        return self.attempts + 1

    @property
    def delay_s(self) -> float:
        """How long to wait before that attempt; the last delay repeats for ever."""
        return self.delays[min(self.attempts, len(self.delays) - 1)]

    def attempted(self) -> Backoff:
        """The state once that attempt has begun, whatever becomes of it."""
        return replace(self, attempts=self.attempts + 1)

    def lost(self, *, up_s: float) -> Backoff:
        """The state after a connection that stood for `up_s` seconds has ended."""
        return self.restarted() if up_s >= self.healthy_after_s else self

    def restarted(self) -> Backoff:
        """The beginning of the sequence."""
        return replace(self, attempts=0)
