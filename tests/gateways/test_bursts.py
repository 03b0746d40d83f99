"""What befalls many contracts at once is one event."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from trio_bridge.events.data import DataRefused
from trio_bridge.gateways.bursts import GATHER_S, LONGEST_GATHER_S, Bursts, named

if TYPE_CHECKING:
    from trio_bridge.events.event import Event

refused = partial(DataRefused, code=321, words="no")


class Bench:
    def __init__(self) -> None:
        self.time = 0.0
        self.events: list[Event] = []
        self.bursts = Bursts(self.events.append, lambda: self.time)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_burst_is_one_event_that_names_five_and_counts_all(bench: Bench) -> None:
    for number in range(300):
        bench.bursts.add(321, number, f"C{number}", refused)
        bench.bursts.look()
        bench.time += 0.05
    assert bench.events == []
    bench.time += GATHER_S
    bench.bursts.look()
    words = "C0, C1, C2, C3, C4 and 295 more"
    assert bench.events == [DataRefused(words, 321, "no", contracts=300)]


def test_each_contract_is_named_once_for_the_same_trouble(bench: Bench) -> None:
    for key in (321, 321, 399):
        bench.bursts.add(key, 7, "C7", refused)
        bench.bursts.look(at_once=True)
    assert [event.numbers["contracts"] for event in bench.events] == [1, 1]


def test_a_burst_without_an_end_is_reported_in_between(bench: Bench) -> None:
    for number in range(int(LONGEST_GATHER_S) + 10):
        bench.bursts.add(321, number, f"C{number}", refused)
        bench.bursts.look()
        bench.time += 1
    assert [event.numbers["contracts"] for event in bench.events] == [LONGEST_GATHER_S + 1]


def test_what_turns_out_to_be_something_else_is_not_said(bench: Bench) -> None:
    bench.bursts.add(10197, 1, "C1", refused)
    bench.bursts.drop(10197)
    bench.bursts.look(at_once=True)
    assert bench.events == []


def test_a_trouble_that_ends_before_it_is_said_is_not_said(bench: Bench) -> None:
    for con_id in (1, 2):
        bench.bursts.add(200, con_id, f"C{con_id}", refused)
    bench.bursts.withdraw(200, 1)
    bench.bursts.withdraw(200, 7)
    bench.bursts.look(at_once=True)
    assert bench.events == [DataRefused("C2", 321, "no", contracts=1)]
    bench.bursts.withdraw(200, 2)
    bench.bursts.add(200, 1, "C1", refused)
    bench.bursts.withdraw(200, 1)
    bench.bursts.look(at_once=True)
    assert len(bench.events) == 1


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("A", "A"),
        ("AB", "A, B"),
        ("ABCDE", "A, B, C, D, E"),
        ("ABCDEF", "A, B, C, D, E and 1 more"),
    ],
)
def test_the_words_for_many(names: str, words: str) -> None:
    assert named(list(names)) == words
