"""Where people read events, a run of attempts to connect is one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_bridge.events.folding import folded, with_count
from trio_bridge.events.gateway import Connected, HoldEnded, Reconnecting

if TYPE_CHECKING:
    from trio_bridge.events.event import Event


def attempts(*numbers: int) -> list[Event]:
    return [Reconnecting(number, 20.0, "connection refused") for number in numbers]


def test_a_run_of_attempts_is_its_last_one_and_a_count() -> None:
    events = [Connected("x"), *attempts(1, 2, 3), HoldEnded(), *attempts(1), Connected("x")]
    assert folded(events) == [
        (Connected("x"), 1),
        (*attempts(3), 3),
        (HoldEnded(), 1),
        (*attempts(1), 1),
        (Connected("x"), 1),
    ]


def test_other_kinds_are_not_folded() -> None:
    assert folded([HoldEnded(), HoldEnded()]) == [(HoldEnded(), 1), (HoldEnded(), 1)]
    assert folded([]) == []


def test_the_count_is_said_where_there_is_one() -> None:
    assert with_count("reconnect attempt 1", 1) == "reconnect attempt 1"
    assert with_count("reconnect attempt 1234", 1234) == "reconnect attempt 1234 (1,234 times)"
