"""What goes on is said once, when it begins and when it has ended."""

from __future__ import annotations

from functools import partial

import pytest

from trio_bridge.events.data import FarmBack, FarmDown
from trio_bridge.events.event import Event
from trio_bridge.events.portal import CompetingLogin, LoggedOut, LoginBack, StreamLost
from trio_bridge.gateways.ongoing import CALM_S, Ongoing, Recurring


class Bench:
    def __init__(self) -> None:
        self.time = 100.0
        self.events: list[Event] = []
        self.ongoing = Ongoing(self.events.append, lambda: self.time)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_is_said_once_at_its_beginning_and_once_at_its_end(bench: Bench) -> None:
    for reason in ("HTTP 503", "HTTP 502", "HTTP 503"):
        bench.ongoing.begin("x", StreamLost(reason))
    bench.time += 42
    for _ in range(3):
        bench.ongoing.end("x", LoginBack)
    assert bench.events == [StreamLost("HTTP 503"), LoginBack(42.0)]


def test_it_is_said_again_when_it_becomes_another_kind_and_lasts_from_its_first(
    bench: Bench,
) -> None:
    out, competing = LoggedOut("", "url"), CompetingLogin("")
    for event in (out, competing, competing, out):
        bench.ongoing.begin("session", event)
        bench.time += 1
    bench.ongoing.end("session", LoginBack)
    assert bench.events == [out, competing, out, LoginBack(4.0)]


def test_what_is_said_once_stays_said_whatever_kind_it_becomes(bench: Bench) -> None:
    bench.ongoing.once((200, 1), StreamLost("a"))
    bench.ongoing.once((200, 1), CompetingLogin("b"))
    bench.ongoing.once((200, 2), StreamLost("a"))
    assert bench.events == [StreamLost("a"), StreamLost("a")]


def test_what_has_ended_may_begin_again(bench: Bench) -> None:
    for _ in range(2):
        bench.ongoing.begin("x", StreamLost("a"))
        bench.ongoing.end("x", LoginBack)
    assert bench.events == 2 * [StreamLost("a"), LoginBack(0.0)]


def test_what_comes_and_goes_is_said_once_and_then_counted() -> None:
    time, events = 0.0, list[Event]()
    recurring = Recurring(events.append, lambda: time)
    down = FarmDown(2103, "usopt")
    for _ in range(50):
        recurring.comes("usopt", down, partial(FarmBack, "usopt"))
        time += 2
        recurring.goes("usopt")
        time += 2
        recurring.look()
    assert events == [down]
    time += CALM_S - 2
    recurring.look()
    assert events == [down, FarmBack("usopt", 50, 198.0)]
    recurring.comes("usopt", down, partial(FarmBack, "usopt"))
    assert events[2:] == [down], "after a calm it is news again"


def test_what_stays_is_not_reported_as_gone() -> None:
    time, events = 0.0, list[Event]()
    recurring = Recurring(events.append, lambda: time)
    recurring.goes("usopt")
    recurring.comes("usopt", FarmDown(2103, "usopt"), partial(FarmBack, "usopt"))
    time += 10 * CALM_S
    recurring.look()
    assert len(events) == 1
