"""The pace of messages to a gateway that counts them. Pure."""

from __future__ import annotations

import math


class Pacer:
    """Spreads steps of a few messages evenly, so that no second holds more than `per_s` messages.

    The generic cell rate algorithm: a step may be taken while the messages so far, at the sustained
    rate, run at most `catch_up_s` ahead of the clock. Any second then holds at most
    `rate * (1 + catch_up_s)` messages and one step, from which the rate follows. There is no
    credit for idle time beyond `catch_up_s`, hence no burst after a pause.

    Args:
        per_s: the most messages in any second, its ends included.
        largest_step: the most messages in one step.
        catch_up_s: how late a step may be taken without losing throughput.

    Raises:
        ValueError: `per_s` leaves nothing beyond one step.
    """

    def __init__(self, per_s: int, *, largest_step: int = 1, catch_up_s: float = 0.05) -> None:
        if per_s <= largest_step:
            raise ValueError(f"{per_s} messages a second cannot pace steps of {largest_step}")
        self.rate = (per_s - largest_step) / (1 + catch_up_s)
        """Messages a second, sustained."""
        self._catch_up_s = catch_up_s
        self._paid_until = -math.inf

    @property
    def free_at(self) -> float:
        """When the next step may be taken, on the caller's clock (seconds); may have passed."""
        return self._paid_until - self._catch_up_s

    def spend(self, messages: int, now: float) -> None:
        """A step of this many messages is taken now."""
        self._paid_until = max(self._paid_until, now) + messages / self.rate
