"""Trouble after trouble, in any order, over real sockets: no false row, and a right one after it.

A session's messages are made up in `test_socket_messages`; here the simulated gateway means what it
says, but loses its link, its farms, its clients and its tongue at random, while positions change.
Whatever happens, no Greek is called current whose line has been silent for longer than a renewal
takes, and no session has more market data lines than the settings allow.
"""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.gateways.socket.support import agrees, options_of, socket_rig, still_book
from tests.support.patient_clock import PatientClock
from tests.support.time import WallClock
from trio_bridge.gateways import sleep
from trio_bridge.gateways.base import discard_event
from trio_bridge.gateways.socket.market_data import refusals
from trio_bridge.gateways.socket.market_data.feed import ANSWER_S
from trio_bridge.model import utc_now
from trio_bridge.policy import clocks
from trio_bridge.risk.verdict import RENEWAL_S
from trio_bridge.simulator.tws import wire
from trio_bridge.simulator.tws.market_data import MarketData, Stall, Subscription
from trio_bridge.simulator.tws.requests import Requests
from trio_bridge.tasks.supervisor import Supervisor
from trio_bridge.tasks.ticker import Ticker

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gateways.socket.support import Rig
    from trio_bridge.model import Snapshot
    from trio_bridge.simulator.book import Book, NetGreeks

pytestmark = pytest.mark.long

HEARTBEAT_S = 3.0
BLIND_S = HEARTBEAT_S + 5.0 + 3.0
"""How long a gateway may be silent before the bridge knows."""

PATIENCE_S = 900.0
"""Until all is right when no fault is left; on the fast clock."""

PAUSES_S = (0.0, 0.01, 0.1, 1.0, 3.0, 12.0, 80.0)

SILENT_FOR_S = RENEWAL_S + ANSWER_S + 3.0
"""Until a line that says nothing is no longer called current: noticed once a second, and the
answer's packets may be late."""

ADVICE = (354, 10089, 10090, 10091, 10167, 10168, 10186)


class Walk:
    """One random walk through the faults of one gateway."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.book: Book = still_book(
            options=self.rng.choice((3, 6, 12)), accounts=self.rng.choice((1, 2))
        )
        self.held = options_of(self.book)
        self.truths: list[tuple[float, NetGreeks]] = [(-math.inf, self.book.net_greeks())]
        self.details_after_s = 0.0
        self.past: list[tuple[float, str]] = []
        self.false_rows: list[tuple[float, Snapshot, list[tuple[float, str]]]] = []
        self.lines = self.rng.choice((4, 90))
        self.spoke_at: dict[int, float] = {}
        """When the gateway last sent a computation of an option."""
        self.complaints: list[str] = []
        self.rig: Rig | None = None

    def judge(self, row: Snapshot) -> None:
        """A whole row says what the book said lately, a partial one counts the same positions."""
        now = trio.current_time()
        ends = [at for at, _ in self.truths[1:]] + [math.inf]
        lately = [
            truth for (_, truth), end in zip(self.truths, ends, strict=True) if end > now - BLIND_S
        ]
        if row.priced == row.positions:
            fits = any(_equal(row, truth) for truth in lately)
        else:
            fits = any(row.positions == truth.positions for truth in lately)
        if not fits:
            self.false_rows.append((now, row, self.past[-8:]))
        self.look(now)

    def look(self, now: float) -> None:
        """Whether what is called current is, and whether lines are kept to the limit."""
        assert self.rig is not None
        for con_id, greeks in self.rig.bridge.inputs().greeks.items():
            silent_s = now - self.spoke_at.get(con_id, -math.inf)
            if greeks.current_until is None and silent_s > SILENT_FOR_S:
                self.complaints.append(f"{con_id} is silent for {silent_s} s: {self.past[-8:]}")
        for session in self.rig.sim.sessions:
            in_use = len(session.market_data.subscriptions)
            if in_use > self.lines:
                self.complaints.append(f"{in_use} lines in use: {self.past[-8:]}")

    def faults(self, rig: Rig) -> dict[str, Callable[[], object]]:
        sim, rng, held = rig.sim, self.rng, self.held

        def some() -> list[int]:
            ids = [option.con_id for option in held]
            return rng.sample(ids, rng.randint(1, len(ids)))

        def trade() -> None:
            # One position of an account whose others are late would be half a book that nothing
            # gives away.
            accounts = [one for one in self.book.accounts if one not in sim.quirks.late_positions]
            if not accounts:
                return
            account, option = rng.choice(accounts), rng.choice(held)
            self.book.set_position(account, option.con_id, rng.choice((0, -3, 2, 7)))
            self.truths.append((trio.current_time(), self.book.net_greeks()))

        def flap() -> None:
            sim.lose_upstream()
            sim.restore_upstream(data_kept=rng.random() < 0.5)
            sim.lose_upstream()

        def lack() -> None:
            lacking = rng.sample(("exchange", "multiplier"), rng.randint(0, 2))
            sim.positions_lack = frozenset(lacking)

        def set_details() -> None:
            self.details_after_s = rng.choice((0.0, 5.0, 20.0, math.inf))

        def one() -> list[int]:
            return [rng.choice(held).con_id]

        def misplace() -> None:
            option = rng.choice(held)
            own = (option.exchange,)
            sim.quirks.position_exchanges[option.con_id] = rng.choice(("AMEX", option.exchange))
            sim.quirks.data_exchanges[option.con_id] = rng.choice((own, ("SMART",), ("",)))

        def set_lines() -> None:
            sim.lines_used_by_owner = rng.choice((0, 97, 99, 100))

        def set_download() -> None:
            sim.download_delay_s = rng.choice((0.0, 0.1, 1.0))

        def come_late() -> None:
            """After the next login, too."""
            late = rng.choice((0.0, 2.0, 9.0))
            sim.quirks.late_positions = {rng.choice(self.book.accounts): late} if late else {}

        def hide() -> None:
            sim.hide_account(rng.choice(self.book.accounts), rng.choice((1.0, 20.0)))

        def know_nothing() -> None:
            sim.quirks.empty_downloads = rng.choice((1, 2, 3, 5))

        def set_probes() -> None:
            sim.answers_current_time = rng.random() < 0.5

        return {
            "trades": trade,
            "trades again": trade,
            "tells positions late": come_late,
            "knows of no positions": know_nothing,
            "lists fewer accounts": hide,
            "is back without a word": lambda: sim.restore_upstream(silently=True),
            "drops": lambda: sim.drop_connections(reset=rng.random() < 0.5),
            "breaks the download": sim.break_next_download,
            "hangs": sim.hang,
            "goes on": sim.unhang,
            "answers probes or not": set_probes,
            "accepts and is silent": sim.accept_silently,
            "accepts and closes": sim.accept_and_close,
            "accepts": sim.accept_normally,
            "moves": lambda: sim.notify(1300, "4001"),
            "is cut off": lambda: sim.lose_upstream(rng.choice((1100, 2110))),
            "is back": lambda: sim.restore_upstream(data_kept=rng.random() < 0.5),
            "is on and off": flap,
            "loses a farm": lambda: sim.break_farm(some()),
            "has its farms": sim.mend_farm,
            "competes": sim.start_competing_session,
            "competes no more": lambda: sim.end_competing_session(data_return=rng.random() < 0.5),
            "refuses": lambda: sim.refuse_market_data(some(), rng.choice((200, 354, 10186, 10089))),
            "refuses nothing": sim.allow_market_data,
            "is quiet": lambda: sim.pause_ticks(some()),
            "is not quiet": sim.resume_ticks,
            "all its lines stand still": sim.stall_lines,
            "a line stands still": lambda: sim.stall_lines(one()),
            "its lines go on": sim.revive_lines,
            "advises": lambda: sim.say_of_lines(some(), rng.choice(ADVICE)),
            "says 10197 of one": lambda: sim.say_of_lines(one(), 10197, times=3),
            "moves data to another exchange": misplace,
            "uses lines": set_lines,
            "leaves out": lack,
            "tells details": set_details,
            "downloads slowly": set_download,
        }

    def heal(self, rig: Rig) -> None:
        sim = rig.sim
        sim.unhang()
        sim.accept_normally()
        sim.allow_market_data()
        sim.resume_ticks()
        sim.mend_farm()
        sim.end_competing_session()
        sim.revive_lines()
        sim.quirks.position_exchanges.clear()
        sim.quirks.data_exchanges.clear()
        sim.answers_current_time = True
        sim.lines_used_by_owner = 0
        sim.quirks.late_positions = {}
        self.details_after_s = sim.download_delay_s = 0.0
        if sim.upstream_lost:
            sim.restore_upstream()

    async def go(self) -> None:
        async with socket_rig(
            self.book,
            connect=False,
            simulator={"tick_interval_s": 1.0},
            now=WallClock(utc_now()),
            ib_market_data_lines=self.lines,
            greeks_max_age_s=30.0,
        ) as rig:
            self.rig = rig
            supervisor = Supervisor(
                rig.bridge,
                delays_s=(0.5, 1.0),
                windows=(),
                heartbeat_s=HEARTBEAT_S,
                emit=rig.events.append,
            )
            ticker = Ticker(rig.bridge, self.judge, interval_s=0.5, emit=discard_event)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.run)
                nursery.start_soon(ticker.run)
                faults = self.faults(rig)
                for _ in range(self.rng.randint(10, 40)):
                    name = self.rng.choice(tuple(faults))
                    self.past.append((round(trio.current_time(), 2), name))
                    faults[name]()
                    await trio.sleep(self.rng.choice(PAUSES_S))
                await self.recover(rig)
                await self.fall_silent(rig)
                await self.recover(rig)
                options = {one.contract.con_id for one in self.book.positions()}
                options &= {option.con_id for option in self.held}
                assert rig.sim.lines_in_use_by_clients <= min(self.lines, len(options)), self.past
                nursery.cancel_scope.cancel()

    async def recover(self, rig: Rig) -> None:
        self.heal(rig)
        with trio.move_on_after(PATIENCE_S):
            await rig.until(lambda: self.is_right(rig), f"after {self.past}")
        assert self.is_right(rig), (rig.row(), rig.events[-9:], self.past)

    async def fall_silent(self, rig: Rig) -> None:
        """All lines, or one, stand still for long, with nothing else amiss."""
        held = [option.con_id for option in self.held]
        self.past.append((round(trio.current_time(), 2), "falls silent"))
        rig.sim.pause_ticks(self.rng.choice((held, held[:1])))
        await trio.sleep(self.rng.uniform(1.0, 2.0) * SILENT_FOR_S)

    def is_right(self, rig: Rig) -> bool:
        row = rig.row()
        return row is not None and agrees(row, self.book)


def _equal(row: Snapshot, truth: NetGreeks) -> bool:
    return row.positions == truth.positions and all(
        value is not None and math.isclose(value, true, rel_tol=1e-9, abs_tol=1e-9)
        for value, true in zip(
            (row.delta, row.gamma, row.vega, row.theta),
            (truth.delta, truth.gamma, truth.vega, truth.theta),
            strict=True,
        )
    )


def test_no_false_row_in_any_series_of_disasters_and_a_right_one_after(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sleep, "SHORTEST_SLEEP_S", math.inf)
    monkeypatch.setattr(clocks, "SMALLEST_STEP_S", math.inf)
    for again in ("ASK_UNKNOWN_S", "ASK_REFUSED_S", "ASK_INVALID_S"):
        monkeypatch.setattr(refusals, again, 30.0)
    download, answer = Requests._download, Requests._contract_details
    walk: Walk

    async def download_if_known(self: Requests) -> None:
        """A gateway without its link knows of no positions."""
        if self._state.upstream_lost:
            self._send(wire.position_end())
        else:
            await download(self)

    def answer_late(self: Requests, fields: list[str]) -> None:
        after_s = walk.details_after_s

        async def late() -> None:
            await trio.sleep(0.0 if after_s == math.inf else after_s)
            if after_s == math.inf:
                self._client.send_error(int(fields[2]), 200, "")
            else:
                answer(self, fields)

        self._client.start(late)

    update = MarketData._send_update

    def note_update(self: MarketData, one: Subscription) -> None:
        if one.stalled is Stall.NOTHING:
            walk.spoke_at[one.con_id] = trio.current_time()
        update(self, one)

    monkeypatch.setattr(MarketData, "_send_update", note_update)
    monkeypatch.setattr(Requests, "_download", download_if_known)
    monkeypatch.setattr(Requests, "_contract_details", answer_late)
    minutes: Any = request.config.getoption("--fuzz-minutes")
    until = time.monotonic() + minutes * 60
    first = seed = int(time.time())
    while time.monotonic() < until:
        walk = Walk(seed)
        trio.run(walk.go, clock=PatientClock(rate=500.0))
        assert walk.false_rows == [], f"seed {seed}: {walk.false_rows[0]}"
        assert walk.complaints == [], f"seed {seed}: {walk.complaints[0]}"
        seed += 1
    print(f"{seed - first} walks in {minutes:g} minutes")
