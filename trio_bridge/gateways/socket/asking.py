"""Asks, and knows when to stop: a name server for the gateway's addresses, the gateway for whatever
asyncio code answers; and says why there was no answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import trio
import trio_asyncio

from trio_bridge.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

LONGEST_ANSWER_S = 600.0


class Loss:
    """That a connection has ended, and why: the first reason counts."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.error = GatewayError("")

    @property
    def has_come(self) -> bool:
        return self.event.is_set()

    def come(self, error: GatewayError) -> None:
        if not self.has_come:
            self.error = error
            self.event.set()


class Asking:
    """The requests of one connection that its life waits for, one at a time.

    Args:
        loss: ends every request.
        host, port: where the gateway is, for messages.
    """

    def __init__(self, loss: Loss, host: str, port: int) -> None:
        self._loss = loss
        self._host, self._port = host, port
        self._heard_at = -math.inf

    def heard(self) -> None:
        """A part of the answer has come: the patience begins again."""
        self._heard_at = trio.current_time()

    async def ask(self, request: Callable[[], Awaitable[T]], patience_s: float, failure: str) -> T:
        """Run asyncio code until it is done, the connection is lost, or patience is at its end.

        Raises:
            GatewayError: for one of these reasons.
        """
        began = self._heard_at = trio.current_time()
        answers: list[T] = []
        failures: list[GatewayError] = []

        async def fail_when_lost() -> None:
            await self._loss.event.wait()
            failures.append(self._loss.error)
            nursery.cancel_scope.cancel()

        async def fail_when_late() -> None:
            latest = began + LONGEST_ANSWER_S
            # Each part of an answer moves the end, and need wake nobody for that.
            while trio.current_time() < (due := min(self._heard_at + patience_s, latest)):  # noqa: ASYNC110
                await trio.sleep_until(due)
            failures.append(GatewayError(f"{failure} within {patience_s:g} s"))
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_lost)
            nursery.start_soon(fail_when_late)
            try:
                answers.append(await trio_asyncio.aio_as_trio(request)())
            except OSError as error:
                failures.append(explain(error, self._host, self._port))
            nursery.cancel_scope.cancel()
        # The first failure is the cause: giving up on a connection also loses it. And an answer of
        # a connection that ended meanwhile is of no use, because nothing follows it.
        if self._loss.has_come:
            failures.append(self._loss.error)
        if failures:
            raise failures[0]
        return answers[0]


async def resolve(host: str, port: int, *, timeout_s: float) -> list[str]:
    """The addresses behind the host's name, the best one first.

    asyncio would look it up in a thread that nobody can interrupt; Ctrl-C would have to wait for a
    name server that does not answer.

    Raises:
        GatewayError: there is no such host, or nobody says so in time.
    """
    try:
        with trio.fail_after(timeout_s):
            found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    except trio.TooSlowError:
        raise GatewayError(
            f"IB_SOCKET_HOST={host}: no answer from the name server within {timeout_s:g} s",
            setting="IB_SOCKET_HOST",
        ) from None
    except (OSError, UnicodeError) as error:
        raise GatewayError(
            f"IB_SOCKET_HOST={host}: no such host ({error})", setting="IB_SOCKET_HOST"
        ) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def explain(error: OSError, host: str, port: int) -> GatewayError:
    """What stood in the way of a connection, in words for a person."""
    if isinstance(error, ConnectionRefusedError):
        return GatewayError(
            f"connection refused by {host}:{port}",
            remedy="is TWS or IB Gateway up, its API port enabled?",
        )
    return GatewayError(f"no connection to {host}:{port}: {error}")
