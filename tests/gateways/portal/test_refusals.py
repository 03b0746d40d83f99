"""A gateway that refuses is no better than one that is silent: its rows say how old they are, end
as soon, and the account or the request that fails is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.portal.support import QUICK, Rig, portal_rig, supervised_rig
from tests.support.heard import because
from trio_bridge.events.portal import AnswersUnusable, AnswersUsable
from trio_bridge.gateways.portal.wire.pacing import USUAL_TIMING
from trio_bridge.gateways.readiness import Reason
from trio_bridge.model import Verdict
from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.portal.faults import Fault

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock
    from trio_bridge.model import Snapshot

SILENCE_S = 15.0
"""Within this long a gateway that answers nothing is given up with the usual timing."""


@pytest.fixture
def book() -> Book:
    """Shares and futures only: no Greek whose age could speak for the positions."""
    book = make_book(options=0)
    book.freeze(at=10)
    return book


def why(rig: Rig) -> Reason | None:
    blocked = rig.bridge.readiness.why(trio.current_time())
    return None if blocked is None else blocked.reason


async def rows_during(rig: Rig, fault: Fault, seconds: int) -> list[Snapshot]:
    """The rows of these seconds, one a second, while the fault lasts."""
    rows = []
    with rig.sim.faults(fault):
        for _ in range(seconds):
            await trio.sleep(1)
            if (row := rig.row()) is not None:
                rows.append(row)
    return rows


@pytest.mark.parametrize(
    "fault",
    [Fault("", status=403, html=True), Fault("", status=503), Fault("", status=601)],
    ids=["403", "503", "601"],
)
async def test_what_refuses_everything_is_given_up_as_soon_as_what_is_silent(
    fast_clock: PatientClock, book: Book, fault: Fault
) -> None:
    async with supervised_rig(book, timing=USUAL_TIMING, heartbeat_s=10.0) as rig:
        await rig.until_right()
        rows = await rows_during(rig, fault, 60)
        assert why(rig) is Reason.USELESS_ANSWERS
        assert len(rows) <= SILENCE_S
        ages = [row.greeks_age_s for row in rows if row.greeks_age_s is not None]
        assert len(ages) == len(rows)
        assert max(ages) > 5
        assert {row.verdict for row in rows} == {Verdict.COMPLETE}, "no row before one is stale"
        assert rig.told(AnswersUnusable)
        assert (await rig.until_right()).verdict is Verdict.COMPLETE


async def test_positions_that_are_refused_alone_age_and_then_make_no_row(
    fast_clock: PatientClock, book: Book
) -> None:
    async with supervised_rig(book, timing=USUAL_TIMING, heartbeat_s=10.0) as rig:
        await rig.until_right()
        rows = await rows_during(rig, Fault("/positions/", status=401), 75)
        assert why(rig) is Reason.POSITIONS_STALE
        ages = [row.greeks_age_s for row in rows if row.greeks_age_s is not None]
        assert len(ages) == len(rows)
        assert ages == sorted(ages)
        assert 30 < max(ages) <= USUAL_TIMING.positions_stale_s
        assert {row.verdict for row in rows} == {Verdict.COMPLETE}, "no row before one is stale"
        assert because(rig.told(AnswersUnusable), "HTTP 401")
        assert (await rig.until_right()).verdict is Verdict.COMPLETE


async def test_positions_have_an_age_beside_fresh_greeks(fast_clock: PatientClock) -> None:
    book = make_book(options=3)
    book.freeze(at=10)
    timing = QUICK._replace(positions_s=30.0)
    async with portal_rig(book, timing=timing) as rig:
        await rig.until_right()
        ages = []
        for _ in range(40):
            await trio.sleep(1)
            row = rig.row()
            assert row is not None
            ages.append(row.greeks_age_s or 0.0)
        assert 20 < max(ages) < 40, "the positions' age"
        assert min(ages) < 5


async def test_one_account_that_cannot_be_read_is_named(
    fast_clock: PatientClock,
) -> None:
    book = make_book(options=3, accounts=2)
    book.freeze(at=10)
    second = book.accounts[1]
    async with portal_rig(book, timing=USUAL_TIMING, connect=False) as rig:
        with rig.sim.faults(Fault(f"/portfolio/{second}/", status=500)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.bridge.connect)
                await rig.until(lambda: because(rig.told(AnswersUnusable), second))
                assert trio.current_time() < 15
                nursery.cancel_scope.cancel()
            await rig.bridge.connect()
            await trio.sleep(30)
            assert rig.row() is None
            assert len(rig.told(AnswersUnusable)) == 1
        await rig.until(lambda: rig.told(AnswersUsable))
        assert (await rig.until_right()).verdict is Verdict.COMPLETE
        assert rig.only_true_rows()


async def test_an_account_that_is_refused_later_makes_no_row_that_looks_whole(
    fast_clock: PatientClock,
) -> None:
    book = make_book(options=3, accounts=2)
    book.freeze(at=10)
    second = book.accounts[1]
    async with portal_rig(book, timing=USUAL_TIMING) as rig:
        await rig.until_right()
        with rig.sim.faults(Fault(f"/portfolio/{second}/", status=500)):
            began = trio.current_time()
            await rig.until(lambda: because(rig.told(AnswersUnusable), second))
            assert trio.current_time() - began < 15
            await rig.until(lambda: why(rig) is Reason.POSITIONS_STALE)
        await rig.until(lambda: rig.told(AnswersUsable))
        await rig.until_right()
        assert rig.only_true_rows()
