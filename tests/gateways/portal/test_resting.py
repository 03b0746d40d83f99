"""A bridge that stands by keeps its session and its positions, and asks for no quotes; it can
record at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.portal.support import portal_rig
from trio_bridge.events.portal import CertificateUnchecked
from trio_bridge.simulator.book import Book, make_book

if TYPE_CHECKING:
    from tests.gateways.portal.support import Rig
    from tests.support.patient_clock import PatientClock

SNAPSHOT = "/iserver/marketdata/snapshot"


@pytest.fixture
def book() -> Book:
    """Held still, so that every row can be judged."""
    book = make_book()
    book.freeze(at=10)
    return book


async def test_while_it_rests_no_quote_is_asked_for_and_no_row_given(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False) as rig:
        rig.bridge.rest("the other records")
        await rig.bridge.connect()
        await rig.until(lambda: rig.bridge.stands_by)
        await trio.sleep(60)
        assert rig.row() is None
        assert str(rig.bridge.readiness.why(trio.current_time())) == "standby: the other records"
        assert asked(rig, SNAPSHOT) == 0
        assert rig.sim.streams._started == {}
        assert {type(event) for event in rig.events} <= {CertificateUnchecked}


async def test_it_knows_the_positions_and_records_as_soon_as_it_may(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False) as rig:
        rig.bridge.rest("the other records")
        await rig.bridge.connect()
        await rig.until(lambda: rig.bridge.stands_by)
        await trio.sleep(30)
        rig.bridge.rest(None)
        assert rig.row() is None, "of no option the Greeks are known yet"
        await rig.until(lambda: rig.row() is not None)
        assert rig.is_right(rig.row()), "the first row is a whole one"
        assert rig.only_true_rows()


async def test_rows_end_at_once_and_no_quote_is_asked_for_any_more(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        for turn in range(3):
            await rig.until_right()
            rig.bridge.rest(f"for the {turn}. time")
            assert rig.row() is None
            assert rig.bridge.stands_by
            await trio.sleep(5)
            before = asked(rig, SNAPSHOT)
            await trio.sleep(30)
            assert asked(rig, SNAPSHOT) == before
            assert rig.bridge.stands_by
            rig.bridge.rest(None)
            assert rig.row() is None, "old Greeks are taken for new ones"
        await rig.until_right()
        assert rig.only_true_rows()


async def test_it_goes_on_resting_over_a_new_connection(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        rig.bridge.rest("the other records")
        await trio.sleep(5)
        before = asked(rig, SNAPSHOT)
        await rig.bridge.disconnect()
        await rig.bridge.connect()
        await rig.until(lambda: rig.bridge.stands_by)
        await trio.sleep(30)
        assert asked(rig, SNAPSHOT) == before
        rig.bridge.rest(None)
        await rig.until_right()
        assert rig.only_true_rows()


async def test_without_a_login_it_does_not_stand_by(fast_clock: PatientClock, book: Book) -> None:
    """It could not take over."""
    async with portal_rig(book) as rig:
        await rig.until_right()
        rig.bridge.rest("the other records")
        rig.sim.login.log_out()
        await rig.until(lambda: not rig.bridge.stands_by)
        rig.sim.login.log_in()
        await rig.until(lambda: rig.bridge.stands_by)
        rig.bridge.rest(None)
        await rig.until_right()
        assert rig.only_true_rows()


def asked(rig: Rig, path: str) -> int:
    """How often the bridge has requested this."""
    return sum(one.path.endswith(path) for one in rig.sim.rules.requests)
