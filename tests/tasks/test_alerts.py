"""Alerts reach a real receiver, survive a bad one, and never hold anything up."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.support import patient_clock
from tests.support.patient_clock import PatientClock
from tests.support.receiver import Receiver, open_receiver
from tests.support.rows import snapshot
from trio_bridge.events.rows import (
    CircuitClosed,
    CircuitOpened,
    RowsBegun,
    RowsComplete,
    RowsOnTime,
    RowsOverdue,
    RowsPartial,
)
from trio_bridge.events.service import PartBroke, ServiceDied, SteppedBack, TookOver
from trio_bridge.gateways.readiness import Blocked, Reason
from trio_bridge.model import ApiEvent, ApiMode, Severity, Verdict
from trio_bridge.policy.digest import MOST_KINDS
from trio_bridge.tasks.alerts import GOODBYE_S, LAST_WORD_S, SHORTEST_GOODBYE_S, Alerts
from trio_bridge.tasks.supervisor import ConnectionStatus, State
from trio_bridge.tasks.ticker import TickerStatus
from trio_bridge.tasks.webhook import Webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_bridge.events.event import Event

AT = datetime(2026, 1, 2, 14, 30, tzinfo=UTC)


@pytest.fixture
def quick_clock() -> PatientClock:
    """Real I/O, but nobody waits for the seconds between."""
    return PatientClock()


def event(
    message: str, status: Severity = Severity.WARNING, kind: str = "gateway.lost"
) -> ApiEvent:
    return ApiEvent(AT, ApiMode.SOCKET, message, status, kind)


class Bench:
    """Alerts at work, with what they look at."""

    def __init__(self, url: str, after_s: float, interval_s: float) -> None:
        self.alerts = Alerts(SecretStr(url), after_s=after_s, interval_s=interval_s, now=lambda: AT)
        self.ticker = TickerStatus()
        self.connection = ConnectionStatus(State.CONNECTED)
        self.asked_s: Callable[[], float | None] = trio.current_time
        """When the service was asked to end; here just when it ends."""
        self.stands_by = False
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.alerts.notice(event.as_row(AT, ApiMode.SOCKET))

    async def until_posted(self, receiver: Receiver, text: str) -> None:
        """Wait until the receiver has it, and the bridge knows that."""
        await until(lambda: text in receiver.text, f"{text!r} is not in {receiver.posts}")
        await until(lambda: self.alerts._in_hand is None, "it is posted again and again")


async def until(condition: Callable[[], object], complaint: str) -> None:
    await patient_clock.until(condition, every_s=0.5, complaint=lambda: complaint)


@asynccontextmanager
async def alerting(
    receiver: Receiver, *, after_s: float = 1e6, interval_s: float = 1.0
) -> AsyncIterator[Bench]:
    bench = Bench(receiver.url(), after_s, interval_s)
    run = partial(
        bench.alerts.run,
        bench.ticker,
        bench.connection,
        emit=bench.emit,
        asked_s=lambda: bench.asked_s(),
        stands_by=lambda: bench.stands_by,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield bench
        nursery.cancel_scope.cancel()


async def test_a_burst_of_kinds_does_not_stand_in_the_way_of_the_next_one(
    quick_clock: PatientClock,
) -> None:
    async with open_receiver() as receiver, alerting(receiver) as bench:
        for number in range(MOST_KINDS + 10):
            bench.alerts.notice(event("contract", kind=f"kind.{number}"))
        await bench.until_posted(receiver, "contract")
        bench.alerts.notice(event("disconnected"))
        await bench.until_posted(receiver, "disconnected")


async def test_a_bug_in_here_is_told_and_alerting_goes_on(
    quick_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_receiver() as receiver, alerting(receiver) as bench:
        monkeypatch.setattr(bench.alerts._webhook, "post", None)
        bench.alerts.notice(event("disconnected"))
        await until(lambda: bench.events, "the bug is not told")
        monkeypatch.undo()
        await bench.until_posted(receiver, PartBroke("alerting", 1.0).message)


async def test_warnings_and_errors_are_posted_and_infos_are_not(quick_clock: PatientClock) -> None:
    async with open_receiver() as receiver, alerting(receiver) as bench:
        bench.alerts.notice(event("all is well", Severity.INFO, "a"))
        bench.alerts.notice(event("database circuit CLOSED → OPEN"))
        bench.alerts.notice(event("spool can't be written", Severity.ERROR, "spool.unwritable"))
        await bench.until_posted(receiver, "spool")
    (post,) = receiver.posts
    assert receiver.targets == ["/services/the-secret"]
    assert post["status"] == "error"
    assert post["text"] == (
        "14:30:00 UTC warning: database circuit CLOSED → OPEN\n"
        "14:30:00 UTC error: spool can't be written"
    )
    assert post["content"] == f"{post['title']}\n{post['text']}"
    assert post["events"][1] == {
        "timestamp": "2026-01-02T14:30:00+00:00",
        "kind": "spool.unwritable",
        "status": "error",
        "message": "spool can't be written",
        "count": 1,
    }


async def test_the_last_word_about_rows_is_the_latest(quick_clock: PatientClock) -> None:
    """However often they change within the hour, and though the good word is no warning."""
    async with open_receiver() as receiver, alerting(receiver) as bench:
        bench.emit(RowsPartial(1, 30, ("A (no data)",)))
        await bench.until_posted(receiver, "A (no data)")
        bench.emit(RowsComplete(20, 95.0))
        await bench.until_posted(receiver, RowsComplete.kind)
        for name in "BCD":
            bench.emit(RowsComplete(3, 10.0))
            bench.emit(RowsPartial(1, 30, (name,)))
        await bench.until_posted(receiver, ": D")
    assert [one["kind"] for one in receiver.posts[-1]["events"]] == [RowsPartial.kind]
    assert receiver.posts[-1]["events"][0]["count"] == 6


async def test_the_end_of_a_database_outage_is_told_like_its_beginning(
    quick_clock: PatientClock,
) -> None:
    async with open_receiver() as receiver, alerting(receiver) as bench:
        bench.emit(CircuitOpened("CLOSED", "OPEN", "3 failures in a row: refused"))
        await bench.until_posted(receiver, CircuitOpened.kind)
        bench.emit(CircuitOpened("HALF_OPEN", "OPEN", "refused"))
        bench.emit(CircuitClosed("HALF_OPEN", "CLOSED", "everything is replayed"))
        await bench.until_posted(receiver, CircuitClosed.kind)
    assert [one["kind"] for one in receiver.posts[-1]["events"]] == [CircuitClosed.kind]


@pytest.mark.parametrize("verdict", [Verdict.COMPLETE, Verdict.PARTIAL])
async def test_what_the_first_row_after_a_start_is_worth_is_said_once(
    verdict: Verdict, quick_clock: PatientClock
) -> None:
    """A partial one has an event of its own."""
    async with open_receiver() as receiver, alerting(receiver) as bench:
        bench.alerts.notice(replace(snapshot(1), verdict=verdict))
        if verdict is Verdict.PARTIAL:
            bench.emit(RowsPartial(1, 30, ("A (no data)",)))
        for number in range(2, 5):
            bench.alerts.notice(snapshot(number))
        await until(lambda: receiver.posts, "nothing is posted")
        await trio.sleep(3600)
    said = [(one["kind"], one["count"]) for post in receiver.posts for one in post["events"]]
    assert said == [((RowsBegun if verdict is Verdict.COMPLETE else RowsPartial).kind, 1)]


@pytest.mark.parametrize("trouble", [429, 500, 503])
async def test_a_receiver_in_trouble_is_asked_again(
    trouble: int, quick_clock: PatientClock
) -> None:
    async with open_receiver() as receiver, alerting(receiver) as bench:
        receiver.answers = [trouble, trouble]
        bench.alerts.notice(event("disconnected"))
        await bench.until_posted(receiver, "disconnected")
    assert len(receiver.targets) == 3


async def test_a_receiver_says_how_long_to_leave_it_alone(quick_clock: PatientClock) -> None:
    async with open_receiver() as receiver, alerting(receiver) as bench:
        receiver.answers, receiver.headers = [429], [("Retry-After", "30")]
        bench.alerts.notice(event("disconnected"))
        began = trio.current_time()
        await bench.until_posted(receiver, "disconnected")
        assert trio.current_time() - began >= 30


async def test_a_refusal_for_good_is_logged_without_the_secret_and_the_next_alert_goes_on(
    quick_clock: PatientClock,
) -> None:
    with capture_logs() as logs:
        async with open_receiver() as receiver, alerting(receiver) as bench:
            receiver.answers, receiver.body = [404], b"no_service"
            bench.alerts.notice(event("one"))
            await until(lambda: logs, "nothing is logged")
            bench.alerts.notice(event("another", kind="rows.missed"))
            await bench.until_posted(receiver, "another")
    assert "one" not in receiver.text.replace("another", "")
    (line,) = logs
    assert line["log_level"] == "error"
    assert "BRIDGE_ALERT_URL" in line["event"]
    assert line["receiver"] == "127.0.0.1"
    assert "404" in line["reason"]
    assert "the-secret" not in str(logs)


async def test_an_address_that_cannot_be_asked_is_logged_and_ends_nothing(
    quick_clock: PatientClock,
) -> None:
    with capture_logs() as logs:
        async with open_receiver() as receiver, alerting(receiver) as bench:
            for host in ("xn--a", "hooks..example.com", "[v1.x]"):
                bench.alerts._webhook = Webhook(SecretStr(f"http://{host}/the-secret"))
                bench.alerts.notice(event("for it", kind=host))
                await until(lambda: logs, "nothing is logged")
                log = logs.pop()
                assert log["event"] == "alert refused: check BRIDGE_ALERT_URL"
                assert "the-secret" not in str(log)


async def test_a_redirection_is_a_refusal_and_is_not_followed(quick_clock: PatientClock) -> None:
    with capture_logs() as logs:
        async with open_receiver() as receiver, alerting(receiver) as bench:
            receiver.answers, receiver.headers = [302], [("Location", receiver.url("/elsewhere"))]
            bench.alerts.notice(event("one"))
            await until(lambda: logs, "nothing is logged")
    assert receiver.targets == ["/services/the-secret"]


async def test_a_receiver_that_is_not_there_and_then_is_gets_it_all(
    quick_clock: PatientClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with capture_logs() as logs:
        async with open_receiver() as receiver:
            receiver.silent = True
            async with alerting(receiver) as bench:
                bench.alerts.notice(event("attempt 1"))
                await until(lambda: logs, "nothing is logged")
                for number in range(2, 1000):
                    bench.alerts.notice(event(f"attempt {number}"))
                receiver.silent = False
                await bench.until_posted(receiver, "attempt 999")
    assert receiver.posts[0]["events"][0]["message"] == "attempt 1"
    assert receiver.posts[-1]["events"][0]["count"] == 998
    assert "the-secret" not in str(logs) + caplog.text


async def test_no_right_row_is_an_alert_with_its_reason_and_so_is_the_end_of_that(
    quick_clock: PatientClock,
) -> None:
    async with open_receiver() as receiver, alerting(receiver, after_s=10.0) as bench:
        bench.ticker.silent_because = str(Blocked(Reason.NOT_CONNECTED))
        await bench.until_posted(receiver, RowsOverdue.kind)
        assert "not connected to the gateway" in receiver.text
        assert receiver.posts[0]["status"] == "error"
        bench.ticker.last_right_s = trio.current_time()
        await bench.until_posted(receiver, RowsOnTime.kind)


async def test_rows_without_one_known_greek_are_no_right_rows(quick_clock: PatientClock) -> None:
    async with open_receiver() as receiver, alerting(receiver, after_s=10.0) as bench:
        row = replace(snapshot(1, AT), delta=None, gamma=None, vega=None, theta=None, priced=0)
        bench.ticker.rows, bench.ticker.last = 12, row
        await bench.until_posted(receiver, "not one option has Greeks")


async def test_a_ticker_that_stands_still_is_not_said_to_miss_greeks(
    quick_clock: PatientClock,
) -> None:
    async with open_receiver() as receiver, alerting(receiver, after_s=10.0) as bench:
        bench.ticker.rows, bench.ticker.last = 12, snapshot(1, AT)
        await bench.until_posted(receiver, "no slot was served in time")


async def test_a_row_that_comes_seldom_is_not_missed_in_between(quick_clock: PatientClock) -> None:
    async with (
        open_receiver() as receiver,
        alerting(receiver, after_s=10.0, interval_s=20.0) as bench,
    ):
        for _ in range(5):
            await trio.sleep(20.0)
            bench.ticker.last_right_s = trio.current_time()
        assert receiver.posts == []
        await bench.until_posted(receiver, "row for 6")


async def test_a_reset_window_raises_no_alarm(quick_clock: PatientClock) -> None:
    async with open_receiver() as receiver, alerting(receiver, after_s=10.0) as bench:
        bench.connection.state = State.HOLDING
        await trio.sleep(30)
        assert receiver.posts == []
        bench.connection.state = State.CONNECTING
        await bench.until_posted(receiver, RowsOverdue.kind)


async def test_a_standby_misses_no_rows_until_it_could_not_take_over(
    quick_clock: PatientClock,
) -> None:
    async with open_receiver() as receiver, alerting(receiver, after_s=10.0) as bench:
        bench.stands_by = True
        await trio.sleep(30)
        assert receiver.posts == []
        bench.stands_by = False
        await bench.until_posted(receiver, RowsOverdue.kind)


async def test_taking_over_is_told_and_so_is_its_end(quick_clock: PatientClock) -> None:
    async with open_receiver() as receiver, alerting(receiver) as bench:
        bench.emit(TookOver("no row from nas:1-0000 since 14:30:05"))
        await bench.until_posted(receiver, TookOver.kind)
        bench.emit(SteppedBack("nas:1-0000"))
        await bench.until_posted(receiver, SteppedBack.kind)


async def test_what_was_noted_last_is_posted_at_the_end(quick_clock: PatientClock) -> None:
    async with open_receiver() as receiver:
        async with alerting(receiver) as bench:
            await trio.sleep(1)
            bench.alerts.notice(event("the last thing that happened"))
            bench.asked_s = lambda: None
        assert "the last thing that happened" in receiver.text
        assert ServiceDied.kind in receiver.text


async def test_what_was_being_posted_at_the_end_is_not_lost(quick_clock: PatientClock) -> None:
    async with open_receiver() as receiver:
        async with alerting(receiver) as bench:
            receiver.answers = [503]
            bench.alerts.notice(event("first"))
            await until(lambda: receiver.targets, "nothing is posted")
            bench.alerts.notice(event("second", kind="rows.missed"))
        assert [one["message"] for one in receiver.posts[0]["events"]] == ["first", "second"]


@pytest.mark.parametrize(
    ("asked_ago_s", "limit_s"),
    [(None, LAST_WORD_S), (0.0, GOODBYE_S), (1.5, GOODBYE_S - 1.5), (60.0, SHORTEST_GOODBYE_S)],
    ids=["unasked", "asked", "asked a while ago", "asked long ago"],
)
async def test_a_silent_receiver_does_not_hold_up_the_end(
    quick_clock: PatientClock, asked_ago_s: float | None, limit_s: float
) -> None:
    async with open_receiver() as receiver:
        receiver.silent = True
        async with alerting(receiver) as bench:
            await trio.sleep(1)
            bench.alerts.notice(event("nobody hears this"))
            began = trio.current_time()
            asked_s = None if asked_ago_s is None else began - asked_ago_s
            bench.asked_s = lambda: asked_s
        assert trio.current_time() - began < limit_s + 0.5


async def test_a_quiet_end_posts_nothing(quick_clock: PatientClock) -> None:
    async with open_receiver() as receiver:
        async with alerting(receiver):
            await trio.sleep(5)
        assert receiver.targets == []
