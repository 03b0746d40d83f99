"""A bridge that stands by keeps its connection and its positions, and leaves every market-data line
to the gateway's user; it can record at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.socket.support import (
    POSITIONS,
    SUBSCRIBE,
    agrees,
    options_of,
    socket_rig,
    still_book,
    supervised_rig,
)
from trio_bridge.gateways.readiness import Reason

if TYPE_CHECKING:
    from tests.gateways.socket.support import Rig
    from tests.support.patient_clock import PatientClock


def stands_by(rig: Rig) -> bool:
    return rig.bridge.stands_by


async def test_while_it_rests_no_line_is_used_and_no_row_given(fast_clock: PatientClock) -> None:
    async with socket_rig(still_book(), connect=False) as rig:
        rig.bridge.rest("the other records")
        await rig.bridge.connect()
        await rig.until(lambda: stands_by(rig))
        await trio.sleep(120)
        assert rig.row() is None
        assert str(rig.bridge.readiness.why(trio.current_time())) == "standby: the other records"
        assert rig.sim.received(SUBSCRIBE) == []
        assert rig.bridge.usage().lines_used == 0
        assert rig.events == []


async def test_it_knows_the_positions_and_records_as_soon_as_it_may(
    fast_clock: PatientClock,
) -> None:
    book = still_book()
    async with socket_rig(book, connect=False) as rig:
        rig.bridge.rest("the other records")
        await rig.bridge.connect()
        await rig.until(lambda: stands_by(rig))
        option = options_of(book)[0]
        book.set_position(book.accounts[0], option.con_id, 7)
        await trio.sleep(60)
        rig.bridge.rest(None)
        assert rig.row() is None, "of no option the Greeks are known yet"
        await rig.until(lambda: rig.row() is not None)
        row = rig.row()
        assert row is not None
        assert agrees(row, book), "the first row is a whole one"
        assert len(rig.sim.received(POSITIONS)) == 1


async def test_rows_end_at_once_and_all_lines_are_given_back(fast_clock: PatientClock) -> None:
    book = still_book()
    async with socket_rig(book) as rig:
        for turn in range(3):
            await rig.until_right()
            assert rig.sim.lines_in_use_by_clients == 26
            rig.bridge.rest(f"for the {turn}. time")
            assert rig.row() is None
            await rig.until(lambda: rig.sim.lines_in_use_by_clients == 0)
            assert stands_by(rig)
            book.advance(30)
            rig.bridge.rest(None)
            row = rig.row()
            assert row is None or agrees(row, book), "old Greeks are taken for new ones"
        await rig.until_right()
        assert len(rig.sim.received(POSITIONS)) == 1


async def test_it_goes_on_resting_over_a_new_connection(fast_clock: PatientClock) -> None:
    async with supervised_rig(still_book()) as rig:
        await rig.until_right()
        rig.bridge.rest("the other records")
        await rig.until(lambda: rig.sim.lines_in_use_by_clients == 0)
        subscribed = len(rig.sim.received(SUBSCRIBE))
        rig.sim.drop_connections()
        await rig.until(lambda: not stands_by(rig))
        await rig.until(lambda: stands_by(rig))
        await trio.sleep(30)
        assert len(rig.sim.received(SUBSCRIBE)) == subscribed
        rig.bridge.rest(None)
        await rig.until_right()
        assert rig.only_true_rows()


@pytest.mark.parametrize("data_kept", [True, False])
async def test_an_outage_of_the_upstream_is_said_before_the_standing_by(
    fast_clock: PatientClock, data_kept: bool
) -> None:
    """So that it does not take over without a link, and does when the link is back."""
    async with socket_rig(still_book()) as rig:
        await rig.until_right()
        rig.bridge.rest("the other records")
        rig.sim.lose_upstream()
        await rig.until(lambda: not stands_by(rig))
        blocked = rig.bridge.readiness.why(trio.current_time())
        assert blocked is not None
        assert blocked.reason is Reason.UPSTREAM_LOST
        rig.sim.restore_upstream(data_kept=data_kept)
        await rig.until(lambda: stands_by(rig))
        await rig.until(lambda: rig.sim.lines_in_use_by_clients == 0)
        rig.bridge.rest(None)
        await rig.until_right()


async def test_it_may_be_woken_while_the_upstream_is_lost(fast_clock: PatientClock) -> None:
    book = still_book()
    async with socket_rig(book, connect=False) as rig:
        rig.bridge.rest("the other records")
        await rig.bridge.connect()
        await rig.until(lambda: stands_by(rig))
        rig.sim.lose_upstream()
        await rig.until(lambda: not stands_by(rig))
        rig.bridge.rest(None)
        await trio.sleep(30)
        assert rig.row() is None
        rig.sim.restore_upstream()
        await rig.until(lambda: rig.row() is not None)
        row = rig.row()
        assert row is not None
        assert agrees(row, book)
