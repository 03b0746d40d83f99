"""What is usual between rows, and what is a gap in it."""

from __future__ import annotations

import pytest

from trio_bridge.stores.reading.cadence import usual_spacings


def test_rows_at_todays_interval_are_usual() -> None:
    assert usual_spacings([5.0] * 20, 5.0) == [5.0] * 20


def test_rows_of_a_slower_time_are_usual_too() -> None:
    assert usual_spacings([60.0] * 20, 5.0) == [60.0] * 20


def test_rows_of_a_quicker_time_do_not_make_todays_interval_a_gap() -> None:
    assert usual_spacings([1.0] * 20, 5.0) == [5.0] * 20


@pytest.mark.parametrize("usual", [5.0, 60.0])
def test_a_gap_does_not_change_what_is_usual_at_its_place(usual: float) -> None:
    spacings = [usual] * 10 + [50 * usual] + [usual] * 10

    assert usual_spacings(spacings, 5.0)[10] == usual


def test_an_unsteady_connection_is_not_a_slow_pace() -> None:
    unsteady = [25.0, 60.0, 15.0, 90.0, 30.0, 45.0, 10.0, 70.0, 20.0]

    assert usual_spacings(unsteady, 5.0) == [5.0] * 9


@pytest.mark.parametrize(("others", "usual"), [(2, 60.0), (3, 5.0)])
def test_three_quarters_must_be_regular(others: int, usual: float) -> None:
    spacings = [*[60.0] * (8 - others), *[700.0] * others]
    assert usual_spacings([*spacings[:4], 999.0, *spacings[4:]], 5.0)[4] == usual


def test_of_paces_that_vary_a_little_the_middle_one_is_usual() -> None:
    assert usual_spacings([57, 58, 59, 60, 999, 61, 62, 63, 64], 5.0)[4] == 61


def test_only_four_neighbours_on_each_side_are_asked() -> None:
    side = [60.0, 60.0, 60.0, 700.0]
    spacings = [700.0, 700.0, *side, 999.0, *side, 700.0, 700.0]
    assert usual_spacings(spacings, 5.0)[6] == 60.0


def test_near_the_beginning_what_came_before_has_its_say() -> None:
    assert usual_spacings([60.0, 60.0, 60.0, 999.0, 60.0], 5.0)[3] == 60.0


@pytest.mark.parametrize(("next_pace", "usual"), [(66.0, 60.0), (66.1, 5.0)])
def test_a_tenth_from_the_middle_is_regular_and_more_is_not(next_pace: float, usual: float) -> None:
    spacings = [60.0, 60.0, 60.0, 60.0, 999.0, 60.0, *[next_pace] * 3]
    assert usual_spacings(spacings, 5.0)[4] == usual


def test_a_few_rows_prove_nothing() -> None:
    assert usual_spacings([60.0] * 4, 5.0) == [5.0] * 4
    assert usual_spacings([], 5.0) == []
