"""The supervisor: when to try, when to hold, and when a silent gateway is a lost one."""

from __future__ import annotations

import random
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.time import EASTERN, WallClock, eastern
from trio_bridge.config import load_settings
from trio_bridge.errors import ConfigError
from trio_bridge.events.gateway import (
    AccountsAwaited,
    Connected,
    ConnectionLost,
    GatewaySilent,
    HoldBegun,
    HoldEnded,
    Reconnecting,
)
from trio_bridge.events.service import ClockStepped, ServiceStopped
from trio_bridge.gateways.accounts import UnmanagedAccountError
from trio_bridge.gateways.fake import FakeBridge
from trio_bridge.gateways.readiness import NotReadyError
from trio_bridge.gateways.sleep import SleepWatch
from trio_bridge.policy.reset_window import hold_until, parse_reset_windows
from trio_bridge.tasks.supervisor import ACCOUNTS_PATIENCE_S, State, Supervisor
from trio_bridge.tasks.ticker import Ticker

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_bridge.events.event import Event
    from trio_bridge.model import Snapshot

NOON = eastern(2026, 3, 2, 12, 0, 0)
ASLEEP = ConnectionLost("fake:4001", "the machine was asleep for 3600 s")
CLOCK_SET = ConnectionLost(
    "fake:4001", "the machine's clock was set forward by 3600 s, or the machine was paused"
)


class Rig:
    """A supervisor around a fake bridge on a virtual clock, with everything it said."""

    def __init__(
        self,
        start: datetime = NOON,
        *,
        windows: str = "23:40-00:05",
        heartbeat_s: float = 10.0,
        delays_s: tuple[float, ...] = (5.0, 10.0, 20.0),
        clock: type[WallClock] = WallClock,
    ) -> None:
        self.wall = clock(start)
        self.bridge = FakeBridge(load_settings(), now=self.wall)
        self.events: list[tuple[float, Event]] = []
        self.windows = parse_reset_windows(windows)
        self.supervisor = Supervisor(
            self.bridge,
            delays_s=delays_s,
            windows=self.windows,
            heartbeat_s=heartbeat_s,
            emit=self.emit,
            now=self.wall,
        )
        self.wall()

    def emit(self, event: Event) -> None:
        self.events.append((trio.current_time(), event))

    @property
    def said(self) -> list[Event]:
        return [event for _, event in self.events]

    def state(self) -> State:
        return self.supervisor.status.state

    def attempt_times(self) -> list[str]:
        return [f"{at.astimezone(EASTERN):%H:%M:%S}" for at in self.bridge.attempts]


async def test_waits_5_10_20_20_seconds_before_attempts(autojump_clock: MockClock) -> None:
    rig = Rig()
    rig.bridge.refusal = "connection refused by 127.0.0.1:4001"
    with trio.move_on_after(80):
        await rig.supervisor.run()
    assert rig.attempt_times() == [
        "12:00:00",
        "12:00:05",
        "12:00:15",
        "12:00:35",
        "12:00:55",
        "12:01:15",
    ]
    assert rig.said[:3] == [
        Reconnecting(1, 5.0, rig.bridge.refusal),
        Reconnecting(2, 10.0, rig.bridge.refusal),
        Reconnecting(3, 20.0, rig.bridge.refusal),
    ]


async def test_connects_when_the_gateway_comes(autojump_clock: MockClock) -> None:
    rig = Rig()
    rig.bridge.refusal = "refused"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.supervisor.run)
        await trio.sleep(16)
        assert rig.state() == State.BACKING_OFF
        rig.bridge.refusal = None
        await trio.sleep(20)
        assert rig.state() == State.CONNECTED
        nursery.cancel_scope.cancel()
    assert rig.said[-2:] == [Connected("fake:4001"), ServiceStopped("fake:4001")]


@pytest.mark.parametrize(("up_s", "next_delay"), [(59.0, 10), (60.0, 5), (3600.0, 5)])
async def test_a_minute_of_health_starts_the_sequence_anew(
    up_s: float, next_delay: int, autojump_clock: MockClock
) -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.supervisor.run)
        await trio.sleep(1)
        rig.bridge.drop("first")
        await trio.sleep(5)  # attempt 1 was made after 5 s
        await trio.sleep(up_s)
        rig.bridge.drop("second")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    attempt, end = rig.said[-2:]
    assert isinstance(attempt, Reconnecting)
    assert (attempt.delay_s, attempt.reason) == (next_delay, "second")
    assert end == ServiceStopped()


@pytest.mark.parametrize("lost_at", [(23, 40, 0), (23, 59, 59), (23, 50, 17)])
async def test_a_loss_in_the_reset_window_is_held_until_five_past_midnight(
    lost_at: tuple[int, int, int], autojump_clock: MockClock
) -> None:
    start = eastern(2026, 3, 2, *lost_at)
    rig = Rig(start - timedelta(seconds=90))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.supervisor.run)
        await trio.sleep(90)
        rig.bridge.drop("nightly")
        rig.bridge.refusal = "not back yet"
        await trio.sleep(40 * 60)
        nursery.cancel_scope.cancel()
    assert rig.attempt_times()[1:4] == ["00:05:00", "00:05:05", "00:05:15"]
    assert HoldBegun("00:05 ET", "nightly") in rig.said


async def test_a_loss_just_outside_the_window_is_not_held(autojump_clock: MockClock) -> None:
    rig = Rig(eastern(2026, 3, 2, 0, 3, 30))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.supervisor.run)
        await trio.sleep(90)
        rig.bridge.drop("late")
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert rig.attempt_times() == ["00:03:30", "00:05:05"]


async def test_a_wait_that_runs_into_the_window_becomes_a_hold(autojump_clock: MockClock) -> None:
    rig = Rig(eastern(2026, 3, 2, 23, 39, 50))
    rig.bridge.refusal = "down"
    with trio.move_on_after(1600):
        await rig.supervisor.run()
    assert rig.attempt_times()[:4] == ["23:39:50", "23:39:55", "00:05:00", "00:05:05"]


async def test_a_hold_notices_that_the_wall_clock_moved(autojump_clock: MockClock) -> None:
    rig = Rig(eastern(2026, 3, 2, 23, 45, 0))
    rig.bridge.refusal = "down"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.supervisor.run)
        await trio.sleep(60)
        rig.wall.jump(timedelta(minutes=45))  # the lid was closed
        await trio.sleep(31)
        assert len(rig.bridge.attempts) >= 2
        nursery.cancel_scope.cancel()
    assert rig.attempt_times()[1] <= "00:31:31"


class SlowReading(WallClock):
    """Half a second passes between two readings, however close together they are made."""

    def __call__(self) -> datetime:
        self._start += timedelta(seconds=0.5)
        return super().__call__()


@pytest.mark.parametrize("seconds_before", range(1, 12))
async def test_a_window_may_end_between_two_readings_of_the_clock(
    seconds_before: int, autojump_clock: MockClock
) -> None:
    end = eastern(2026, 3, 2, 0, 5, 0)
    rig = Rig(end - timedelta(seconds=seconds_before + 0.3), clock=SlowReading)
    rig.bridge.refusal = "down"
    with trio.move_on_after(30):
        await rig.supervisor.run()
    assert len(rig.bridge.attempts) >= 2


async def test_no_row_from_the_first_missed_probe_and_lost_at_the_second(
    autojump_clock: MockClock,
) -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.supervisor.run)
        await trio.sleep(11)
        rig.bridge.get_portfolio_greeks()
        rig.bridge.silent = True
        await trio.sleep(10)
        with pytest.raises(NotReadyError, match="last probe"):
            rig.bridge.get_portfolio_greeks()
        assert rig.bridge.is_connected()
        await trio.sleep(10)
        assert not rig.bridge.is_connected()
        rig.bridge.silent = False
        await trio.sleep(5)
        rig.bridge.get_portfolio_greeks()
        nursery.cancel_scope.cancel()
    kinds = [event.kind for event in rig.said]
    silent = kinds.index(GatewaySilent.kind)
    assert kinds[silent + 1] == ConnectionLost.kind


async def test_one_missed_probe_is_forgiven(autojump_clock: MockClock) -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.supervisor.run)
        for _ in range(5):
            await trio.sleep(6)
            rig.bridge.silent = True
            await trio.sleep(8)
            rig.bridge.silent = False
            await trio.sleep(6)
        await trio.sleep(1)
        rig.bridge.get_portfolio_greeks()
        nursery.cancel_scope.cancel()
    assert len(rig.bridge.attempts) == 1


async def test_probes_keep_their_distance(autojump_clock: MockClock) -> None:
    rig = Rig(heartbeat_s=1.0)
    with trio.move_on_after(600):
        await rig.supervisor.run()
    gaps = [b - a for a, b in zip(rig.bridge.probes, rig.bridge.probes[1:], strict=False)]
    assert len(gaps) > 500
    assert min(gaps) >= 1.0


def sleepy_rig() -> Rig:
    """Connects between two slots."""
    return Rig(NOON + timedelta(seconds=2), delays_s=(4.0,))


async def rows_around(
    rig: Rig, jump: timedelta, *, asleep: bool = True
) -> tuple[list[Snapshot], list[Snapshot]]:
    """The rows of the minute before the wall clock jumps, and of the minute after."""
    slept = [0.0]
    rig.bridge.sleep = SleepWatch(rig.emit, slept=lambda: slept[0])
    rows: list[Snapshot] = []
    ticker = Ticker(rig.bridge, rows.append, interval_s=5.0, emit=rig.emit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.supervisor.run)
        nursery.start_soon(ticker.run)
        await trio.sleep(62)
        before = len(rows)
        rig.wall.jump(jump)
        slept[0] += jump.total_seconds() if asleep else 0.0
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    return rows[:before], rows[before:]


async def test_no_row_of_what_was_known_before_the_machine_slept(
    autojump_clock: MockClock,
) -> None:
    """Trio's clock stands still meanwhile (Linux, macOS): nothing else has changed."""
    rig = sleepy_rig()
    before, after = await rows_around(rig, timedelta(hours=1))
    assert len(before) == 12
    assert len(rig.bridge.attempts) == 2
    assert after[0].timestamp >= rig.bridge.attempts[1]
    assert len(after) == 11  # one slot found it out
    assert ASLEEP in rig.said


async def test_a_clock_that_is_set_forward_is_no_sleep_but_may_hide_a_pause(
    autojump_clock: MockClock,
) -> None:
    rig = sleepy_rig()
    before, after = await rows_around(rig, timedelta(hours=1), asleep=False)
    assert CLOCK_SET in rig.said
    assert ASLEEP not in rig.said
    (step,) = [event for event in rig.said if isinstance(event, ClockStepped)]
    assert step.step_s == pytest.approx(3600)
    assert before[-1].timestamp == step.before
    assert step.before + timedelta(hours=1) < step.after <= after[0].timestamp


async def test_a_clock_that_is_set_back_is_an_event_and_costs_no_row(
    autojump_clock: MockClock,
) -> None:
    rig = sleepy_rig()
    before, after = await rows_around(rig, timedelta(hours=-1), asleep=False)
    assert (len(before), len(after)) == (12, 12)
    assert len(rig.bridge.attempts) == 1
    (step,) = [event for event in rig.said if isinstance(event, ClockStepped)]
    assert step.step_s == pytest.approx(-3600)
    assert (step.before, step.after) == (before[-1].timestamp, after[0].timestamp)


async def test_no_row_of_what_was_known_before_the_process_stood_still(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused container: Trio's clock went on. The gateway's answer follows all it said before."""
    rig = Rig()
    answer = trio.Event()

    async def probe() -> None:
        await answer.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.supervisor.run)
        await trio.testing.wait_all_tasks_blocked()
        rig.bridge.get_portfolio_greeks()
        monkeypatch.setattr(rig.bridge, "probe", probe)
        mock_clock.jump(10.1)  # a busy machine's probe
        await trio.testing.wait_all_tasks_blocked()
        rig.bridge.get_portfolio_greeks()
        answer.set()
        await trio.testing.wait_all_tasks_blocked()
        answer = trio.Event()
        mock_clock.jump(3600)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(NotReadyError):
            rig.bridge.get_portfolio_greeks()
        answer.set()
        await trio.testing.wait_all_tasks_blocked()
        rig.bridge.get_portfolio_greeks()
        nursery.cancel_scope.cancel()
    assert len(rig.bridge.attempts) == 1


async def test_a_long_interval_brings_no_row_of_before_the_process_stood_still_either(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its slot may be served minutes late: not before the gateway has been asked."""
    for _ in range(10):  # tasks that are due at once run in any order
        rig, answer = Rig(), trio.Event()
        rows: list[Snapshot] = []

        async def probe(answer: trio.Event = answer) -> None:
            await answer.wait()

        monkeypatch.setattr(rig.bridge, "probe", probe)
        ticker = Ticker(rig.bridge, rows.append, interval_s=600.0, emit=rig.emit)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.supervisor.run)
            nursery.start_soon(ticker.run)
            await trio.testing.wait_all_tasks_blocked()
            rows.clear()
            mock_clock.jump(600 + 240)
            await trio.testing.wait_all_tasks_blocked()
            assert rows == []
            answer.set()
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(1.1)
            await trio.testing.wait_all_tasks_blocked()
            assert len(rows) == 1
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", [9.0, -3600.0], ids=["a little forward", "back"])
async def test_a_corrected_wall_clock_is_no_sleep(
    seconds: float, autojump_clock: MockClock
) -> None:
    rig = sleepy_rig()
    before, after = await rows_around(rig, timedelta(seconds=seconds), asleep=False)
    assert (len(before), len(after)) == (12, 12)
    assert len(rig.bridge.attempts) == 1


async def test_a_sleep_while_nothing_is_connected_disturbs_no_new_connection(
    autojump_clock: MockClock,
) -> None:
    rig = sleepy_rig()
    rig.bridge.refusal = "refused"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rows_around, rig, timedelta(hours=1))
        await trio.sleep(70)
        rig.bridge.refusal = None
        await trio.sleep(50)
        assert rig.bridge.is_connected()
        nursery.cancel_scope.cancel()
    assert rig.said.count(Connected("fake:4001")) == 1


async def test_a_connection_that_was_being_made_when_the_machine_slept_is_made_anew(
    autojump_clock: MockClock,
) -> None:
    """The positions of a gateway on the same machine came through: as they were before."""
    rig = sleepy_rig()
    rig.bridge.connect_s = 20.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rows_around, rig, timedelta(hours=1))
        await trio.sleep(50)
        rig.bridge.drop()
        await trio.sleep(70)
        nursery.cancel_scope.cancel()
    assert rig.said.count(ASLEEP) == 1
    assert len(rig.bridge.attempts) == 3


async def test_a_setting_that_cannot_work_ends_the_service_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse() -> None:
        raise ConfigError("IBKR_CA_FILE=x: no usable PEM certificates")

    rig = Rig()
    monkeypatch.setattr(rig.bridge, "connect", refuse)
    with pytest.raises(ConfigError):
        await rig.supervisor.run()
    assert trio.current_time() < 1.0


async def test_an_account_that_is_not_listed_ends_the_service_after_minutes_but_not_later(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = UnmanagedAccountError(("X",), ("X",), ("U1",))

    async def refuse() -> None:
        raise error

    rig = Rig()
    began = trio.current_time()
    with monkeypatch.context() as patch:
        patch.setattr(rig.bridge, "connect", refuse)
        with pytest.raises(UnmanagedAccountError):
            await rig.supervisor.run()
    assert 0 <= trio.current_time() - began - ACCOUNTS_PATIENCE_S <= 20
    assert rig.said[0] == AccountsAwaited(("X",), ("U1",), ACCOUNTS_PATIENCE_S)
    assert rig.said.count(rig.said[0]) == 1

    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.supervisor.run)
        await trio.sleep(1)
        monkeypatch.setattr(rig.bridge, "connect", refuse)
        rig.bridge.drop()
        await trio.sleep(2 * ACCOUNTS_PATIENCE_S)
        nursery.cancel_scope.cancel()
    last = rig.said[-2]
    assert isinstance(last, Reconnecting)
    assert (last.delay_s, last.reason) == (20.0, str(error))
    assert not any(isinstance(one, AccountsAwaited) for one in rig.said)


@pytest.mark.parametrize("start", [(2026, 3, 1), (2026, 10, 25)], ids=["spring", "autumn"])
async def test_a_month_of_nights_weekends_and_drops(
    start: tuple[int, int, int], autojump_clock: MockClock
) -> None:
    """Every attempt of a month (with a daylight-saving change) stands where the policy puts it."""
    rig = Rig(eastern(*start), windows="23:40-00:05,Fri 23:00-Sat 03:00", heartbeat_s=300.0)
    rng = random.Random(7)
    end = rig.wall() + timedelta(days=31)
    losses: list[datetime] = []

    async def break_things() -> None:
        while True:
            await trio.sleep(rng.expovariate(1 / 7200))
            losses.append(rig.wall())
            rig.bridge.refusal = "away"
            rig.bridge.drop("away")
            await trio.sleep(rng.choice((0.5, 12.0, 47.0, 900.0)))
            rig.bridge.refusal = None

    async def reset_nightly() -> None:
        while True:
            now = rig.wall().astimezone(EASTERN)
            night = datetime(now.year, now.month, now.day, 23, 45, tzinfo=EASTERN)
            if night <= now:
                night = datetime.combine(
                    now.date() + timedelta(days=1), night.timetz().replace(tzinfo=EASTERN)
                )
            await trio.sleep((night.astimezone(UTC) - rig.wall()).total_seconds())
            rig.bridge.drop("nightly reset")

    with trio.move_on_after((end - rig.wall()).total_seconds()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.supervisor.run)
            nursery.start_soon(break_things)
            nursery.start_soon(reset_nightly)

    assert len(losses) > 200
    attempts = rig.bridge.attempts[1:]
    assert len(attempts) > 300
    # 1. Never an attempt inside a window.
    assert [at for at in attempts if hold_until(at, rig.windows) is not None] == []
    # 2. Each attempt is announced, and made at the instant that was announced.
    announced = sorted(_announced(rig))
    assert len(announced) >= len(attempts)
    moment = timedelta(milliseconds=10)
    for at in attempts:
        nearest = bisect_left(announced, at - moment)
        assert nearest < len(announced), at
        assert announced[nearest] <= at + moment, at
    # 3. Each night's hold ends at 00:05 ET exactly, on Saturdays at 03:00.
    held = {f"{at.astimezone(EASTERN):%a %H:%M:%S}" for at in _after_holds(rig)}
    assert {text[4:] for text in held if not text.startswith("Sat")} == {"00:05:00"}
    assert {text[4:] for text in held if text.startswith("Sat")} == {"03:00:00"}


def _announced(rig: Rig) -> list[datetime]:
    began = rig.wall._began or 0.0
    found = []
    for at, event in rig.events:
        moment = rig.wall._start + timedelta(seconds=at - began)
        if isinstance(event, Reconnecting):
            found.append(moment + timedelta(seconds=event.delay_s))
        elif isinstance(event, HoldEnded):
            found.append(moment)
    return found


def _after_holds(rig: Rig) -> list[datetime]:
    began = rig.wall._began or 0.0
    return [
        rig.wall._start + timedelta(seconds=at - began)
        for at, event in rig.events
        if isinstance(event, HoldEnded)
    ]
