"""Data farms that flap: said once, then counted; and nothing is subscribed again for a farm on
which none of our options is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.socket.market_data.support import age_of, ids_of, ticking
from tests.gateways.socket.support import CANCEL, SUBSCRIBE, options_of, socket_rig, still_book
from trio_bridge.events.data import FarmBack, FarmDown
from trio_bridge.gateways.ongoing import CALM_S
from trio_bridge.model import PositionState, Verdict
from trio_bridge.risk.verdict import stale_after_s

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock


async def test_a_storm_of_2103_is_one_event_and_a_count(faster_clock: PatientClock) -> None:
    async with socket_rig(still_book(options=3)) as rig:
        await rig.until_right()
        for _ in range(180):
            rig.sim.notify(2103, "usopt")
            await trio.sleep(120 / 180)
        rig.sim.notify(2104, "usopt")
        assert rig.told(FarmDown) == [FarmDown(2103, "Market data farm connection is broken:usopt")]
        await trio.sleep(CALM_S + 2)
        (event,) = rig.told(FarmBack)
        assert (event.farm, event.times) == ("usopt", 180)
        assert event.lasted_s == pytest.approx(120, abs=2)


@pytest.mark.parametrize("quiet", [False, True], ids=["ticking", "with quiet ones"])
async def test_a_farm_on_which_no_option_is_may_flap_for_long(
    quiet: bool, faster_clock: PatientClock
) -> None:
    book = still_book(options=10)
    async with socket_rig(book) as rig, ticking(book):
        await trio.sleep(5)
        if quiet:
            rig.sim.pause_ticks(ids_of(book)[:2])
        ages, verdicts = [], set()
        for _ in range(13):  # 52 s: no line is due for renewal
            rig.sim.notify(2103, "cashfarm")
            await trio.sleep(2)
            ages.append(age_of(rig))
            verdicts.add(rig.bridge.get_portfolio_greeks().verdict)
            rig.sim.notify(2104, "cashfarm")
            await trio.sleep(2)
            ages.append(age_of(rig))
        assert len(rig.sim.received(SUBSCRIBE)) == 10
        assert rig.sim.received(CANCEL) == []
        assert verdicts == {Verdict.COMPLETE}
        if not quiet:
            assert set(ages) == {0.0}
        assert len(rig.told(FarmDown)) == 1


async def test_quiet_options_are_not_doubted_once_others_of_their_kind_tick_through(
    faster_clock: PatientClock,
) -> None:
    book = still_book(options=10)
    quiet = [option.con_id for option in options_of(book) if option.sec_type == "OPT"][:2]
    async with socket_rig(book) as rig, ticking(book):
        await trio.sleep(2)
        rig.sim.pause_ticks(quiet)
        await trio.sleep(15)
        rig.sim.notify(2103, "cashfarm")
        await rig.until_told(FarmDown)
        assert age_of(rig) > 0.0, "nothing is known yet"
        assert set(rig.bridge.inputs().troubles) >= set(quiet)
        await trio.sleep(4)
        assert age_of(rig) == 0.0
        rig.sim.notify(2104, "cashfarm")
        rig.sim.notify(2103, "cashfarm")
        await rig.settle()
        # Not the age of all: on a busy machine this clock outruns those that tick.
        assert not set(quiet) & set(rig.bridge.inputs().troubles), "and this is remembered"


async def test_the_options_of_a_broken_farm_age_until_it_is_back_while_others_tick(
    faster_clock: PatientClock,
) -> None:
    book = still_book(options=10)
    index = [option.con_id for option in options_of(book) if option.sec_type == "OPT"]
    async with socket_rig(book, greeks_max_age_s=200.0) as rig, ticking(book):
        await trio.sleep(15)
        rig.sim.break_farm(index[:3], farm="usopt")
        broken_at = trio.current_time()
        for _ in range(20):
            await trio.sleep(5)
            age = trio.current_time() - broken_at
            assert age_of(rig) == pytest.approx(age, abs=2), "lines of its kind tick on"
            troubles = rig.bridge.inputs().troubles
            assert {one.state for one in troubles.values()} == {PositionState.NO_DATA}
            assert set(troubles) == set(index[:3])
            if abs(age - stale_after_s(5.0)) > 2:
                stale = age > stale_after_s(5.0)
                verdict = rig.bridge.get_portfolio_greeks().verdict
                assert verdict is (Verdict.STALE if stale else Verdict.COMPLETE)
        rig.sim.mend_farm(farm="usopt")
        await rig.until(lambda: age_of(rig) == 0.0)
        assert rig.sim.lines_in_use == 10
