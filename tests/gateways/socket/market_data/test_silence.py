"""Silence is not health: lines that stand still without a word are renewed, and what a renewal does
not bring is visibly old, then unpriced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.socket.market_data.support import (
    age_of,
    ids_of,
    messages_about_lines,
    ticking,
    times_asked,
)
from tests.gateways.socket.support import CANCEL, SUBSCRIBE, socket_rig, still_book
from trio_bridge.events.data import LinesTaken
from trio_bridge.gateways.socket.market_data.feed import ANSWER_S
from trio_bridge.model import PositionState, Verdict
from trio_bridge.risk.verdict import RENEWAL_S

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock

LATE_S = 2.0
"""Answers are noticed, and the book moves, once a second."""


@pytest.mark.parametrize("stalled", [5, 1], ids=["all", "one"])
async def test_lines_that_stand_still_are_renewed_within_a_minute(
    stalled: int, faster_clock: PatientClock
) -> None:
    book = still_book(options=5)
    silent = ids_of(book)[:stalled]
    async with socket_rig(book) as rig:
        async with ticking(book):
            await trio.sleep(10)
            rig.sim.stall_lines(silent)
            stalled_at = trio.current_time()
            await trio.sleep(RENEWAL_S - 10)
            assert rig.sim.received(CANCEL) == []
            await trio.sleep(10 + LATE_S)
        assert (await rig.until_right()).verdict is Verdict.COMPLETE
        assert age_of(rig) == 0.0
        for con_id in silent:
            _, again_at = times_asked(rig, con_id)
            assert RENEWAL_S - 5 <= again_at - stalled_at <= RENEWAL_S + LATE_S
        assert len(rig.sim.received(SUBSCRIBE)) == 5 + stalled
        assert rig.sim.lines_in_use == 5


@pytest.mark.parametrize("stalled", [5, 1], ids=["all", "one"])
async def test_what_a_renewal_does_not_bring_ages_from_its_last_word_and_is_then_unpriced(
    stalled: int, faster_clock: PatientClock
) -> None:
    book = still_book(options=5)
    dead = ids_of(book)[:stalled]
    async with socket_rig(book, greeks_max_age_s=120.0) as rig, ticking(book):
        await trio.sleep(10)
        rig.sim.pause_ticks(dead)
        spoke_at = trio.current_time()
        others = 9 - stalled
        for _ in range(150):
            await trio.sleep(1)
            silent_s = trio.current_time() - spoke_at
            row = rig.row()
            assert row is not None
            if silent_s < RENEWAL_S - 5:
                assert (row.priced, row.greeks_age_s) == (9, 0.0)
                assert row.verdict is Verdict.COMPLETE
            elif RENEWAL_S + ANSWER_S + LATE_S < silent_s < 120:
                assert (row.priced, row.verdict) == (9, Verdict.STALE)
                assert row.greeks_age_s == pytest.approx(silent_s, abs=LATE_S)
                assert rig.bridge.inputs().troubles[dead[0]].state is PositionState.NO_DATA
            elif silent_s > 120 + LATE_S:
                assert (row.priced, row.verdict) == (others, Verdict.PARTIAL)
        assert silent_s > 140
        assert set(rig.bridge.inputs().troubles) == set(dead)
        assert rig.sim.lines_in_use == 5

        rig.sim.resume_ticks()
        await rig.until(lambda: (now := rig.row()) and (now.priced, now.greeks_age_s) == (9, 0.0))
        assert rig.bridge.get_portfolio_greeks().verdict is Verdict.COMPLETE
        assert rig.bridge.inputs().troubles == {}


async def test_prices_without_computations_are_silence_too(faster_clock: PatientClock) -> None:
    book = still_book(options=3)
    async with socket_rig(book) as rig, ticking(book):
        await trio.sleep(10)
        rig.sim.stall_lines(ids_of(book)[:1], prices_go_on=True)
        await trio.sleep(RENEWAL_S + LATE_S)
        assert len(times_asked(rig, ids_of(book)[0])) == 2
        assert len(rig.sim.received(SUBSCRIBE)) == 4


async def test_quiet_options_that_answer_their_renewals_stay_current(
    faster_clock: PatientClock,
) -> None:
    """Nobody trades them, so they have nothing to say by themselves."""
    book = still_book(options=5)
    async with socket_rig(book) as rig:
        await rig.until_right()
        ages = set()
        for _ in range(400):
            await trio.sleep(0.5)
            ages.add(age_of(rig))
        assert ages == {0.0}
        for con_id in ids_of(book):
            assert 3 <= len(times_asked(rig, con_id)) <= 5


async def test_ninety_quiet_lines_cost_under_four_messages_a_second(
    faster_clock: PatientClock,
) -> None:
    book = still_book(options=90)
    async with socket_rig(book) as rig:
        await rig.until_right()
        before, most = messages_about_lines(rig), 0
        for _ in range(240):
            await trio.sleep(1)
            most = max(most, rig.sim.lines_in_use)
            assert age_of(rig) == 0.0
        assert 2.0 < (messages_about_lines(rig) - before) / 240 < 4.0
        assert most <= 90


async def test_renewals_take_no_line_of_the_owner(faster_clock: PatientClock) -> None:
    book = still_book(options=5)
    async with socket_rig(book) as rig:
        await rig.until_right()
        rig.sim.lines_used_by_owner = 95
        for _ in range(200):
            await trio.sleep(1)
            assert rig.sim.lines_in_use <= 100
        assert len(rig.sim.received(CANCEL)) >= 10
        assert rig.told(LinesTaken) == []
        await rig.until_right()


async def test_while_lines_rotate_silent_ones_are_not_renewed_twice(
    faster_clock: PatientClock,
) -> None:
    book = still_book(options=12)
    async with socket_rig(book, ib_market_data_lines=4) as rig:
        await rig.until_right()
        for _ in range(150):
            await trio.sleep(1)
            assert rig.sim.lines_in_use <= 4
            assert age_of(rig) < 10
        await rig.until_right()


async def test_an_option_that_never_had_data_says_so(faster_clock: PatientClock) -> None:
    book = still_book(options=3)
    silent = ids_of(book)[0]
    book.market.silence_greeks(silent)
    async with socket_rig(book) as rig:
        assert rig.bridge.inputs().troubles[silent].state is PositionState.WAITING
        await rig.until(lambda: rig.row())
        await trio.sleep(2)
        assert rig.bridge.inputs().troubles[silent].state is PositionState.NO_DATA
        assert rig.bridge.inputs().troubles[silent].reason
        assert set(rig.bridge.inputs().troubles) == {silent}
