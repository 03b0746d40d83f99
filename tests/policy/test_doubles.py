"""Two services that record one account are detected by their rows; one service is never mistaken
for two."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.policy.doubles import FEWEST_SLOTS, LOOK_BACK_S, doubled_slots, look_back_s
from trio_bridge.policy.schedule import TOLERANCE

START = datetime(2026, 1, 2, 14, 30, tzinfo=UTC)

Rows = list[tuple[datetime, str | None]]


def rows(
    account: str | None = "U1", *, every_s: float = 5.0, late_s: float = 0.0, number: int = 12
) -> Rows:
    return [(START + timedelta(seconds=late_s + slot * every_s), account) for slot in range(number)]


def both(one: Rows, other: Rows) -> Rows:
    return sorted(one + other, key=lambda row: row[0])


@pytest.mark.parametrize("late_s", [0.0, 0.001, 1.2, 2.4, 2.6, 4.9])
def test_two_services_are_seen_wherever_their_grids_lie(late_s: float) -> None:
    found = doubled_slots(both(rows(), rows(late_s=late_s)), 5.0)
    assert found is not None
    assert found.accounts == ("U1",)
    assert 11 <= found.slots <= 12


@pytest.mark.parametrize("every_s", [1.0, 4.0, 7.0, 10.0, 20.0])
def test_two_services_of_different_intervals_are_seen(every_s: float) -> None:
    other = rows(every_s=every_s, number=int(60 / every_s))
    assert doubled_slots(both(rows(), other), 5.0) is not None


def test_two_services_with_an_account_in_common_are_seen_by_that() -> None:
    found = doubled_slots(both(rows("U1,U2"), rows("U2,U3", late_s=0.01)), 5.0)
    assert found == (("U2",), 12)


def test_two_services_with_accounts_of_their_own_may_share_a_database() -> None:
    assert doubled_slots(both(rows("U1"), rows("U2")), 5.0) is None


def test_what_others_do_to_each_other_is_not_ours() -> None:
    doubled = both(rows("U1"), rows("U1", late_s=0.01))
    assert doubled_slots(doubled, 5.0, ours=["U2"]) is None
    assert doubled_slots(doubled, 5.0, ours=["U1"]) is not None


def test_rows_of_an_earlier_system_name_no_account() -> None:
    assert doubled_slots(both(rows(None), rows(None)), 5.0) is None
    assert doubled_slots(both(rows(""), rows("")), 5.0) is None


def test_a_service_that_takes_over_leaves_no_more_than_one_slot_with_two_rows() -> None:
    before, after = rows(every_s=60.0, number=3), rows(every_s=60.0, number=4, late_s=0.02)[2:]
    assert doubled_slots(both(before, after), 60.0) is None
    assert doubled_slots(both(before, after + rows(late_s=0.02, number=1)), 60.0) is not None


def test_a_service_as_late_as_it_may_be_in_every_other_slot_is_one() -> None:
    late = both(rows(every_s=10.0, late_s=2.5), rows(every_s=10.0, late_s=5.0))
    assert doubled_slots(late, 5.0) is None


@pytest.mark.parametrize("interval_s", [5.0, 9.0, 10.0, 12.0, 15.0, 60.0, 3600.0])
@pytest.mark.parametrize("later", [0, 1, 3])
def test_rows_of_a_shorter_interval_until_now_are_of_one_service(
    interval_s: float, later: int
) -> None:
    before = [
        (at + timedelta(milliseconds=number % 3), account)
        for number, (at, account) in enumerate(rows(number=36))
    ]
    after = rows(every_s=interval_s, late_s=36 * 5.0 + interval_s, number=later)
    assert doubled_slots(before + after, interval_s) is None


def test_two_services_of_a_shorter_interval_until_now_are_seen() -> None:
    found = doubled_slots(both(rows(), rows(late_s=0.01)), 60.0)
    assert found == (("U1",), 12)


def test_no_rows_are_no_doubles() -> None:
    assert doubled_slots([], 5.0) is None


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, TOLERANCE)), max_size=60),
    st.sampled_from([1.0, 5.0, 60.0]),
)
def test_one_service_is_never_mistaken_for_two(
    slots: list[tuple[bool, float]], interval_s: float
) -> None:
    """Whichever slots it skips, and however late the others are."""
    served = [
        (START + timedelta(seconds=(slot + late) * interval_s), "U1")
        for slot, (is_served, late) in enumerate(slots)
        if is_served
    ]
    assert doubled_slots(served, interval_s) is None


def test_a_few_rows_too_close_on_a_busy_machine_are_no_second_service() -> None:
    busy = rows(every_s=0.1, number=600)
    for slot in range(0, 600, 50):
        busy[slot] = (busy[slot][0] + timedelta(seconds=0.06), "U1")
    assert doubled_slots(busy, 0.1) is None


def test_the_slots_reported_are_those_of_the_worst_account() -> None:
    found = doubled_slots(both(rows("U1,U2"), rows("U1,U2", late_s=0.01, number=9)), 5.0)
    assert found == (("U1", "U2"), 9)
    found = doubled_slots(both(rows("U1,U2") + rows("U1", late_s=0.01), rows("U2", number=3)), 5.0)
    assert found == (("U1", "U2"), 12)


def test_a_second_service_on_a_seventh_of_the_slots_is_seen() -> None:
    """A service that starts now and then, or records every 35 s."""
    assert doubled_slots(both(rows(number=84), rows(every_s=35.0, number=12)), 5.0) is not None


def test_enough_slots_are_judged() -> None:
    assert look_back_s(5.0) == LOOK_BACK_S
    assert look_back_s(3600.0) == FEWEST_SLOTS * 3600.0
    assert timedelta(seconds=look_back_s(1e308)) == timedelta(days=7)
