"""Poison rows are found in few statements, and only they."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.policy.batch_size import LARGEST_BATCH, BatchSize


def search(rows: int, poison: set[int]) -> tuple[set[int], int]:
    """What is found, and with how many statements."""
    size, done, statements = BatchSize(), 0, 0
    found = set()
    while done < rows:
        batch = range(done, min(rows, done + size.rows))
        statements += 1
        if poison.isdisjoint(batch):
            size.taken(len(batch))
            done = batch.stop
        elif size.refused(len(batch)):
            found.add(done)
            done += 1
    return found, statements


@pytest.mark.parametrize("place", [0, 1, 499, 500, 998, 999])
def test_one_poison_row_in_a_thousand_costs_about_twenty_statements(place: int) -> None:
    found, statements = search(1_000, {place})
    assert found == {place}
    assert statements <= 22


def test_a_thousand_poison_rows_in_a_row_cost_a_few_statements_each() -> None:
    found, statements = search(1_000, set(range(1_000)))
    assert len(found) == 1_000
    assert statements <= 2_000


@given(st.integers(0, 3_000), st.sets(st.integers(0, 2_999), max_size=30))
def test_exactly_the_poison_rows_are_found(rows: int, places: set[int]) -> None:
    poison = {place for place in places if place < rows}
    found, statements = search(rows, poison)
    assert found == poison
    assert statements <= rows // LARGEST_BATCH + 1 + 22 * len(poison)


def test_a_batch_that_is_too_slow_gets_smaller_and_recovers() -> None:
    size = BatchSize()
    for _ in range(4):
        size.too_slow(size.rows)
    assert size.rows == 62
    for _ in range(5):
        size.taken(size.rows)
    assert size.rows == LARGEST_BATCH


@pytest.mark.parametrize(("slow", "next_rows"), [(1, 1), (2, 1), (3, 1), (900, 450)])
def test_after_a_slow_batch_half_of_it_is_tried_and_at_least_one_row(
    slow: int, next_rows: int
) -> None:
    size = BatchSize()
    size.too_slow(slow)
    assert size.rows == next_rows


def test_what_was_suspect_is_forgotten_with_its_reason() -> None:
    """A search that something else has ended must not go on with the rows behind it."""
    taken_whole = BatchSize()
    taken_whole.refused(4)
    taken_whole.taken(4)
    assert taken_whole.rows == 4
    taken_whole.taken(2)
    assert taken_whole.rows == 8

    slow = BatchSize()
    slow.refused(8)
    slow.too_slow(4)
    slow.taken(2)
    assert slow.rows == 4

    found = BatchSize()
    found.refused(2)
    assert found.refused(1)
    found.taken(1)
    assert found.rows == 2
