"""Poison rows are found in few statements, and only they."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.delivery.batch_size import LARGEST_BATCH, BatchSize


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


def test_a_batch_that_fails_gets_smaller_and_recovers_step_by_step() -> None:
    size = BatchSize()
    for _ in range(4):
        size.failed(size.rows)
    assert size.rows == 62
    size.taken(62)
    assert size.rows == 69
    batches = 1
    while size.rows < LARGEST_BATCH:
        size.taken(size.rows)
        batches += 1
    assert batches < 30


@given(st.integers(1, LARGEST_BATCH))
def test_a_size_that_works_is_found_and_mostly_kept(works: int) -> None:
    """Whatever the server takes at a time."""
    size, rows, failures = BatchSize(), 0, 0
    for _ in range(100):
        if size.rows <= works:
            rows += size.rows
            size.taken(size.rows)
        else:
            failures += 1
            size.failed(size.rows)
    assert failures <= 10 + 50 if works < 8 else failures <= 25
    assert rows >= 100 * works / 3


def test_what_has_worked_is_not_doubted_at_the_first_failure() -> None:
    size = BatchSize()
    size.taken(100)
    size.failed(100)
    assert size.rows == LARGEST_BATCH
    size.failed(100)
    assert size.rows == 50


def test_a_few_rows_that_are_taken_do_not_raise_what_more_of_them_have_set() -> None:
    size = BatchSize()
    size.failed(100)
    for _ in range(20):
        size.taken(1)
    assert size.rows == 50


@pytest.mark.parametrize(("slow", "next_rows"), [(1, 1), (2, 1), (3, 1), (900, 450)])
def test_after_a_slow_batch_half_of_it_is_tried_and_at_least_one_row(
    slow: int, next_rows: int
) -> None:
    size = BatchSize()
    size.failed(slow)
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
    slow.refused(100)
    slow.failed(50)
    slow.taken(25)
    assert slow.rows == 28

    found = BatchSize()
    found.refused(2)
    assert found.refused(1)
    found.taken(1)
    assert found.rows == 2
