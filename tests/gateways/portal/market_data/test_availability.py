"""An option whose data may not count is unpriced for a reason, and the reason has a remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.portal.support import QUICK, portal_rig
from trio_bridge.events.data import DataUsable, DataWithheld
from trio_bridge.gateways.portal.values import Lack, read_lack
from trio_bridge.model import DataType, PositionState, Verdict
from trio_bridge.simulator.book import Book, make_book

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock

SOON = QUICK._replace(settle_s=5.0)


@pytest.fixture
def book() -> Book:
    book = make_book(options=8)
    book.freeze(at=10)
    return book


@pytest.mark.parametrize(
    ("letters", "lack"),
    [
        ("DPB", Lack.DELAYED),
        ("YB", Lack.DELAYED_FROZEN),
        ("N", Lack.NOT_SUBSCRIBED),
        ("O", Lack.NOT_ACKNOWLEDGED),
        ("i", Lack.INCOMPLETE),
        ("S", Lack.UNKNOWN),
        ("v", Lack.UNKNOWN),
        ("", Lack.UNKNOWN),
    ],
)
async def test_options_whose_data_may_not_count_have_a_reason_and_a_remedy(
    fast_clock: PatientClock, book: Book, letters: str, lack: Lack
) -> None:
    options = [held.contract.con_id for held in book.positions() if held.contract.is_option]
    async with portal_rig(book, timing=SOON, connect=False) as rig:
        rig.sim.quirks.availability.update(dict.fromkeys(options, letters))
        await rig.bridge.connect()
        await rig.until(lambda: rig.told(DataWithheld))
        await trio.sleep(30)
        (event,) = rig.told(DataWithheld)
        assert (event.options, event.reason, event.remedy) == (8, lack.value, lack.remedy)
        assert len(event.contracts) == 5
        row = rig.row()
        assert row is not None
        assert (row.delta, row.priced) == (None, row.positions - 8)
        assert row.verdict is Verdict.PARTIAL
        troubles = rig.bridge.inputs().troubles
        assert troubles.keys() == set(options)
        assert {one.state for one in troubles.values()} == {PositionState.REFUSED}
        assert all(lack.remedy in one.reason for one in troubles.values())
        rig.sim.quirks.availability.clear()
        assert (await rig.until_right()).verdict is Verdict.COMPLETE
        assert [one.reason for one in rig.told(DataUsable)] == [lack.value]
        assert rig.bridge.inputs().troubles == {}


async def test_two_reasons_are_two_events(fast_clock: PatientClock, book: Book) -> None:
    options = [held.contract.con_id for held in book.positions() if held.contract.is_option]
    async with portal_rig(book, timing=SOON, connect=False) as rig:
        rig.sim.quirks.availability.update({options[0]: "N", options[1]: "O"})
        await rig.bridge.connect()
        await rig.until(lambda: len(rig.told(DataWithheld)) == 2)
        await trio.sleep(30)
        found = {event.reason: event.options for event in rig.told(DataWithheld)}
        assert found == {Lack.NOT_SUBSCRIBED.value: 1, Lack.NOT_ACKNOWLEDGED.value: 1}


async def test_an_option_waits_for_its_greeks_and_then_has_none(
    fast_clock: PatientClock, book: Book
) -> None:
    option = next(held.contract.con_id for held in book.positions() if held.contract.is_option)
    book.market.silence_greeks(option)
    async with portal_rig(book, timing=SOON, connect=False) as rig:
        await rig.bridge.connect()
        states = []
        for _ in range(40):
            await trio.sleep(0.5)
            states.append(rig.bridge.inputs().troubles[option].state)
        assert list(dict.fromkeys(states)) == [PositionState.WAITING, PositionState.NO_DATA]


@pytest.mark.parametrize("setting", DataType)
@pytest.mark.parametrize("letter", ["R", "RpB", "Z", "D", "Y", "N", "O", "", "S"])
def test_data_lack_nothing_exactly_when_they_may_count(letter: str, setting: DataType) -> None:
    counts = {
        DataType.LIVE: "R",
        DataType.FROZEN: "RZ",
        DataType.DELAYED: "RD",
        DataType.DELAYED_FROZEN: "RZDY",
    }[setting]
    assert (read_lack(letter, setting) is None) == (letter[:1] in counts and letter != "")
