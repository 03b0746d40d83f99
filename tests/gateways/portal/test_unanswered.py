"""Upstream hangs behind the gateway's five connections and its endless queue: we leave so little in
it that its return is no burst."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.portal.support import supervised_rig
from tests.gateways.portal.wire.test_pacing import most_within
from trio_bridge.gateways.portal.wire.pacing import (
    ACCOUNTS,
    MOST_UNANSWERED,
    STATUS,
    TICKLE,
    TRY_AGAIN_S,
    USUAL_TIMING,
    EndpointLimit,
    Pacing,
)
from trio_bridge.model import Verdict
from trio_bridge.simulator.book import Book, make_book

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.support.patient_clock import PatientClock


@pytest.fixture
def book() -> Book:
    book = make_book(accounts=2)
    book.freeze(at=10)
    return book


@pytest.mark.parametrize("hangs_s", [60, 180, 500])
async def test_an_upstream_that_returns_after_a_hang_gets_no_burst(
    fast_clock: PatientClock, book: Book, hangs_s: int
) -> None:
    async with supervised_rig(book, timing=USUAL_TIMING, heartbeat_s=10.0) as rig:
        await rig.until_right()
        rig.sim.upstream.hang()
        await trio.sleep(hangs_s)
        assert rig.row() is None
        assert rig.sim.upstream.queued <= 8
        rig.sim.rules.person_logs_in()  # after six minutes without a tickle the login is gone
        rig.sim.upstream.come_back()
        assert (await rig.until_right()).verdict is Verdict.COMPLETE
        await trio.sleep(30)
        assert most_within([one.at for one in rig.sim.rules.requests], 1.0) <= 10
        assert not rig.sim.rules.violations
        assert rig.only_true_rows()


async def test_a_return_is_noticed_soon_after_a_short_hang(
    fast_clock: PatientClock, book: Book
) -> None:
    async with supervised_rig(book, timing=USUAL_TIMING, heartbeat_s=10.0) as rig:
        await rig.until_right()
        rig.sim.upstream.hang()
        await trio.sleep(40)
        rig.sim.upstream.come_back()
        began = trio.current_time()
        await rig.until_right()
        assert trio.current_time() - began < 60


async def test_what_a_gateway_owed_that_was_restarted_is_forgotten(
    fast_clock: PatientClock, book: Book
) -> None:
    async with supervised_rig(book, timing=USUAL_TIMING, heartbeat_s=10.0) as rig:
        await rig.until_right()
        rig.sim.upstream.hang()
        await trio.sleep(300)
        await rig.sim.stop()
        await trio.sleep(30)
        rig.sim.upstream.come_back()
        await rig.sim.start()
        began = trio.current_time()
        await rig.until_right()
        assert trio.current_time() - began < 30


async def test_a_refused_upstream_that_never_answers_what_it_was_asked_is_tried_again(
    fast_clock: PatientClock, book: Book
) -> None:
    async with supervised_rig(book, timing=USUAL_TIMING, heartbeat_s=10.0) as rig:
        await rig.until_right()
        rig.sim.upstream.refuse()
        await trio.sleep(120)
        rig.sim.upstream.come_back()
        await rig.until_right()


class Asked:
    """Requests of one client to a gateway that answers what it is told to."""

    def __init__(self) -> None:
        self.pacing = Pacing()
        self.sent = 0

    async def ask(self, endpoint: EndpointLimit, *, answered: bool) -> bool:
        """Whether it was sent at all within five seconds."""
        try:
            async with self.pacing.turn(endpoint, patience_s=5.0) as turn:
                turn.sent()
                self.sent += 1
                if answered:
                    turn.answered()
        except trio.TooSlowError:
            return False
        return True


async def test_only_a_few_are_given_up_at_a_time_and_one_is_tried_now_and_then(
    autojump_clock: MockClock,
) -> None:
    asked = Asked()
    for _ in range(MOST_UNANSWERED):
        assert await asked.ask(STATUS, answered=False)
    assert not await asked.ask(STATUS, answered=False)
    for number, wait_s in enumerate(TRY_AGAIN_S[:3]):
        await trio.sleep(wait_s)
        assert await asked.ask(STATUS, answered=False)
        assert not await asked.ask(STATUS, answered=False)
        assert asked.sent == MOST_UNANSWERED + number + 1


async def test_an_answer_to_a_later_request_says_that_the_queue_has_moved(
    autojump_clock: MockClock,
) -> None:
    asked = Asked()
    for _ in range(MOST_UNANSWERED):
        await asked.ask(STATUS, answered=False)
    await trio.sleep(TRY_AGAIN_S[0])
    assert await asked.ask(STATUS, answered=True)
    began = trio.current_time()
    for _ in range(8):
        assert await asked.ask(STATUS, answered=True)
    assert trio.current_time() - began >= 1.0, "those given up may have been sent just now"


async def test_an_endpoint_with_a_limit_of_its_own_is_not_asked_twice_without_an_answer(
    autojump_clock: MockClock,
) -> None:
    for endpoint in (TICKLE, ACCOUNTS):
        asked = Asked()
        assert await asked.ask(endpoint, answered=False)
        assert not await asked.ask(endpoint, answered=False)
        assert await asked.ask(STATUS, answered=True)
        await trio.sleep(6)
        assert await asked.ask(endpoint, answered=False)


async def test_a_request_that_was_never_sent_or_whose_connection_ended_owes_nothing(
    autojump_clock: MockClock,
) -> None:
    pacing = Pacing()
    for _ in range(3 * MOST_UNANSWERED):
        async with pacing.turn(STATUS, patience_s=0.0):
            pass
        async with pacing.turn(STATUS, patience_s=0.0) as turn:
            turn.sent()
            turn.closed()


async def test_what_was_given_up_after_the_answered_request_was_sent_still_counts() -> None:
    pacing = Pacing()
    async with pacing.turn(STATUS) as early:
        early.sent()
        for _ in range(MOST_UNANSWERED - 1):
            async with pacing.turn(STATUS) as late:
                late.sent()
        early.answered()
    async with pacing.turn(STATUS, patience_s=0.01) as last:
        last.sent()
    with pytest.raises(trio.TooSlowError):
        await pacing.unanswered.wait_room(STATUS, 0.01)
