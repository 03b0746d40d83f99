"""Whatever the network does to our requests, the gateway never sees more of them than it allows."""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

import pytest
import trio

from trio_bridge.gateways.portal.wire import pacing as portal_pacing
from trio_bridge.gateways.portal.wire.pacing import (
    ACCOUNTS,
    MARGIN_S,
    OPEN_SESSION,
    OVERALL,
    SNAPSHOT,
    STATUS,
    TICKLE,
    EndpointLimit,
    Pace,
    Pacing,
    Rate,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


def most_within(arrivals: list[float], period_s: float) -> int:
    """The largest number of arrivals in any half-open window of that length."""
    most = 0
    window: deque[float] = deque()
    for arrival in sorted(arrivals):
        window.append(arrival)
        while arrival - window[0] >= period_s:
            window.popleft()
        most = max(most, len(window))
    return most


@pytest.mark.parametrize("seed", range(5))
async def test_no_window_holds_too_many_however_requests_are_delayed(
    autojump_clock: MockClock, seed: int
) -> None:
    rng = random.Random(seed)
    pace = Pace(Rate(8, 1.0))
    arrivals: list[float] = []

    async def request() -> None:
        await trio.sleep(rng.uniform(0, 20))
        async with pace.turn():
            # On its way for a while, there at some instant, answered later.
            await trio.sleep(rng.choice((0.0, 0.01, rng.uniform(0, 3))))
            arrivals.append(trio.current_time())
            await trio.sleep(rng.choice((0.0, 0.01, rng.uniform(0, 3))))

    async with trio.open_nursery() as nursery:
        for _ in range(150):
            nursery.start_soon(request)
    assert len(arrivals) == 150
    assert most_within(arrivals, 1.0) <= 8
    # Nor by a clock that is set back a little meanwhile, as clocks are all the time.
    assert most_within([0.995 * arrival for arrival in arrivals], 1.0) <= 8


async def test_quick_answers_let_the_whole_rate_through(autojump_clock: MockClock) -> None:
    pace = Pace(Rate(8, 1.0))
    for _ in range(81):
        async with pace.turn():
            pass
    assert trio.current_time() == pytest.approx(10 * (1.0 + MARGIN_S))


async def test_turns_are_taken_in_order(autojump_clock: MockClock) -> None:
    pace = Pace(Rate(1, 1.0))
    order: list[int] = []

    async def request(number: int) -> None:
        await trio.sleep(number / 100)
        async with pace.turn():
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(request, number)
    assert order == list(range(10))


async def test_a_request_given_up_gives_its_turn_back(autojump_clock: MockClock) -> None:
    pace = Pace(Rate(1, 1.0))
    with trio.move_on_after(5):
        async with pace.turn():
            await trio.sleep_forever()
    with trio.move_on_after(0.5) as waiting:
        async with pace.turn():
            pass
    assert waiting.cancelled_caught
    async with pace.turn():
        assert trio.current_time() == pytest.approx(6.0 + MARGIN_S)


async def test_an_endpoints_own_limit_holds_beside_the_overall_one(
    autojump_clock: MockClock,
) -> None:
    pacing = Pacing()
    times: dict[str, list[float]] = {ACCOUNTS.path: [], TICKLE.path: [], STATUS.path: []}

    async def ask(endpoint: EndpointLimit, number: int) -> None:
        for _ in range(number):
            async with pacing.turn(endpoint):
                times[endpoint.path].append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, ACCOUNTS, 3)
        nursery.start_soon(ask, TICKLE, 5)
        nursery.start_soon(ask, STATUS, 40)
    assert most_within(times[ACCOUNTS.path], 5.0) == 1
    assert most_within(times[TICKLE.path], 1.0) == 1
    assert most_within([at for one in times.values() for at in one], 1.0) <= OVERALL.requests


async def test_a_pause_lasts_as_long_as_the_longest_asked_for(autojump_clock: MockClock) -> None:
    pacing = Pacing()
    assert pacing.pause_s == 0
    pacing.pause(60)
    pacing.pause(5)
    assert pacing.pause_s == 60
    await trio.sleep(59)
    assert pacing.pause_s == 1
    await trio.sleep(5)
    assert pacing.pause_s == 0


def test_the_limits_are_the_gateways() -> None:
    assert OVERALL.requests <= 10
    assert OVERALL.period_s == 1.0
    assert Rate(1, 1.0) == TICKLE.rate
    assert Rate(1, 5.0) == ACCOUNTS.rate
    assert Rate(10, 1.0) == SNAPSHOT.rate
    assert portal_pacing.SNAPSHOT_CON_IDS <= 100


def test_what_may_be_asked_holds_no_order_no_logout_and_never_competes() -> None:
    endpoints = [one for one in vars(portal_pacing).values() if isinstance(one, EndpointLimit)]
    assert len(endpoints) == 16
    for endpoint in endpoints:
        assert endpoint.method in ("GET", "POST")
        assert "order" not in endpoint.path
        assert "logout" not in endpoint.path
        assert "reauthenticate" not in endpoint.path
    assert OPEN_SESSION.body == {"publish": True, "compete": False}
