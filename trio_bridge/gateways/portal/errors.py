"""How a request to the Client Portal Gateway can fail."""

from __future__ import annotations

from trio_bridge.errors import GatewayError


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
