"""The pace of messages to a counterpart that counts them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.gateways.socket.market_data.pacer import Pacer


def most_in_any_second(sent: list[tuple[float, int]]) -> int:
    """The largest sum over a closed window of a second; one begins at a message."""
    return max(
        (sum(n for at, n in sent if start <= at <= start + 1) for start, _ in sent), default=0
    )


@given(
    st.integers(3, 60),
    st.floats(0, 0.5),
    st.lists(st.tuples(st.sampled_from([0.0, 0.001, 0.01, 0.1, 2.0]), st.sampled_from([1, 2]))),
    st.floats(0, 1e9),
)
def test_no_second_holds_more_than_the_limit_however_the_calls_come(
    per_s: int, catch_up_s: float, calls: list[tuple[float, int]], now: float
) -> None:
    pacer = Pacer(per_s, largest_step=2, catch_up_s=catch_up_s)
    sent: list[tuple[float, int]] = []
    for wait, messages in calls * 8:
        now += wait
        if now >= pacer.free_at:
            pacer.spend(messages, now)
            sent.append((now, messages))

    assert most_in_any_second(sent) <= per_s


@given(st.integers(10, 60), st.integers(1, 2), st.floats(0, 1e9))
def test_steps_taken_as_soon_as_allowed_reach_the_sustained_rate(
    per_s: int, step: int, start: float
) -> None:
    pacer = Pacer(per_s, largest_step=step)
    now, messages = start, 0
    while now < start + 10:
        pacer.spend(step, now)
        messages += step
        now = max(now, pacer.free_at)

    assert messages >= 10 * (per_s - step) / 1.05


def test_a_step_that_is_late_within_the_allowance_costs_no_throughput() -> None:
    pacer = Pacer(44, largest_step=2)
    now = 0.0
    for _ in range(200):  # 400 messages at 40 a second
        pacer.spend(2, now)
        now = max(now, pacer.free_at + 0.04)

    assert now == pytest.approx(10, abs=0.1)


def test_a_pause_earns_no_burst() -> None:
    pacer = Pacer(44, largest_step=2)
    pacer.spend(2, 0.0)
    now = 1000.0
    burst = 0
    while now >= pacer.free_at:
        pacer.spend(1, now)
        burst += 1

    assert burst == 3


def test_the_first_step_is_free() -> None:
    assert Pacer(10).free_at == -math.inf


def test_a_limit_below_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="pace"):
        Pacer(2, largest_step=2)


def test_steps_are_single_messages_unless_said_otherwise() -> None:
    assert math.isclose(steps_a_second(Pacer(2, catch_up_s=0.0)), 1.0)


def steps_a_second(pacer: Pacer) -> float:
    pacer.spend(1, now=0.0)
    first = pacer.free_at
    pacer.spend(1, now=first)
    return 1 / (pacer.free_at - first)
