"""trio-asyncio, also on Python 3.14, where its release 0.16 cannot be imported.

Three things it builds on have changed there (python-trio/trio-asyncio, issue 160):

- `asyncio.events.BaseDefaultEventLoopPolicy` has got an underscore;
- `asyncio.AbstractChildWatcher` is gone. Nothing of ours starts processes through asyncio, so an
  empty class does for the import;
- a task, which is written in C, takes a step only if its loop is the one that the thread itself
  calls running. trio-asyncio answers that question in Python, where the task does not ask it: not
  one step would be taken, and a task that cannot step cannot be cancelled either.

Each repair looks for what is missing and not for a version, and stands down where nothing is. Get
`trio_asyncio` from here, and before psycopg and ib_async: it puts functions of its own into
asyncio, and they take asyncio's as they find them.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# isort: split
import _asyncio  # later than asyncio, which otherwise finds it half made, and does without it

__all__ = ["trio_asyncio"]


@contextmanager
def _lent(owner: Any, name: str, substitute: Any) -> Iterator[None]:
    """Give a module what it has not, for a while: others look for these names, too."""
    if hasattr(owner, name):
        yield
        return
    setattr(owner, name, substitute)
    try:
        yield
    finally:
        delattr(owner, name)


def tasks_ask_the_thread() -> bool:
    """Whether a task of this Python steps only in the loop that its thread calls running."""
    loop: Any = object()
    task: Any = object()
    try:
        _asyncio._enter_task(loop, task)
    except RuntimeError:
        return True
    _asyncio._leave_task(loop, task)
    return False


def in_its_loop(run: Callable[[Any], None]) -> Callable[[Any], None]:
    """`Handle._run`, with the handle's loop as the thread's running one meanwhile."""
    get, put = _asyncio._get_running_loop, _asyncio._set_running_loop

    def run_in_its_loop(handle: Any) -> None:
        before, loop = get(), handle._loop
        if before is loop:  # asyncio's own loops see to it; one day trio-asyncio's may, too
            run(handle)
            return
        put(loop)
        try:
            run(handle)
        finally:
            put(before)

    return run_in_its_loop


_policy = getattr(asyncio.events, "_BaseDefaultEventLoopPolicy", None)
with (
    _lent(asyncio.events, "BaseDefaultEventLoopPolicy", _policy),
    _lent(asyncio, "AbstractChildWatcher", object),
):
    import trio_asyncio

if tasks_ask_the_thread():
    asyncio.Handle._run = in_its_loop(asyncio.Handle._run)  # type: ignore[method-assign,assignment]
