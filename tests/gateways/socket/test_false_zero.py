"""The worst bug that this product can have is a row of zeros while options are held.

ib_async empties its memory before it says that the connection has ended. Here every state that any
task could ever see is read, over real sockets, while connections are made and broken at random
instants: each row that could be had must be a whole and true one.
"""

from __future__ import annotations

import random
from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.socket.support import (
    CONNECTED_AFTER,
    POSITIONS,
    START,
    EveryStep,
    Rig,
    agrees,
    connecting,
    socket_rig,
    steps,
    still_book,
    supervised_rig,
)
from trio_bridge.errors import GatewayError
from trio_bridge.events.gateway import ConnectionLost, UpstreamBack, UpstreamLost
from trio_bridge.simulator.tws.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.patient_clock import PatientClock
    from trio_bridge.model import Snapshot
    from trio_bridge.simulator.book import Book, Holding

ROUNDS = 10


def true_rows(book: Book) -> Callable[[Snapshot], str | None]:
    """A judge: the book holds still, so there is only one true row."""

    def judge(row: Snapshot) -> str | None:
        return None if agrees(row, book) else f"{row} instead of {book.net_greeks()}"

    return judge


def whole_rows(book: Book) -> Callable[[Snapshot], str | None]:
    """A judge for a book that moves: all positions, all of them priced."""

    def judge(row: Snapshot) -> str | None:
        expected = len(book.positions())
        whole = (row.positions, row.priced) == (expected, expected)
        return None if whole and row.delta else f"{row} with {expected} positions held"

    return judge


def rows_of_living_connections(
    rig: Rig, judge: Callable[[Snapshot], str | None]
) -> Callable[[Snapshot], str | None]:
    """Besides: none from the very instant in which the bridge knows that the connection ended."""

    def judge_both(row: Snapshot) -> str | None:
        session = rig.bridge._connection
        if session is None or session.ending:
            return f"a row of a connection that was lost: {row}"
        return judge(row)

    return judge_both


async def dropped_at_random(
    rig: Rig, rng: random.Random, *, reset: bool, moving: bool = False
) -> None:
    """Break each connection some time after its first row, until `ROUNDS` have been broken; while
    everything moves, in the middle of new values."""
    for _ in range(ROUNDS):
        await rig.until(lambda: rig.row() is not None)
        await trio.sleep(rng.expovariate(1 / 0.05))
        if moving:
            rig.book.advance(1)
            rig.sim.tick_now()
            await steps(rng.randrange(12))
        rig.sim.drop_connections(reset=reset)
        await rig.until(lambda: rig.row() is None)


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_no_false_row_when_the_connection_drops(
    reset: bool, fast_clock: PatientClock
) -> None:
    book = still_book(options=8)
    async with supervised_rig(book, delays_s=(0.05,)) as rig:
        judge = rows_of_living_connections(rig, true_rows(book))
        with EveryStep(rig.bridge, judge) as watch:
            await dropped_at_random(rig, random.Random(1), reset=reset)
        assert watch.false_rows == []
        assert watch.rows > ROUNDS
        await rig.until(lambda: len(rig.told(ConnectionLost)) == ROUNDS)


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_no_false_row_when_it_drops_while_everything_moves(
    reset: bool, fast_clock: PatientClock
) -> None:
    book = still_book(options=8)
    async with supervised_rig(book, delays_s=(0.05,), simulator={"tick_interval_s": 0.05}) as rig:

        async def move() -> None:
            while True:
                book.advance(1)
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(move)
            with EveryStep(rig.bridge, whole_rows(book)) as watch:
                await dropped_at_random(rig, random.Random(2), reset=reset, moving=True)
            nursery.cancel_scope.cancel()
        assert watch.false_rows == []
        assert watch.rows > ROUNDS


async def test_no_row_before_the_first_download_has_ended(fast_clock: PatientClock) -> None:
    book = still_book(options=8)
    async with supervised_rig(book) as rig:
        await rig.until(lambda: rig.row() is not None)
        rig.sim.download_delay_s = 0.1
        with EveryStep(rig.bridge, true_rows(book)) as watch:
            rig.sim.drop_connections()
            await rig.until_received(POSITIONS, 2)
            began, watch.rows = trio.current_time(), 0
            await rig.until(lambda: watch.rows)
            assert trio.current_time() - began >= 1.0, "it was a slow download"
        assert watch.false_rows == []


async def test_no_zeros_from_a_gateway_that_knows_of_no_positions_yet(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=4)
    async with supervised_rig(book) as rig:
        rig.sim.quirks.empty_downloads = 1
        with EveryStep(rig.bridge, true_rows(book)) as watch:
            await rig.until(lambda: watch.rows)
        assert watch.false_rows == []
        assert len(rig.sim.received(POSITIONS)) == 2


@pytest.mark.parametrize("beginning", [True, False], ids=["when we connect", "in the reload"])
async def test_no_zeros_from_a_gateway_that_is_cut_off_while_it_tells_the_positions(
    beginning: bool, fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its link it may know of none, however often it is asked, and 1102 brings none."""
    book = still_book(options=4)
    positions, known = book.positions, not beginning
    monkeypatch.setattr(book, "positions", lambda *of: positions(*of) if known else [])
    held = len(positions())
    async with supervised_rig(book) as rig:
        with EveryStep(
            rig.bridge, lambda row: None if row.positions == held else str(row)
        ) as watch:
            if beginning:
                rig.sim.upstream_lost = True
            else:
                await rig.until_right()
                known = False
                rig.sim.lose_upstream()
                rig.sim.restore_upstream(data_kept=False)
                await rig.until_received(POSITIONS, 2)
                rig.sim.lose_upstream()
            await trio.sleep(3)
            known = True
            rig.sim.restore_upstream()
            await rig.until(lambda: rig.row() is not None)
            await rig.until_right()
        assert watch.false_rows == []
        assert len(rig.sim.received(START)) == 1


async def test_an_empty_book_is_asked_for_again_when_the_link_is_back(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway may notice that it is cut off after it has told that nothing is held."""
    book = still_book(options=4)
    positions, known = book.positions, False
    monkeypatch.setattr(book, "positions", lambda *of: positions(*of) if known else [])
    held = len(positions())
    async with supervised_rig(book) as rig:
        await rig.until(lambda: rig.row() is not None)
        rig.sim.lose_upstream()
        await rig.until(lambda: rig.row() is None)
        with EveryStep(
            rig.bridge, lambda row: None if row.positions == held else str(row)
        ) as watch:
            known = True
            rig.sim.restore_upstream()
            await rig.until(lambda: rig.row() is not None)
            await rig.until_right()
        assert watch.false_rows == []


async def test_a_farm_that_is_well_is_no_sign_that_the_positions_are_known(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The farms are other machines than the one that a gateway with 2110 has lost."""
    book = still_book(options=4)
    positions, known = book.positions, False
    monkeypatch.setattr(book, "positions", lambda *of: positions(*of) if known else [])
    held = len(positions())
    async with supervised_rig(book) as rig:
        with EveryStep(
            rig.bridge, lambda row: None if row.positions == held else str(row)
        ) as watch:
            rig.sim.upstream_lost = True
            for number, after_s in enumerate((2.5, 0.5, 3.0), 1):
                await rig.until_received(START, number)
                await trio.sleep(after_s)
                rig.sim.notify(2104, "usopt")
            await rig.until_received(START, 4)
            await trio.sleep(3)
            known = True
            rig.sim.restore_upstream()
            await rig.until(lambda: rig.row() is not None)
            await rig.until_right()
        assert watch.false_rows == []
        assert len(rig.sim.received(START)) == 4


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_no_row_from_slow_downloads_that_break_at_random(
    reset: bool, fast_clock: PatientClock
) -> None:
    rng = random.Random(3)
    book = still_book(options=8)
    async with supervised_rig(book, delays_s=(0.05,)) as rig:
        rig.sim.download_delay_s = 0.1
        with EveryStep(rig.bridge, true_rows(book)) as watch:
            for number in range(ROUNDS):
                await rig.until_received(POSITIONS, number + 1)
                await trio.sleep(rng.uniform(0, 12 * 0.1))
                rig.sim.drop_connections(reset=reset)
            await rig.until_right()
        assert watch.false_rows == []


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_no_row_from_connections_that_break_at_any_step(
    reset: bool, fast_clock: PatientClock
) -> None:
    book = still_book(options=8)
    outcomes: set[bool] = set()
    async with socket_rig(book, connect=False) as rig:
        with EveryStep(rig.bridge, true_rows(book)) as watch:
            for number in range(0, CONNECTED_AFTER, 2):
                async with connecting(rig) as refusals:
                    await steps(number)
                    rig.sim.drop_connections(reset=reset)
                outcomes.add(not refusals)
                await rig.bridge.disconnect()
            await rig.bridge.connect()
            await rig.until_right()
        assert watch.false_rows == []
    assert outcomes == {True, False}


async def test_no_row_of_a_download_that_ends_with_the_connection(fast_clock: PatientClock) -> None:
    """The last word of the download and the end of the connection come together."""
    book = still_book(options=8)
    async with socket_rig(book, connect=False) as rig:
        with EveryStep(rig.bridge, true_rows(book)) as watch:
            for number in range(ROUNDS):
                async with connecting(rig):
                    while not rig.sim.received(POSITIONS):
                        await steps(1)
                    await steps(number)
                    for session in rig.sim.sessions:
                        session.finish()
                await rig.bridge.disconnect()
                rig.sim.transcript.clear()
            await rig.bridge.connect()
            await rig.until_right()
        assert watch.false_rows == []


async def test_no_false_row_when_we_end_it_ourselves(fast_clock: PatientClock) -> None:
    rng = random.Random(4)
    reasons: set[str] = set()
    book = still_book(options=8)
    async with socket_rig(book, connect=False) as rig:
        with EveryStep(rig.bridge, true_rows(book)) as watch:
            for number in range(2 * ROUNDS):
                async with connecting(rig) as refusals:
                    if number % 2:
                        await steps(rng.randrange(CONNECTED_AFTER))
                    else:
                        await trio.sleep(rng.uniform(0, 2))
                    await rig.bridge.disconnect()
                    assert rig.row() is None
                    assert not rig.bridge.is_connected()
                reasons |= refusals
        assert watch.false_rows == []
        assert watch.rows
        assert reasons == {"disconnected"}


async def test_no_row_from_the_instant_in_which_the_link_is_lost(fast_clock: PatientClock) -> None:
    book = still_book(options=8)
    async with socket_rig(book) as rig:

        def judge(row: Snapshot) -> str | None:
            lost, back = len(rig.told(UpstreamLost)), len(rig.told(UpstreamBack))
            return None if lost == back else f"a row although the link is lost: {row}"

        await rig.until_right()
        with EveryStep(rig.bridge, judge) as watch:
            for number in range(4):
                rig.sim.lose_upstream(1100 if number % 2 else 2110)
                await rig.until(lambda: rig.row() is None)
                await trio.sleep(0.2)
                rig.sim.restore_upstream(data_kept=number < 2)
                await rig.until(lambda: rig.row() is not None)
        assert watch.false_rows == []


async def test_no_half_row_after_the_gateway_lost_all_subscriptions(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=8)
    async with socket_rig(book) as rig:
        rig.sim.download_delay_s = 0.05
        await rig.until_right()
        with EveryStep(rig.bridge, true_rows(book)) as watch:
            for _ in range(5):
                rig.sim.lose_upstream()
                rig.sim.restore_upstream(data_kept=False)
                await rig.until(lambda: rig.row() is None)
                await rig.until_right()
        assert watch.false_rows == []


async def test_a_position_that_cannot_be_read_ends_the_connection(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ib_async logs what it cannot read and goes on; a row without that position would be false."""
    book = still_book(options=4)
    async with socket_rig(book, connect=False) as rig:
        send, sent = Requests._send_position, count()

        def garble(self: Requests, holding: Holding) -> None:
            quantity: object = "a lot" if next(sent) == 2 else holding.quantity
            send(self, holding._replace(quantity=quantity))  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(Requests, "_send_position", garble)
            with pytest.raises(GatewayError, match=r"cannot be read.*a lot"):
                await rig.bridge.connect()
        await rig.bridge.connect()
        await rig.until_right()
