"""Three things can be lost: the socket, the gateway's link, a data farm. Here: the last two.

A lost link (1100, 2110) stops the rows and nothing else; a broken farm (2103) stops neither rows
nor connection, its Greeks age.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.socket.support import (
    CANCEL,
    POSITIONS,
    START,
    SUBSCRIBE,
    Rig,
    options_of,
    socket_rig,
    still_book,
    supervised_rig,
)
from tests.support.heard import because
from trio_bridge.events.data import FarmDown
from trio_bridge.events.gateway import (
    Connected,
    ConnectionLost,
    GatewayNotice,
    UpstreamBack,
    UpstreamLost,
)
from trio_bridge.events.service import ServiceStopped
from trio_bridge.gateways.readiness import Reason
from trio_bridge.gateways.socket.market_data import lines as market_lines
from trio_bridge.gateways.socket.market_data.subscriptions import ASK_AFTER_INCIDENT_S
from trio_bridge.model import Verdict

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock

LATE_S = 3.0
"""How late a busy machine may be, on the fast clock."""


def age_of(rig: Rig) -> float:
    row = rig.row()
    assert row is not None
    assert row.greeks_age_s is not None
    return row.greeks_age_s


def silence(rig: Rig) -> None:
    """From now on nothing ticks by itself: nobody trades these options."""
    rig.sim.pause_ticks([option.con_id for option in options_of(rig.book)])


# The gateway's link -----------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1100, 2110])
async def test_a_lost_link_means_no_rows_until_it_is_back(
    code: int, fast_clock: PatientClock
) -> None:
    book = still_book(options=6)
    async with supervised_rig(book) as rig:
        await rig.until_right()
        rig.sim.lose_upstream(code)
        await rig.until(lambda: rig.blocked() is Reason.UPSTREAM_LOST)
        lost_at = trio.current_time()
        book.advance(60)
        await trio.sleep(5)
        assert rig.bridge.is_connected()
        back_at = trio.current_time()
        assert rig.rows_between(lost_at, back_at) == []
        rig.sim.restore_upstream()
        await rig.until_right()
    assert len(rig.sim.received(START)) == 1, "the socket was kept"
    assert len(rig.sim.received(POSITIONS)) == 1
    assert len(rig.sim.received(SUBSCRIBE)) == 6, "and so were the subscriptions"
    assert rig.events[1:] == [
        UpstreamLost(code),
        UpstreamBack(1102, forgot=False),
        ServiceStopped(f"127.0.0.1:{rig.sim.port}"),
    ]


async def test_the_nightly_reset_may_leave_the_socket_standing(fast_clock: PatientClock) -> None:
    """1100 again and again, then 1102 some seconds later: one loss, one event, right rows after."""
    book = still_book(options=6)
    async with supervised_rig(book) as rig:
        await rig.until_right()
        for _ in range(5):
            rig.sim.lose_upstream()
            await trio.sleep(3)
            assert rig.blocked() is Reason.UPSTREAM_LOST
        book.advance(60)
        rig.sim.restore_upstream()
        await rig.until_right()
        assert rig.told(UpstreamLost) == [UpstreamLost(1100)]
        assert rig.told(UpstreamBack) == [UpstreamBack(1102, forgot=False)]
        assert rig.told(Connected) == [Connected(f"127.0.0.1:{rig.sim.port}")]


async def test_a_link_that_is_back_without_data_gets_everything_again(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=6)
    account, option = book.accounts[0], options_of(book)[0]
    async with supervised_rig(book) as rig:
        await rig.until_right()
        rig.sim.lose_upstream()
        await rig.until(lambda: rig.row() is None)
        book.set_position(account, option.con_id, 0)
        book.advance(60)
        rig.sim.restore_upstream(data_kept=False)
        await rig.until_right()
        assert len(rig.sim.received(POSITIONS)) == 2
        assert len(rig.sim.received(SUBSCRIBE)) == 6 + 5
        assert len(rig.sim.subscribed()) == 5
        book.advance(60)
        await rig.until_right()
        assert rig.told(UpstreamBack) == [UpstreamBack(1101, forgot=True)]
    assert len(rig.sim.received(START)) == 1


async def test_a_download_that_is_interrupted_by_1101_ends_in_a_new_connection(
    fast_clock: PatientClock,
) -> None:
    """Two downloads at once cannot be told apart, and half a download must never become a row."""
    book = still_book(options=6)
    async with supervised_rig(book) as rig:
        rig.sim.download_delay_s = 0.2
        await rig.until_received(POSITIONS)
        await trio.sleep(0.5)
        rig.sim.lose_upstream()
        rig.sim.restore_upstream(data_kept=False)
        await rig.until_right()
        assert len(because(rig.events, "in the middle of the download")) == 1
        assert rig.only_true_rows()


async def test_a_connection_that_drops_in_the_reload_is_made_again(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=6)
    async with supervised_rig(book) as rig:
        await rig.until_right()
        rig.sim.download_delay_s = 0.2
        rig.sim.lose_upstream()
        rig.sim.restore_upstream(data_kept=False)
        await rig.until_received(POSITIONS, 2)
        assert rig.blocked() is Reason.DOWNLOADING
        rig.sim.drop_connections()
        await rig.until_received(POSITIONS, 3)
        await rig.until_right()
        assert len(rig.told(ConnectionLost)) == 1


async def test_a_gateway_that_is_cut_off_when_we_connect_is_waited_for(
    fast_clock: PatientClock,
) -> None:
    """It tells so with 2110. The wait for the first Greeks begins when the link is there."""
    book = still_book(options=6)
    async with supervised_rig(book, simulator={"first_tick_delay_s": 1.0}) as rig:
        rig.sim.upstream_lost = True
        await rig.until(lambda: rig.blocked() is Reason.UPSTREAM_LOST)
        await trio.sleep(12)
        assert rig.sim.received(SUBSCRIBE) == []
        rig.sim.restore_upstream()
        await rig.until(lambda: rig.row() is not None)
        await rig.until_right()
        assert rig.only_true_rows()


async def test_2110_ends_with_the_farms_too(fast_clock: PatientClock) -> None:
    """ "It will be restored automatically": some gateways say no more than that farms are OK.

    Whether the link is back, with positions that changed meanwhile, a new connection tells.
    """
    book = still_book(options=6)
    account, option = book.accounts[0], options_of(book)[0]
    async with supervised_rig(book) as rig:
        await rig.until_right()
        rig.sim.lose_upstream(2110)
        await rig.until(lambda: rig.row() is None)
        book.set_position(account, option.con_id, 9)
        rig.rows.clear()
        rig.sim.notify(2104, "usopt")
        await rig.until_received(START, 2)
        await rig.until(lambda: rig.blocked() is Reason.UPSTREAM_LOST)
        rig.sim.upstream_lost = False
        rig.sim.notify(2104, "usopt")
        await rig.until(lambda: rig.rows)
        assert rig.only_true_rows()
        assert len(rig.sim.received(START)) == 3

        rig.sim.lose_upstream(1100)
        await rig.until(lambda: rig.row() is None)
        rig.sim.notify(2104, "usopt")
        await rig.settle()
        assert rig.blocked() is Reason.UPSTREAM_LOST, "1100 ends with 1101 or 1102 only"


async def test_positions_that_change_during_the_outage_are_in_the_first_row_after(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=6)
    account, option = book.accounts[0], options_of(book)[0]
    async with supervised_rig(book) as rig:
        await rig.until_right()
        rig.sim.lose_upstream()
        await rig.until(lambda: rig.row() is None)
        book.set_position(account, option.con_id, 0)
        rig.sim.restore_upstream()
        await rig.until_right()


# How old the Greeks are -------------------------------------------------------------------------


async def test_greeks_are_current_while_subscribed_however_rarely_they_tick(
    fast_clock: PatientClock,
) -> None:
    async with socket_rig(still_book(options=6), greeks_max_age_s=3.0) as rig:
        await rig.until_right()
        silence(rig)
        await trio.sleep(8)
        assert (await rig.until_right()).greeks_age_s == 0.0
        assert len(rig.sim.received(SUBSCRIBE)) == 6


async def test_after_1102_the_age_counts_on_until_new_data(fast_clock: PatientClock) -> None:
    book = still_book(options=6)
    async with socket_rig(book) as rig:
        await rig.until_right()
        silence(rig)
        lost_at = trio.current_time()
        rig.sim.lose_upstream()
        await rig.until(lambda: rig.row() is None)
        await trio.sleep(10)
        rig.sim.restore_upstream()
        await rig.until(lambda: rig.row() is not None)
        assert 9.9 <= age_of(rig) <= trio.current_time() - lost_at
        rig.sim.resume_ticks()
        await rig.until(lambda: age_of(rig) == 0.0)
        await rig.until_right()
        assert len(rig.sim.received(SUBSCRIBE)) == 6, "they ticked: no need to ask again"


async def test_after_1102_quiet_options_are_asked_for_again(fast_clock: PatientClock) -> None:
    """They have nothing to say by themselves; old values must not pass for current ones."""
    book = still_book(options=6)
    quiet = options_of(book)[2]
    async with socket_rig(book) as rig:
        await rig.until_right()
        rig.sim.pause_ticks([quiet.con_id])
        rig.sim.lose_upstream()
        await rig.until(lambda: rig.row() is None)
        book.advance(30)
        rig.sim.restore_upstream()
        back_at = trio.current_time()
        rig.sim.resume_ticks()
        rig.sim.pause_ticks([quiet.con_id])
        await rig.until(lambda: rig.sim.received(CANCEL))
        asked_at = rig.sim.received(CANCEL)[0].at
        assert ASK_AFTER_INCIDENT_S - 0.1 <= asked_at - back_at <= ASK_AFTER_INCIDENT_S + LATE_S
        rig.sim.resume_ticks()  # the new subscription opens with a tick
        await rig.until_right()
        assert age_of(rig) == 0.0
        assert [one.fields[3] for one in rig.sim.received(SUBSCRIBE)[6:]] == [str(quiet.con_id)]


async def test_greeks_that_are_too_old_are_unpriced(fast_clock: PatientClock) -> None:
    book = still_book(options=6)
    async with socket_rig(book, greeks_max_age_s=8.0) as rig:
        await rig.until_right()
        silence(rig)
        rig.sim.refuse_market_data([option.con_id for option in options_of(book)], 200)
        rig.sim.lose_upstream()
        await rig.until(lambda: rig.row() is None)
        rig.sim.restore_upstream()
        await rig.until(lambda: rig.row() is not None)
        lost_at = trio.current_time()
        await rig.until(lambda: (row := rig.row()) is not None and row.priced == 4)
        assert 7.5 <= trio.current_time() - lost_at <= 8.0 + LATE_S
        row = rig.row()
        assert row is not None
        assert (row.delta, row.greeks_age_s, row.data_type) == (None, None, None)


# Data farms -------------------------------------------------------------------------------------


async def test_a_broken_farm_tears_nothing_down_and_its_greeks_age(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=10)
    index = {option.con_id for option in options_of(book) if option.sec_type == "OPT"}
    async with supervised_rig(book) as rig:
        await rig.until_right()
        broken_at = trio.current_time()
        rig.sim.break_farm(index, farm="usopt")
        await rig.until_told(FarmDown)
        for _ in range(5):
            await trio.sleep(1)
            row = await rig.until_right()
            assert row.greeks_age_s is not None
            assert 0 < row.greeks_age_s <= trio.current_time() - broken_at
        assert age_of(rig) >= 4.5, "from the moment it broke"
        assert rig.sim.received(CANCEL) == []
        book.advance(30)
        rig.sim.mend_farm(farm="usopt")
        await rig.until_right()
        await rig.until(lambda: age_of(rig) == 0.0)
        assert rig.told(FarmDown) == [FarmDown(2103, "Market data farm connection is broken:usopt")]
    assert len(rig.sim.received(START)) == 1


async def test_the_other_farms_options_are_current_again_with_their_next_tick(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=10)
    index = {option.con_id for option in options_of(book) if option.sec_type == "OPT"}
    async with socket_rig(book) as rig:
        await rig.until_right()
        rig.sim.break_farm(index, farm="usopt")
        await rig.until_told(FarmDown)
        await trio.sleep(2)
        book.advance(30)
        await trio.sleep(2)
        ages = {
            con_id: greeks.current_until for con_id, greeks in rig.bridge.inputs().greeks.items()
        }
        assert {con_id for con_id, until in ages.items() if until is not None} == index


async def test_quiet_options_of_a_farm_that_works_are_current_with_their_next_renewal(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which options a farm serves is not known: all are doubted, none for longer than it takes."""
    monkeypatch.setattr(market_lines, "RENEWAL_S", 15.0)
    book = still_book(options=4)
    async with socket_rig(book) as rig:
        await rig.until_right()
        silence(rig)
        rig.sim.notify(2103, "cashfarm")
        await rig.until_told(FarmDown)
        await trio.sleep(6)
        assert rig.sim.received(CANCEL) == []
        assert age_of(rig) >= 5.5
        rig.sim.resume_ticks()
        await rig.until(lambda: age_of(rig) == 0.0)


@pytest.mark.parametrize(("code", "farm"), [(2105, "ushmds"), (2157, "secdefil")])
async def test_farms_that_bring_no_greeks_are_noted_and_nothing_ages(
    code: int, farm: str, fast_clock: PatientClock
) -> None:
    async with socket_rig(still_book(options=4)) as rig:
        await rig.until_right()
        for _ in range(3):
            rig.sim.notify(code, farm)
        await rig.settle()
        assert age_of(rig) == 0.0
        (event,) = rig.told(GatewayNotice)
        assert event.code == code
        assert farm in event.words
        assert rig.sim.received(CANCEL) == []


@pytest.mark.parametrize("code", [2104, 2106, 2107, 2108, 2119, 2158])
async def test_good_news_of_farms_changes_nothing(code: int, fast_clock: PatientClock) -> None:
    async with socket_rig(still_book(options=4)) as rig:
        await rig.until_right()
        before = list(rig.events)
        rig.sim.notify(code, "usopt")
        await trio.sleep(2 * ASK_AFTER_INCIDENT_S)
        assert rig.events == before
        assert age_of(rig) == 0.0
        assert rig.sim.received(CANCEL) == []
        assert len(rig.sim.received(SUBSCRIBE)) == 4


async def test_a_farm_that_is_broken_when_we_connect_delays_the_first_rows_by_ten_seconds(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=10)
    index = {option.con_id for option in options_of(book) if option.sec_type == "OPT"}
    async with socket_rig(book, connect=False) as rig:
        rig.sim.break_farm(index, farm="usopt")
        await rig.bridge.connect()
        connected_at = trio.current_time()
        await rig.until(lambda: rig.row() is not None)
        assert 9.5 <= trio.current_time() - connected_at <= 10 + LATE_S
        await rig.until_right(without=index)
        rig.sim.mend_farm(farm="usopt")
        await rig.until_right()


# The link comes back without a word -------------------------------------------------------------


@pytest.mark.parametrize("ticks", [False, True], ids=["farms are well", "ticks go on"])
async def test_a_link_that_is_back_without_1101_or_1102_brings_a_new_connection(
    ticks: bool, fast_clock: PatientClock
) -> None:
    book = still_book(options=3)
    async with supervised_rig(book, reset_windows=()) as rig:
        await rig.until_right()
        rig.sim.lose_upstream()
        await trio.sleep(10)
        rig.sim.restore_upstream(silently=True)
        back_at = trio.current_time()
        if not ticks:
            rig.sim.pause_ticks(one.con_id for one in options_of(book))
            for code, farm in ((2103, "usopt"), (2104, "usopt"), (2106, "ushmds"), (2158, "sec")):
                rig.sim.notify(code, farm)
        while not rig.told(ConnectionLost) and trio.current_time() - back_at <= 70:
            await trio.sleep(1)
            if ticks:
                book.advance(1)
        assert 59 <= trio.current_time() - back_at <= 70
        assert rig.rows_between(back_at, back_at + 59) == []
        rig.sim.resume_ticks()
        assert (await rig.until_right()).verdict is Verdict.COMPLETE
        (lost,) = rig.told(ConnectionLost)
        assert "has not said for 60 s that it is back" in lost.reason
        assert ("market data comes" if ticks else "data farms are well") in lost.reason


async def test_farms_that_flap_are_no_sign_of_the_link_but_minutes_are_enough(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=3)
    async with supervised_rig(book, reset_windows=()) as rig:
        await rig.until_right()
        rig.sim.lose_upstream()
        lost_at = trio.current_time()
        for _ in range(9):
            rig.sim.notify(2104, "usopt")
            await trio.sleep(20)
            rig.sim.notify(2103, "usopt")
        assert rig.told(ConnectionLost) == []
        await rig.until(lambda: rig.told(ConnectionLost))
        assert 299 <= trio.current_time() - lost_at <= 305
        assert rig.rows_between(lost_at + 1, lost_at + 299) == []
        rig.sim.restore_upstream()
        assert (await rig.until_right()).verdict is Verdict.COMPLETE


async def test_in_a_reset_window_the_link_is_waited_for_on_the_connection(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=3)
    async with supervised_rig(book) as rig:
        rig.bridge._now = lambda: datetime(2026, 1, 15, 4, 50, tzinfo=UTC)  # 23:50 in New York
        await rig.until_right()
        rig.sim.lose_upstream()
        rig.sim.notify(2104, "usopt")
        await trio.sleep(900)
        assert rig.told(ConnectionLost) == []
        rig.sim.restore_upstream()
        await rig.until_right()
        assert len(rig.sim.received(START)) == 1


async def test_a_repeated_1102_is_said_once(fast_clock: PatientClock) -> None:
    book = still_book(options=3)
    async with supervised_rig(book, reset_windows=()) as rig:
        await rig.until_right()
        rig.sim.notify(1102, times=30)
        await trio.sleep(2)
        assert len(rig.told(UpstreamBack)) == 1
        for times in (1, 3):
            rig.sim.lose_upstream()
            rig.sim.restore_upstream()
            rig.sim.notify(1102, times=times)
            await trio.sleep(2)
        assert len(rig.told(UpstreamLost)) == 2
        assert len(rig.told(UpstreamBack)) == 3
        await rig.until_right()
