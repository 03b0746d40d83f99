"""Requests with a bound: to the name server for the gateway's addresses, to the gateway through
ib_async's asyncio code. Each ends with an answer or with the reason why there was none.

trio-asyncio passes a cancellation on to the asyncio task and then waits for its end without a
bound: a task that swallows the cancellation, or that can take no step at all, would hold up the
connection, and with it the whole service, for ever. Here that wait is bounded (`ENDING_S`).
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, TypeVar

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.logs import Log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Any

T = TypeVar("T")

LONGEST_ANSWER_S = 600.0

ENDING_S = 0.5
"""How long a cancelled task may take to end; one pass of the loop is enough for a good one."""

log = Log()


class Loss:
    """Whether a connection has ended, and why: the first reason counts."""

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
    """The requests that a connection waits for, one at a time.

    Args:
        loss: ends every request.
        host, port: where the gateway is, for messages.
    """

    def __init__(self, loss: Loss, host: str, port: int) -> None:
        self._loss = loss
        self._host, self._port = host, port
        self._heard_at = -math.inf

    def heard(self) -> None:
        """A part of the answer has come: the time allowed begins again."""
        self._heard_at = trio.current_time()

    async def ask(self, request: Callable[[], Awaitable[T]], patience_s: float, failure: str) -> T:
        """Run asyncio code until it is done, the connection is lost, or the time is up.

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
            # Each part of an answer moves the end; no task needs to wake up for that.
            while trio.current_time() < (due := min(self._heard_at + patience_s, latest)):  # noqa: ASYNC110
                await trio.sleep_until(due)
            failures.append(GatewayError(f"{failure} within {patience_s:g} s"))
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_lost)
            nursery.start_soon(fail_when_late)
            try:
                answers.append(await answer_to(request))
            except OSError as error:
                failures.append(explain(error, self._host, self._port))
            nursery.cancel_scope.cancel()
        # The first failure is the cause: giving up on a connection also loses it. An answer from a
        # connection that has just ended is of no use, because nothing follows it.
        if self._loss.has_come:
            failures.append(self._loss.error)
        if failures:
            raise failures[0]
        return answers[0]


async def resolve(host: str, port: int, *, timeout_s: float) -> list[str]:
    """The addresses behind the host's name, the best one first.

    asyncio would look it up in a thread that cannot be interrupted; Ctrl-C would have to wait for a
    name server that does not answer.

    Raises:
        GatewayError: there is no such host, or the name server does not answer in time.
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


async def answer_to(request: Callable[[], Awaitable[T]]) -> T:
    """Run asyncio code in the loop around us, and return or raise what comes of it.

    When we are cancelled, so is it; but it is not waited for longer than `ENDING_S`.
    """

    async def ask() -> T:
        return await request()  # in there: some of ib_async's are no coroutines, and look around

    task = asyncio.get_running_loop().create_task(ask())
    over = _end_of(task)
    try:
        await over.wait()
    except trio.Cancelled:
        await _end([task])
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error from None
        raise
    return task.result()


async def end_all_tasks() -> None:
    """To be called last in `open_loop`, which then finds none that it would have to wait for."""
    tasks = asyncio.all_tasks(asyncio.get_running_loop())
    await _end(tasks)
    for task in tasks:
        if not task.done():
            log.error("an asyncio task does not end although it was cancelled", task=repr(task))
            # Out of sight of the loop, which forgets it; nothing can make it step again.
            asyncio.tasks._unregister_task(task)
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # just said


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    ends = [_end_of(task) for task in tasks if task.cancel()]
    with trio.move_on_after(ENDING_S, shield=True):
        for end in ends:
            await end.wait()


def _end_of(task: asyncio.Task[Any]) -> trio.Event:
    over = trio.Event()
    task.add_done_callback(lambda _: over.set())
    return over
