"""One event when a trouble starts, one when it ends; silence is a loss, bad answers are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_bridge.events.portal import (
    AnswersUnusable,
    AnswersUsable,
    RequestsPaused,
    RequestsResumed,
)
from trio_bridge.gateways.base import discard_event
from trio_bridge.gateways.ongoing import Ongoing
from trio_bridge.gateways.portal.health import (
    AnswerError,
    Answers,
    Health,
    NoAnswerError,
    PausedError,
)
from trio_bridge.gateways.portal.wire.pacing import STATUS
from trio_bridge.gateways.readiness import Readiness, Reason

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_bridge.errors import GatewayError
    from trio_bridge.events.event import Event


class Bench:
    """Judges the answers on a clock that stands still unless moved."""

    def __init__(self) -> None:
        self.time = 100.0
        self.paused = False
        self.events: list[Event] = []
        self.troubles = Ongoing(self.events.append, lambda: self.time)
        self.answers = Answers(self.troubles, lambda: self.time, is_paused=lambda: self.paused)

    def answer(self, endpoint: str, error: GatewayError | None = None, *, after: float = 1) -> None:
        self.time += after
        self.answers.note(endpoint, error)


@pytest.fixture
def bench() -> Bench:
    return Bench()


BAD = AnswerError("HTTP 503", 503)
NONE = NoAnswerError("no answer within 5 s")


def test_one_bad_answer_is_no_event(bench: Bench) -> None:
    bench.answer("a", BAD)
    bench.answer("a")
    bench.answer("a", BAD, after=60)
    bench.answer("a")
    assert bench.events == []


def test_bad_answers_that_last_are_one_event_however_many_endpoints(bench: Bench) -> None:
    for _ in range(5):
        bench.answer("a", BAD)
        bench.answer("b", BAD)
    assert bench.events == [AnswersUnusable("HTTP 503")]
    bench.answer("a")
    assert len(bench.events) == 1
    bench.answer("b")
    assert bench.events[1:] == [AnswersUsable(9.0)]


def test_an_endpoint_that_is_no_longer_asked_does_not_keep_the_trouble_up(bench: Bench) -> None:
    for _ in range(5):
        bench.answer("a", BAD)
    bench.answer("b", after=60)
    assert len(bench.events) == 1
    bench.answer("b", after=61)
    assert len(bench.events) == 2


def test_many_bad_answers_at_one_instant_are_no_event_yet(bench: Bench) -> None:
    for _ in range(10):
        bench.answer("a", BAD, after=0)
    assert bench.events == []


def test_an_endpoint_that_hangs_while_others_answer_is_a_trouble(bench: Bench) -> None:
    for _ in range(3):
        bench.answer("a", NONE)
        bench.answer("b")
    assert len(bench.events) == 1


def test_a_gateway_that_answers_nothing_is_not_a_bad_answer(bench: Bench) -> None:
    bench.answer("b")
    for _ in range(5):
        bench.answer("a", NONE)
        bench.answer("b", NONE)
    assert bench.events == []


def test_a_pause_is_one_event_and_ends_with_an_answer_after_it(bench: Bench) -> None:
    bench.paused = True
    bench.answer("a", PausedError("HTTP 429"))
    bench.answer("b", PausedError("HTTP 429"))
    bench.answer("c")  # it was under way already
    assert len(bench.events) == 1
    bench.paused = False
    bench.answer("a")
    assert bench.events == [RequestsPaused("HTTP 429"), RequestsResumed(3.0)]


class Silence:
    """The health of a gateway that does not answer, in virtual time."""

    def __init__(self, clock: MockClock) -> None:
        self.clock = clock
        self.readiness = Readiness()
        self.health = Health(
            Answers(Ongoing(discard_event, clock.current_time), clock.current_time, is_paused=bool),
            self.readiness,
            60.0,
        )

    def end(self, *errors: GatewayError | None) -> None:
        for error in errors:
            self.health.note(STATUS, error)

    def is_suspect(self) -> bool:
        return self.readiness.blocks(Reason.NO_ANSWER, self.clock.current_time())

    async def lost(self) -> NoAnswerError | None:
        found: list[NoAnswerError] = []

        async def wait() -> None:
            found.append(await self.health.wait_silent())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return found[0] if found else None


async def test_silence_needs_several_failures_and_some_seconds(mock_clock: MockClock) -> None:
    silence = Silence(mock_clock)
    silence.end(NONE)
    assert not silence.is_suspect()
    silence.end(*[NONE] * 9)
    assert silence.is_suspect()
    assert await silence.lost() is None
    mock_clock.jump(5)
    assert await silence.lost() is None
    silence.end(NONE)
    assert await silence.lost() is NONE


async def test_any_answer_ends_the_silence(mock_clock: MockClock) -> None:
    silence = Silence(mock_clock)
    for answer in (None, BAD, PausedError("x")):
        silence.end(NONE, NONE, NONE, answer)
        assert not silence.is_suspect()
        mock_clock.jump(60)
        silence.end(NONE)
        assert not silence.is_suspect()
        assert await silence.lost() is None


async def test_a_single_failure_long_ago_does_not_count_twice(mock_clock: MockClock) -> None:
    silence = Silence(mock_clock)
    silence.end(NONE)
    mock_clock.jump(600)
    silence.end(NONE)
    assert await silence.lost() is None
