"""What the bridge asks for and how often with the usual timing, by the simulator's count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.portal.support import Rig, supervised_rig
from trio_bridge.events.portal import LoggedOut
from trio_bridge.gateways.portal.health import SessionState
from trio_bridge.gateways.portal.login import read_status, read_tickle
from trio_bridge.gateways.portal.wire.pacing import USUAL_TIMING
from trio_bridge.model import Severity
from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.portal.faults import Fault

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock

TICKLE, STATUS, SNAPSHOT = "/tickle", "/iserver/auth/status", "/iserver/marketdata/snapshot"
HEARTBEAT_S = 1_000.0
"""So seldom, that the session's own tickles are all there are."""


@pytest.fixture(autouse=True)
def ten_minutes_in_seconds(fast_clock: PatientClock) -> None:
    fast_clock.rate *= 10


@pytest.fixture
def book() -> Book:
    book = make_book(options=3)
    book.freeze(at=10)
    return book


async def count(rig: Rig, path: str, seconds: float) -> int:
    """Requests to this path in the next so many seconds."""
    before = rig.sim.rules.counts[path]
    await trio.sleep(seconds)
    return rig.sim.rules.counts[path] - before


async def test_the_session_is_kept_by_a_tickle_a_minute(
    fast_clock: PatientClock, book: Book
) -> None:
    async with supervised_rig(book, timing=USUAL_TIMING, heartbeat_s=HEARTBEAT_S) as rig:
        await rig.until_right()
        # The simulated login ends after six minutes without one.
        assert 9 <= await count(rig, TICKLE, 600) <= 11
        assert rig.is_right(rig.row())
        assert rig.sim.login.authenticated


async def test_a_person_is_waited_for_in_patience(fast_clock: PatientClock, book: Book) -> None:
    async with supervised_rig(book, timing=USUAL_TIMING, heartbeat_s=HEARTBEAT_S) as rig:
        rig.sim.login.log_out()
        await rig.until(lambda: rig.told(LoggedOut))
        before = len(rig.sim.rules.requests)
        assert 15 <= await count(rig, STATUS, 600) <= 21, "every 30 s"
        # Beside them only the tickles, four a minute while they fail.
        assert len(rig.sim.rules.requests) - before <= 21 + 41
        assert [event.severity for event in rig.events].count(Severity.WARNING) == 1
        rig.sim.rules.person_logs_in()
        began = trio.current_time()
        await rig.until_right()
        assert trio.current_time() - began < 60


async def test_an_endpoint_that_fails_is_asked_ever_more_seldom(
    fast_clock: PatientClock, book: Book
) -> None:
    async with supervised_rig(book, timing=USUAL_TIMING, heartbeat_s=HEARTBEAT_S) as rig:
        await rig.until_right()
        usual = await count(rig, SNAPSHOT, 120)
        with rig.sim.faults(Fault(SNAPSHOT, status=503)):
            await trio.sleep(90)
            assert await count(rig, SNAPSHOT, 120) <= 5 < usual
        began = trio.current_time()
        await rig.until_right()
        assert trio.current_time() - began < 40


STATES = {
    # authenticated, connected, competing
    (True, True, False): SessionState.HEALTHY,
    (True, True, True): SessionState.COMPETING,
    (True, False, False): SessionState.UPSTREAM_LOST,
    (True, False, True): SessionState.COMPETING,
    (False, True, False): SessionState.NO_BROKERAGE,
    (False, True, True): SessionState.COMPETING,
    (False, False, False): SessionState.NO_BROKERAGE,
    (False, False, True): SessionState.COMPETING,
}


@pytest.mark.parametrize(("told", "state"), STATES.items())
def test_healthy_is_authenticated_connected_and_not_competing(
    told: tuple[bool, bool, bool], state: SessionState
) -> None:
    status = dict(zip(("authenticated", "connected", "competing"), told, strict=True))
    assert read_status(status) is state
    assert read_tickle({"iserver": {"authStatus": status}}) is state


@pytest.mark.parametrize(
    "payload", [None, [], {}, "true", {"authenticated": "true"}, {"authenticated": None}]
)
def test_what_names_no_state_is_none(payload: object) -> None:
    assert read_status(payload) is SessionState.UNKNOWN
    assert read_tickle(payload) is SessionState.UNKNOWN
    assert read_tickle({"iserver": {"authStatus": payload}}) is SessionState.UNKNOWN
