"""ib_async's requests awaited from Trio, and left behind where they refuse to end.

trio-asyncio passes a cancellation on to the asyncio task and then waits until that has ended,
without a bound: a task that swallows the cancellation, or that can take no step at all, would hold
up the connection, and with it the whole service, for ever. Here the wait has one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Any

T = TypeVar("T")

ENDING_S = 0.5
"""For a task to end when it is cancelled; one pass of the loop is enough for one that wants to."""

log = structlog.get_logger()


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
