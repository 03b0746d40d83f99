"""One event when rows become worse, one when they have been well again for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_bridge.events.rows import RowsComplete, RowsPartial, RowsStale
from trio_bridge.model import Defect, PositionState, Verdict
from trio_bridge.policy.verdicts import INTERVALS_HELD, VerdictWatch

if TYPE_CHECKING:
    from trio_bridge.events.event import Event

INTERVAL_S = 5.0
COMPLETE, STALE, PARTIAL = Verdict.COMPLETE, Verdict.STALE, Verdict.PARTIAL


def left_out(name: str) -> Defect:
    return Defect(name, PositionState.NO_DATA)


class Rows:
    """Rows at 5 seconds, one after the other."""

    def __init__(self) -> None:
        self.watch = VerdictWatch(INTERVAL_S)
        self.now = 1000.0

    def take(self, verdict: Verdict, *names: str) -> Event | None:
        self.now += INTERVAL_S
        found = [left_out(name) for name in names or ("SPX 5800 C",)]
        return self.watch.look(verdict, lambda: found, positions=30, now=self.now)

    def take_many(self, count: int, verdict: Verdict, *names: str) -> list[Event]:
        found = (self.take(verdict, *names) for _ in range(count))
        return [event for event in found if event is not None]


def test_complete_rows_are_no_news() -> None:
    assert Rows().take_many(100, COMPLETE) == []


def test_the_first_row_that_lacks_something_is_reported_at_once_and_once() -> None:
    rows = Rows()

    said = rows.take_many(1000, PARTIAL, "A", "B")

    assert said == [RowsPartial(2, 30, ("A (no data)", "B (no data)"))]


def test_the_end_is_reported_when_rows_have_been_complete_for_a_minute() -> None:
    rows = Rows()
    rows.take_many(3, PARTIAL)

    assert rows.take_many(INTERVALS_HELD - 1, COMPLETE) == []
    assert rows.take(COMPLETE) == RowsComplete(3, 2 * INTERVAL_S)
    assert rows.take_many(100, COMPLETE) == []


def test_flicker_is_one_event() -> None:
    rows = Rows()

    said = [
        event for _ in range(500) for event in (rows.take(PARTIAL), rows.take(COMPLETE)) if event
    ]

    assert [type(event) for event in said] == [RowsPartial]


def test_worse_is_reported_at_once_and_better_only_when_it_lasts() -> None:
    rows = Rows()

    assert isinstance(rows.take(STALE), RowsStale)
    assert isinstance(rows.take(PARTIAL), RowsPartial)
    assert rows.take_many(INTERVALS_HELD - 1, STALE) == []
    assert isinstance(rows.take(STALE), RowsStale)
    assert [type(one) for one in rows.take_many(INTERVALS_HELD, COMPLETE)] == [RowsComplete]


def test_other_contracts_are_named_but_not_with_every_row() -> None:
    rows = Rows()
    rows.take(PARTIAL, "A")

    said = rows.take_many(INTERVALS_HELD, PARTIAL, "A", "B")

    assert [event.contracts for event in said if isinstance(event, RowsPartial)] == [
        ("A (no data)", "B (no data)")
    ]


def test_after_a_silence_the_first_row_is_judged_afresh() -> None:
    rows = Rows()
    rows.take(PARTIAL)
    rows.watch.forget()

    assert isinstance(rows.take(PARTIAL), RowsPartial)


def test_the_first_five_are_named_and_the_others_counted() -> None:
    names = tuple(f"C{number}" for number in range(7))
    event = Rows().take(PARTIAL, *names)

    assert isinstance(event, RowsPartial)
    assert event.text.endswith("C4 (no data) and 2 more")
    assert event.numbers == {"missing": 7, "positions": 30}
