"""Every trouble of the portal: the bridge lives on, writes no false row, tells its start and its
end once each, and gives right rows afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.gateways.portal.support import QUICK, Rig, portal_rig
from tests.support.heard import because
from trio_bridge.errors import GatewayError
from trio_bridge.events.portal import (
    AnswersUnusable,
    AnswersUsable,
    CompetingLogin,
    LoggedOut,
    LoginBack,
    LoginCutOff,
    NoBrokerageSession,
    RequestsPaused,
    RequestsResumed,
)
from trio_bridge.gateways.readiness import Blocked, Reason
from trio_bridge.model import Severity
from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.portal import answers as portal_answers
from trio_bridge.simulator.portal.faults import Fault

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock

SNAPSHOT = "/iserver/marketdata/snapshot"
POSITIONS = "/positions/"
IMPATIENT = QUICK._replace(answer_s=10.0, slow_answer_s=10.0)


@pytest.fixture
def book() -> Book:
    """Held still, so that every row can be judged."""
    book = make_book(accounts=2)
    book.freeze(at=10)
    return book


async def live_through(rig: Rig, fault: Fault) -> None:
    """Let a fault strike for a while; the bridge must get over it without a false row."""
    await rig.until_right()
    rig.events.clear()
    with rig.sim.faults(fault):
        await rig.until(lambda: rig.events, "for the trouble to be told")
        await trio.sleep(2)
        assert rig.bridge.is_connected()
        await rig.bridge.probe()
    await rig.until(lambda: rig.told(AnswersUsable))
    await rig.until_right()
    assert rig.only_true_rows()


@pytest.mark.parametrize("path", [SNAPSHOT, POSITIONS])
@pytest.mark.parametrize(
    "kind",
    [
        {"status": 503},
        {"status": 411},
        {"html": True},
        {"text": '[{"conid": 7'},
        {"text": '{"error": "x"}'},
        {"text": "[null]"},
    ],
    ids=str,
)
async def test_answers_of_no_use_are_told_once(
    fast_clock: PatientClock, book: Book, path: str, kind: dict[str, Any]
) -> None:
    async with portal_rig(book) as rig:
        await live_through(rig, Fault(path, **kind))
        assert [event.severity for event in rig.events] == [Severity.WARNING, Severity.INFO]
        assert isinstance(rig.events[0], AnswersUnusable)


@pytest.mark.parametrize("path", [SNAPSHOT, POSITIONS])
@pytest.mark.parametrize("kind", [{"hang": True}, {"drip": True}], ids=str)
async def test_an_endpoint_that_hangs_or_drips_is_told_once(
    fast_clock: PatientClock, book: Book, path: str, kind: dict[str, Any]
) -> None:
    async with portal_rig(book, timing=IMPATIENT) as rig:
        await live_through(rig, Fault(path, **kind))
        assert [event.severity for event in rig.events] == [Severity.WARNING, Severity.INFO]


async def test_the_whole_gateway_failing_is_one_trouble(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await live_through(rig, Fault("", status=502))
        assert [event.severity for event in rig.events] == [Severity.WARNING, Severity.INFO]


async def test_a_page_that_fails_yields_no_part_of_a_book(
    fast_clock: PatientClock,
) -> None:
    book = make_book(options=230)
    book.freeze(at=10)
    async with portal_rig(book, connect=False) as rig:
        fault = Fault(f"{book.accounts[0]}/positions/2", status=500)
        with rig.sim.faults(fault):
            await rig.bridge.connect()
            await rig.until(lambda: fault.hits > 2)
            assert rig.row() is None
        await rig.until_right()
        assert rig.only_true_rows()


async def test_a_gateway_with_smaller_pages_gives_a_whole_book(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portal_answers, "PAGE_SIZE", 30)
    book = make_book(options=70)
    book.freeze(at=10)
    async with portal_rig(book) as rig:
        await rig.until_right()
        assert rig.only_true_rows()


async def test_positions_that_come_back_empty_once_take_nothing_away(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        fault = Fault(f"{book.accounts[0]}/positions/0", text="[]")
        with rig.sim.faults(fault):
            await rig.until(lambda: fault.hits == 1)
        await trio.sleep(4)
        await rig.until_right()
        assert rig.only_true_rows()


async def test_half_a_book_at_the_beginning_is_no_row(fast_clock: PatientClock) -> None:
    book = make_book(options=130)
    book.freeze(at=10)
    async with portal_rig(book, connect=False) as rig:
        with rig.sim.faults(Fault("/positions/1", text="[]")) as fault:
            rig.bridge.nursery.start_soon(rig.bridge.connect)
            await rig.until(lambda: fault.hits == 1)
        await rig.until_right()
        await trio.sleep(5)
        assert rig.only_true_rows()


@pytest.mark.parametrize("status", [500, 403])
async def test_positions_out_of_a_cache_that_cannot_be_renewed_become_no_row(
    fast_clock: PatientClock, book: Book, status: int
) -> None:
    option = book.positions()[-1]
    async with portal_rig(book, timing=QUICK._replace(positions_stale_s=8.0)) as rig:
        await rig.until_right()
        with rig.sim.faults(Fault("/positions/invalidate", status=status)):
            book.set_position(option.account, option.contract.con_id, 99)
            await rig.until(lambda: rig.row() is None)
            assert "could not be read again" in str(rig.bridge.readiness.why(trio.current_time()))
            await trio.sleep(10)
            assert rig.row() is None
        await rig.until_right()
        assert len(because(rig.told(AnswersUnusable), "POST /portfolio/")) == 1


async def test_a_gateway_whose_cache_cannot_be_told_to_renew_gives_rows(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False) as rig:
        with rig.sim.faults(Fault("/positions/invalidate", status=404)):
            await rig.bridge.connect()
            await rig.until_right()
            assert rig.only_true_rows()


async def test_positions_that_cannot_be_read_for_long_are_no_row(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, timing=QUICK._replace(positions_stale_s=5.0)) as rig:
        await rig.until_right()
        with rig.sim.faults(Fault(POSITIONS, status=500)):
            await rig.until(lambda: rig.row() is None)
            assert "could not be read again" in str(rig.bridge.readiness.why(trio.current_time()))
        await rig.until_right()


async def test_greeks_that_are_not_answered_grow_old_and_become_unpriced(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, greeks_max_age_s=8.0) as rig:
        await rig.until_right()
        with rig.sim.faults(Fault(SNAPSHOT, status=500)):
            await rig.until(lambda: (row := rig.row()) is not None and row.priced == 7)
            row = rig.row()
            assert row is not None
            assert (row.delta, row.gamma, row.underlying_price) == (None, None, None)
            assert (row.account, row.positions, 7, None, None, None, None) in rig.rows.distinct
        await rig.until_right()


async def test_nobody_logged_in_is_one_event_with_the_url_and_no_row(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, connect=False) as rig:
        rig.sim.login.log_out()
        await rig.bridge.connect()
        assert rig.bridge.is_connected()
        for _ in range(3):
            await rig.bridge.probe()
        await trio.sleep(10)
        assert rig.row() is None
        assert rig.bridge.readiness.why(trio.current_time()) == Blocked(Reason.LOGGED_OUT)
        assert len(rig.told(LoggedOut, login_url=rig.sim.url)) == 1
        rig.sim.rules.person_logs_in()
        await rig.until_right()
        assert len(rig.told(LoginBack)) == 1
        assert [event.severity for event in rig.events].count(Severity.WARNING) == 1
        assert rig.only_true_rows()
    assert rig.sim.login.brokerage


async def test_a_session_that_expires_is_one_event_and_rows_return_after_the_login(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        rig.events.clear()
        rig.sim.login.log_out()
        await rig.until(lambda: rig.row() is None)
        await trio.sleep(10)
        assert rig.bridge.is_connected()
        assert len(rig.events) == 1
        assert rig.row() is None
        rig.sim.rules.person_logs_in()
        await rig.until_right()
        assert len(rig.events) == 2
        assert rig.sim.rules.out_of_order == 0
        assert rig.only_true_rows()


async def test_no_greeks_of_before_come_back_with_a_new_login(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        rig.sim.login.log_out()
        await rig.until(lambda: rig.row() is None)
        book.advance(600)
        rig.rows.distinct.clear()
        rig.sim.rules.person_logs_in()
        await rig.until_right()
        assert rig.only_true_rows()


async def test_a_gateway_that_goes_down_during_a_pause_is_noticed(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        rig.sim.rules.penalize(600)
        await rig.until(lambda: rig.told(RequestsPaused))
        await trio.sleep(5)
        await rig.bridge.probe()
        await rig.sim.stop()
        with pytest.raises(GatewayError, match="does not take connections"):
            await rig.bridge.probe()


async def test_no_row_while_the_last_requests_got_no_answer(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book, timing=IMPATIENT) as rig:
        await rig.until_right()
        with rig.sim.faults(Fault("", hang=True)):
            reasons = []

            def silent() -> bool:
                reasons.append(str(rig.bridge.readiness.why(trio.current_time())))
                return "does not answer" in reasons[-1]

            await rig.until(silent)
        assert "not connected to the gateway" not in reasons


async def test_a_missing_brokerage_session_is_opened_without_competing(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        rig.sim.login.brokerage = False
        await rig.until(lambda: rig.sim.login.brokerage)
        await rig.until_right()
        assert rig.only_true_rows()


async def test_a_brokerage_session_that_cannot_be_opened_is_told_once_and_tried_on(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        rig.events.clear()
        rig.sim.login.can_open = False
        rig.sim.login.brokerage = False
        await rig.until(lambda: rig.told(NoBrokerageSession))
        before = rig.sim.rules.counts["/iserver/auth/ssodh/init"]
        await trio.sleep(10)
        assert rig.sim.rules.counts["/iserver/auth/ssodh/init"] > before
        assert rig.row() is None
        assert len(rig.events) == 1
        assert "failed to generate" in rig.told(NoBrokerageSession)[0].because
        rig.sim.login.can_open = True
        await rig.until_right()
        assert len(rig.events) == 2
        assert rig.only_true_rows()


@pytest.mark.parametrize("brokerage", [True, False])
async def test_the_owners_competing_session_is_waited_for(
    fast_clock: PatientClock, book: Book, brokerage: bool
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        rig.events.clear()
        rig.sim.login.competing = True
        rig.sim.login.brokerage = brokerage
        await rig.until(lambda: rig.told(CompetingLogin))
        await trio.sleep(6)
        assert rig.row() is None
        assert len(rig.events) == 1
        rig.sim.login.competing = False
        await rig.until_right()
        assert len(rig.events) == 2
        assert rig.only_true_rows()


async def test_a_gateway_without_its_upstream_gives_no_row(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        rig.events.clear()
        rig.sim.login.connected = False
        await rig.until(lambda: rig.row() is None)
        await rig.until(lambda: rig.told(LoginCutOff))
        rig.sim.login.connected = True
        await rig.until_right()
        assert len(rig.events) == 2
        assert rig.only_true_rows()


async def test_a_tickle_that_fails_now_and_then_does_not_end_the_session(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        for kind in ({"status": 500}, {"html": True}, {"text": "null"}, {"status": 403}):
            fault = Fault("/tickle", **kind)
            with rig.sim.faults(fault):
                await rig.until(lambda: fault.hits > 0)  # noqa: B023
        before = rig.sim.rules.counts["/tickle"]
        await rig.until(lambda: rig.sim.rules.counts["/tickle"] > before + 2)
        assert rig.bridge.is_connected()
        await rig.until_right()
        assert rig.only_true_rows()


@pytest.mark.parametrize("retry_after", [40, None])
async def test_a_penalty_is_sat_out_without_a_single_request(
    fast_clock: PatientClock, book: Book, retry_after: int | None
) -> None:
    length_s = 40.0 if retry_after else 600.0
    async with portal_rig(book, timing=QUICK._replace(positions_stale_s=25.0)) as rig:
        await rig.until_right()
        rig.events.clear()
        rig.sim.rules.penalize(length_s, retry_after=retry_after)
        await rig.until(lambda: rig.told(RequestsPaused))
        await trio.sleep(10)
        under_way = rig.sim.rules.sent_in_penalty
        await rig.bridge.probe()
        await trio.sleep(10)
        # Requests under way when the first 429 came may have met it, too: none after that.
        assert rig.sim.rules.sent_in_penalty == under_way <= 8
        assert rig.bridge.is_connected()
        if retry_after is None:
            await trio.sleep(10)
            assert rig.sim.rules.sent_in_penalty == under_way
            assert rig.row() is None
        else:
            await rig.until(lambda: rig.told(RequestsResumed))
            await rig.until_right()
            assert len(rig.events) == 2
        assert rig.only_true_rows()


async def test_a_reconnect_does_not_forget_the_penalty(
    fast_clock: PatientClock, book: Book
) -> None:
    async with portal_rig(book) as rig:
        await rig.until_right()
        rig.sim.rules.penalize(40, retry_after=40)
        await rig.until(lambda: rig.told(RequestsPaused))
        await trio.sleep(10)
        under_way = rig.sim.rules.sent_in_penalty
        await rig.bridge.disconnect()
        await rig.bridge.connect()
        assert rig.bridge.is_connected()
        assert rig.row() is None
        await trio.sleep(10)
        assert rig.sim.rules.sent_in_penalty == under_way
        await rig.until_right()
        assert rig.only_true_rows()


@pytest.mark.parametrize("kind", [{"status": 500}, {"html": True}, {"text": "{}"}], ids=str)
async def test_something_else_than_a_gateway_is_a_clear_error(
    fast_clock: PatientClock, book: Book, kind: dict[str, Any]
) -> None:
    async with portal_rig(book, connect=False) as rig:
        with rig.sim.faults(Fault("", **kind)), pytest.raises(GatewayError, match="auth/status"):
            await rig.bridge.connect()
        await rig.bridge.connect()
        await rig.until_right()


async def test_no_trouble_breaks_the_pacing(fast_clock: PatientClock) -> None:
    # Simulated violations fail the rig's end; here the count itself is looked at.
    book = make_book(options=130, accounts=2)
    book.freeze(at=10)
    timing = IMPATIENT._replace(positions_s=0.5, quotes_s=0.2, streamed_quotes_s=0.2)
    async with portal_rig(book, timing=timing) as rig:
        await rig.until_right()
        for fault in (
            Fault("", status=500),
            Fault(SNAPSHOT, hang=True),
            Fault("/portfolio", html=True),
            Fault("/iserver", status=401),
        ):
            with rig.sim.faults(fault):
                await trio.sleep(6)
        await rig.until_right()
        assert 8 <= rig.sim.rules.most_in_a_second <= 10, "it would have liked to ask more"
        assert not rig.sim.rules.violations
        assert rig.only_true_rows()
