"""trio-asyncio runs on this Python, and what that took is no more than was missing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from trio_bridge.asyncio_compat import in_its_loop, tasks_ask_the_thread, trio_asyncio

# isort: split
from _asyncio import _get_running_loop as running_in_the_thread


async def test_tasks_step_time_out_and_are_cancelled() -> None:
    async def in_asyncio() -> str:
        this = asyncio.current_task()
        assert this is not None
        assert this.get_loop() is asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(60), 0.001)
        sleeper = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        sleeper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeper
        return "done"

    async with trio_asyncio.open_loop():
        assert await trio_asyncio.aio_as_trio(in_asyncio)() == "done"


async def test_loops_within_one_another_keep_apart() -> None:
    async def loop_of() -> Any:
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    async with trio_asyncio.open_loop() as outer:
        async with trio_asyncio.open_loop() as inner:
            assert await trio_asyncio.aio_as_trio(loop_of)() is inner
        assert await trio_asyncio.aio_as_trio(loop_of)() is outer
    assert running_in_the_thread() is None


def test_asyncio_itself_works_as_before() -> None:
    async def sleep() -> Any:
        await asyncio.sleep(0.001)
        return asyncio.get_running_loop()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(sleep()) is runner.get_loop()
    assert running_in_the_thread() is None


def test_asyncio_is_given_no_names_that_it_has_not() -> None:
    """Other libraries look for them, too, to find out how this asyncio works."""
    asked = tasks_ask_the_thread()
    assert hasattr(asyncio.events, "BaseDefaultEventLoopPolicy") is not asked
    assert hasattr(asyncio, "AbstractChildWatcher") is not asked
    assert (asyncio.Handle._run.__name__ == "run_in_its_loop") is asked


def test_a_handle_runs_in_its_loop_and_puts_the_one_before_back() -> None:
    seen: list[object] = []
    run = in_its_loop(lambda handle: seen.append(running_in_the_thread()))
    inner, outer = object(), object()

    run(SimpleNamespace(_loop=inner))
    in_its_loop(lambda handle: run(SimpleNamespace(_loop=inner)))(SimpleNamespace(_loop=outer))
    in_its_loop(run)(SimpleNamespace(_loop=inner))

    assert seen == [inner, inner, inner]
    assert running_in_the_thread() is None


def test_a_handle_that_fails_puts_it_back_too() -> None:
    def fail(handle: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_its_loop(fail)(SimpleNamespace(_loop=object()))
    assert running_in_the_thread() is None
