"""Streaming makes rows fresher and never less true; without it, polling gives the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.portal.support import QUICK, Rig, portal_rig
from trio_bridge.events.portal import CompetingLogin, StreamBack, StreamBegun, StreamLost
from trio_bridge.model import Verdict
from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.portal.faults import Fault
from trio_bridge.simulator.portal.rules import Refusal

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock

NO_POLLING = Fault("/iserver/marketdata/snapshot", status=503)
RARE_POLLING = QUICK._replace(streamed_quotes_s=600.0, positions_s=10.0, status_s=10.0)


@pytest.fixture
def book() -> Book:
    book = make_book(accounts=2)
    book.freeze(at=10)
    return book


def is_streaming(rig: Rig) -> bool:
    wanted = {held.contract.con_id for held in rig.sim.book.positions() if held.contract.is_option}
    subscribed = {
        int(message.split("+")[1])
        for message in rig.sim.websocket.messages
        if message.startswith("smd+")
    }
    return wanted <= subscribed


async def test_rows_follow_the_stream_between_polls(fast_clock: PatientClock, book: Book) -> None:
    async with portal_rig(book, timing=RARE_POLLING) as rig:
        await rig.until_right()
        await rig.until(lambda: is_streaming(rig))
        await trio.sleep(2)
        asked = rig.sim.rules.counts["/iserver/marketdata/snapshot"]
        for _ in range(3):
            book.advance(60)
            await rig.until_right()
        assert rig.sim.rules.counts["/iserver/marketdata/snapshot"] == asked


async def test_a_stream_that_is_refused_leaves_polling_and_is_told_once(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False) as rig:
        rig.sim.websocket.refused = True
        await rig.bridge.connect()
        await rig.until_right()
        book.advance(60)
        await rig.until_right()
        await rig.until(lambda: rig.told(StreamLost))
        rig.sim.websocket.refused = False
        await rig.until(lambda: rig.told(StreamBack))
        await rig.until_right()
        assert len(rig.told(StreamLost) + rig.told(StreamBack)) == 2


async def test_a_stream_that_breaks_is_opened_again(fast_clock: PatientClock, book: Book) -> None:
    async with portal_rig(book, timing=RARE_POLLING) as rig:
        await rig.until_right()
        await rig.until(lambda: is_streaming(rig))
        rig.sim.websocket.messages.clear()
        rig.sim.websocket.drop()
        book.advance(60)
        await rig.until_right()
        await rig.until(lambda: is_streaming(rig))
        book.advance(60)
        await rig.until_right()
        assert rig.sim.websocket.opened == 2
        assert not rig.told(StreamLost)


async def test_a_stream_that_falls_silent_is_given_up(fast_clock: PatientClock, book: Book) -> None:
    async with portal_rig(book, timing=QUICK._replace(stream_silent_s=15.0)) as rig:
        await rig.until_right()
        await rig.until(lambda: is_streaming(rig))
        rig.sim.websocket.mute = True
        await rig.until(lambda: rig.sim.websocket.opened == 2)
        book.advance(60)
        await rig.until_right()
        rig.sim.websocket.mute = False


async def test_subscriptions_that_bring_nothing_cost_no_truth(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False) as rig:
        rig.sim.websocket.deaf = True
        await rig.bridge.connect()
        await rig.until_right()
        await rig.until(lambda: is_streaming(rig))
        book.advance(60)
        await rig.until_right()


async def test_subscriptions_are_renewed_before_they_end(
    fast_clock: PatientClock, book: Book
) -> None:
    timing = RARE_POLLING._replace(resubscribe_s=8.0)
    async with portal_rig(book, timing=timing, connect=False) as rig:
        rig.sim.websocket.subscription_life_s = 20.0
        await rig.bridge.connect()
        await rig.until_right()
        await rig.until(lambda: is_streaming(rig))
        await trio.sleep(30)
        with rig.sim.faults(NO_POLLING):
            book.advance(60)
            await rig.until_right()
        assert rig.sim.websocket.opened == 1


async def test_the_default_renews_within_ten_minutes_and_keeps_the_socket_alive() -> None:
    from trio_bridge.gateways.portal.wire.pacing import USUAL_TIMING

    assert USUAL_TIMING.resubscribe_s < 600
    assert USUAL_TIMING.stream_tic_s <= 60


async def test_the_session_is_sent_when_the_cookie_is_not_enough(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, timing=RARE_POLLING, connect=False) as rig:
        rig.sim.websocket.ignores_cookies = True
        await rig.bridge.connect()
        await rig.until_right()
        await rig.until(lambda: is_streaming(rig))
        book.advance(60)
        await rig.until_right()


async def test_what_is_no_longer_held_is_unsubscribed(fast_clock: PatientClock, book: Book) -> None:
    held = next(one for one in book.positions() if one.contract.is_option)
    async with portal_rig(book) as rig:
        await rig.until_right()
        await rig.until(lambda: is_streaming(rig))
        book.set_position(held.account, held.contract.con_id, 0)
        await rig.until_right()
        gone = f"umd+{held.contract.con_id}+{{}}"
        await rig.until(lambda: gone in rig.sim.websocket.messages)


async def test_the_socket_is_kept_alive_and_sends_nothing_else(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, timing=QUICK._replace(stream_tic_s=5.0)) as rig:
        await rig.until(lambda: "tic" in rig.sim.websocket.messages)
        await rig.until(lambda: is_streaming(rig))
        kinds = {message.partition("+")[0] for message in rig.sim.websocket.messages}
        assert kinds == {"smd", "tic"}


async def test_a_login_that_ends_is_noticed_through_the_stream(
    fast_clock: PatientClock, book: Book
) -> None:
    timing = QUICK._replace(status_s=600.0, tickle_s=600.0, quotes_s=600.0, positions_s=500.0)
    async with portal_rig(book, timing=timing) as rig:
        await rig.until_right()
        await rig.until(lambda: is_streaming(rig))
        await trio.sleep(2)
        rig.sim.login.brokerage = False
        await rig.until(lambda: rig.sim.login.brokerage)
        await rig.until_right()


async def test_the_owners_session_is_noticed_through_the_stream(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, timing=QUICK._replace(status_s=1_000.0, tickle_s=1_000.0)) as rig:
        await rig.until(lambda: is_streaming(rig))
        await rig.until_right()
        rig.sim.login.competing = True
        await trio.sleep(2)
        assert rig.row() is None
        assert rig.told(CompetingLogin)


async def test_a_stream_counts_as_one_when_it_has_brought_data(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await rig.until(lambda: rig.told(StreamBegun))
        rig.sim.websocket.drop()
        await rig.until(lambda: rig.sim.websocket.opened == 2)
        await trio.sleep(30)
        assert len(rig.told(StreamBegun)) == 1
        assert not rig.told(StreamLost)


@pytest.mark.parametrize("way", ["mute", "deaf"])
async def test_a_stream_that_brings_nothing_is_reported_once_and_polling_stays_as_it_was(
    fast_clock: PatientClock, book: Book, way: str
) -> None:
    timing = QUICK._replace(quotes_s=1.0, streamed_quotes_s=20.0)
    async with portal_rig(book, timing=timing, connect=False) as rig:
        setattr(rig.sim.websocket, way, True)
        await rig.bridge.connect()
        await rig.until_right()
        await rig.until(lambda: rig.told(StreamLost))
        asked = rig.sim.rules.counts["/iserver/marketdata/snapshot"]
        await trio.sleep(120)
        assert (await rig.until_right()).verdict is Verdict.COMPLETE
        assert rig.sim.rules.counts["/iserver/marketdata/snapshot"] - asked > 80
        assert not rig.told(StreamBegun)
        assert len(rig.told(StreamLost)) == 1
        assert rig.sim.websocket.opened == 1, "it is not given all subscriptions again and again"
        setattr(rig.sim.websocket, way, False)
        await rig.until(lambda: rig.told(StreamBack))


async def test_a_refusal_is_told_by_its_status_without_page_and_cookies(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False) as rig:
        page = "<html>" + "x" * 48_000
        rig.sim.websocket.refusal = Refusal(403, page, (("Set-Cookie", "secret=4711"),))
        await rig.bridge.connect()
        await rig.until(lambda: rig.told(StreamLost))
        assert [event.reason for event in rig.told(StreamLost)] == ["refused with HTTP 403"]
        assert (await rig.until_right()).verdict is Verdict.COMPLETE, "polling goes on"
