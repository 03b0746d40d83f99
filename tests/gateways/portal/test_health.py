"""One event when a trouble starts, one when it ends; silence is a loss, bad answers are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trio_bridge.events.portal import (
    AnswersUnusable,
    AnswersUsable,
    RequestsPaused,
    RequestsResumed,
)
from trio_bridge.gateways.ongoing import Ongoing
from trio_bridge.gateways.portal.health import (
    AnswerError,
    Answers,
    NoAnswerError,
    PausedError,
    Silence,
)

if TYPE_CHECKING:
    from trio_bridge.errors import GatewayError
    from trio_bridge.events.event import Event


class Bench:
    """The three judges on one clock that stands still unless moved."""

    def __init__(self) -> None:
        self.time = 100.0
        self.paused = False
        self.events: list[Event] = []
        self.troubles = Ongoing(self.events.append, lambda: self.time)
        self.answers = Answers(self.troubles, lambda: self.time, is_paused=lambda: self.paused)
        self.silence = Silence(lambda: self.time)

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


def test_silence_needs_several_failures_and_some_seconds(bench: Bench) -> None:
    for _ in range(10):
        bench.silence.note(NONE)
    at_once = (bench.silence.is_suspect, bench.silence.is_lost)
    bench.time += 5
    bench.silence.note(NONE)
    assert at_once == (True, False)
    assert bench.silence.is_lost
    assert bench.silence.last_error == "no answer within 5 s"


def test_any_answer_ends_the_silence(bench: Bench) -> None:
    for answer in (None, BAD, PausedError("x")):
        for _ in range(3):
            bench.silence.note(NONE)
        bench.silence.note(answer)
        assert not bench.silence.is_suspect
        bench.time += 60
        assert not bench.silence.is_lost


def test_a_single_failure_long_ago_does_not_count_twice(bench: Bench) -> None:
    bench.silence.note(NONE)
    bench.time += 600
    bench.silence.note(NONE)
    assert not bench.silence.is_lost
