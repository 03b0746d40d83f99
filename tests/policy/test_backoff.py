"""The waits between attempts to connect."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.policy.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = Backoff((5.0, 10.0, 20.0))


def waits(backoff: Backoff) -> Iterator[tuple[int, float]]:
    """The number and the wait of each of a series of failing attempts."""
    while True:
        yield backoff.attempt, backoff.delay_s
        backoff = backoff.attempted()


def test_the_waits_are_5_10_20_and_then_20_forever() -> None:
    assert list(islice(waits(DEFAULT), 5)) == [(1, 5), (2, 10), (3, 20), (4, 20), (5, 20)]


def test_a_connection_that_lasted_a_minute_restarts_the_sequence() -> None:
    backoff = DEFAULT.attempted().attempted().lost(up_s=60)

    assert (backoff.attempt, backoff.delay_s) == (1, 5)


def test_a_short_lived_connection_continues_the_sequence() -> None:
    backoff = DEFAULT.attempted().lost(up_s=59.9)

    assert (backoff.attempt, backoff.delay_s) == (2, 10)


def test_how_long_is_healthy_can_be_set() -> None:
    backoff = Backoff((1.0, 2.0), healthy_after_s=5).attempted()

    assert backoff.lost(up_s=4.9).attempt == 2
    assert backoff.lost(up_s=5).attempt == 1


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=5).map(tuple),
    st.lists(st.floats(0, 200)),
)
def test_the_number_of_an_attempt_counts_from_the_last_healthy_connection(
    delays: tuple[float, ...], lives: list[float]
) -> None:
    backoff = Backoff(delays)
    since_healthy = 0
    for up_s in lives:
        backoff = backoff.attempted().lost(up_s=up_s)
        since_healthy = 0 if up_s >= 60 else since_healthy + 1
        assert backoff.attempt == since_healthy + 1
        assert backoff.delay_s == (*delays, *[delays[-1]] * since_healthy)[since_healthy]


def test_a_step_leaves_the_earlier_state_as_it_was() -> None:
    backoff = DEFAULT.attempted()
    backoff.attempted()
    backoff.restarted()

    assert (backoff.attempt, backoff.delay_s) == (2, 10)


@pytest.mark.parametrize("delays", [(), (5.0, -1.0), (float("nan"),), (float("inf"),)])
def test_waits_that_are_none_are_refused(delays: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="waits"):
        Backoff(delays)
