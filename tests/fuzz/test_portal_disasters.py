"""Trouble after trouble at the portal, in any order: no false row, and a right one after it.

The simulated gateway means what it says, but loses its login, its upstream, its stream and single
endpoints at random, while positions and the list of accounts change.
"""

from __future__ import annotations

import math
import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import pytest
import trio

from tests.gateways.portal.support import QUICK, agrees, supervised_rig
from tests.gateways.portal.wire.test_pacing import most_within
from tests.support.patient_clock import PatientClock
from tests.support.time import WallClock
from trio_bridge.gateways import sleep
from trio_bridge.gateways.base import discard_event
from trio_bridge.model import utc_now
from trio_bridge.policy import clocks
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.portal.faults import Fault
from trio_bridge.tasks.ticker import Ticker

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gateways.portal.support import Rig
    from trio_bridge.model import Snapshot

Positions = dict[tuple[str, int], float]
T = TypeVar("T")

TIMING = QUICK._replace(
    answer_s=3.0, slow_answer_s=6.0, settle_s=5.0, positions_stale_s=12.0, status_stale_s=12.0
)
BLIND_S = 12.0 + 8.0
"""How old positions may be when they still make a row: until they are stale, or two rounds."""

SLACK_S = 0.5
"""Between a row and its judgement: one slot."""

HALF_S = 60.0
"""Between two times that the gateway has half a book."""

PATIENCE_S = 600.0
"""Until all is right when no fault is left; on the fast clock."""

PAUSES_S = (0.0, 0.01, 0.1, 1.0, 3.0, 12.0, 30.0)
HALVES: tuple[tuple[str, ...], ...] = (
    ("/portfolio/accounts",),
    ("/portfolio/subaccounts",),
    ("/iserver/accounts", "/portfolio/accounts"),
)
"""Lists of accounts that may lack one while another names it."""

PATHS = (
    *("", "/tickle", "/iserver/auth", "/iserver/auth/ssodh/init", "/iserver/accounts"),
    *("/iserver/marketdata/snapshot", "/trsrv/secdef", "/info", "/portfolio/accounts"),
    *("/portfolio/DU", "/positions/invalidate", "/positions/0", "/positions/"),
    *("/summary", "/ledger"),
)
KINDS: tuple[dict[str, Any], ...] = (
    *({"status": status} for status in (400, 401, 403, 500, 503, 601)),
    *({"html": True}, {"text": "{}"}, {"text": ""}, {"hang": True}, {"drip": True}),
    *({"late_s": 1.0}, {"late_s": 5.0}),
)


class Walk:
    """One random walk through the faults of one gateway."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.book = make_book(
            options=self.rng.choice((3, 6, 12)), accounts=self.rng.choice((1, 2)), seed=seed
        )
        self.book.freeze(at=10)
        self.options = [one for one in self.book.contracts.values() if one.is_option]
        self.books: list[tuple[float, Positions]] = [(-math.inf, self.held())]
        self.accounts_told: list[tuple[float, tuple[str, ...]]] = [(-math.inf, self.book.accounts)]
        self.past: list[tuple[float, str]] = []
        self.false_rows: list[tuple[float, Snapshot, list[tuple[float, str]]]] = []
        self.rows = 0
        self.too_old: list[tuple[float, Snapshot, list[tuple[float, str]]]] = []
        """Rows of positions older than the bound, or that don't say how old those are."""
        self.came_back_at = -math.inf
        self.unknown: dict[str, float] = {}
        """Accounts whose positions the gateway does not know, and until when."""
        self.half_loaded: set[str] = set()
        """Accounts of which the gateway has only half a book the next time it is asked."""

    def held(self) -> Positions:
        return {(one.account, one.contract.con_id): one.quantity for one in self.book.positions()}

    def judge(self, row: Snapshot) -> None:
        """A row is of accounts that the login managed lately, and of what they held lately."""
        now = trio.current_time()
        self.rows += 1
        accounts = tuple(row.account.split(","))
        if accounts not in lately(self.accounts_told, now) or not any(
            self.fits(row, accounts, held) for held in lately(self.books, now)
        ):
            self.false_rows.append((now, row, self.past[-8:]))

    def judge_age(self, row: Snapshot, positions_at: float | None) -> None:
        """A row is of positions read lately, and says at least their age."""
        assert positions_at is not None
        age_s = trio.current_time() - positions_at
        if age_s > BLIND_S or row.greeks_age_s is None or row.greeks_age_s < age_s - SLACK_S:
            self.too_old.append((age_s, row, self.past[-8:]))

    def fits(self, row: Snapshot, accounts: tuple[str, ...], held: Positions) -> bool:
        """Whether a row says what these positions say; a partial one counts the same."""
        if row.priced < row.positions:
            return row.positions == sum(account in accounts for account, _ in held)
        now = self.held()
        for key in now.keys() | held.keys():
            self.book.set_position(*key, held.get(key, 0.0))
        fits = agrees(row, self.book, accounts)
        for key in now.keys() | held.keys():
            self.book.set_position(*key, now.get(key, 0.0))
        return fits

    def faults(self, rig: Rig, broken: ExitStack) -> dict[str, Callable[[], object]]:
        sim, rng = rig.sim, self.rng

        def trade() -> None:
            account, option = rng.choice(self.book.accounts), rng.choice(self.options)
            self.book.set_position(account, option.con_id, rng.choice((0, -3, 2, 7)))
            self.books.append((trio.current_time(), self.held()))

        def break_(path: str, **kind: Any) -> None:
            self.past.append((round(trio.current_time(), 2), f"{path} {kind}"))
            broken.enter_context(sim.faults(Fault(path, **kind)))

        def cut_off_in_silence() -> None:
            break_("/iserver/auth", status=500)
            sim.login.connected = False

        def come_back() -> None:
            mend()
            if trio.current_time() - self.came_back_at > HALF_S:
                # Twice the same half, one after the other, nobody could tell from a whole.
                self.half_loaded = set(self.book.accounts)
            self.came_back_at = trio.current_time()
            self.set_right(rig)

        def leave_out() -> None:
            accounts = self.book.accounts[:1]
            self.accounts_told.append((trio.current_time(), accounts))
            told = orjson.dumps([{"id": account} for account in accounts]).decode()
            for path in ("/portfolio/accounts", "/portfolio/subaccounts"):
                broken.enter_context(sim.faults(Fault(path, text=told)))
            told = orjson.dumps({"accounts": accounts}).decode()
            broken.enter_context(sim.faults(Fault("/iserver/accounts", text=told)))

        def lack_in_a_list() -> None:
            sim.account_lists.missing = {
                path: {rng.choice(self.book.accounts)} for path in rng.choice(HALVES)
            }

        def know_nothing() -> None:
            account = rng.choice(self.book.accounts)
            self.unknown[account] = trio.current_time() + rng.choice((3.0, 12.0, 40.0))

        def mend() -> None:
            broken.close()
            sim.account_lists.missing = {}
            if self.accounts_told[-1][1] != self.book.accounts:
                self.accounts_told.append((trio.current_time(), self.book.accounts))

        def refuse_everything() -> None:
            break_("", **rng.choice(({"status": 403, "html": True}, {"status": 503})))

        def turn(thing: object, name: str, *, usual: bool) -> None:
            setattr(thing, name, usual if rng.random() < 0.5 else not usual)

        return {
            "trades": trade,
            "trades again": trade,
            "fails": lambda: break_(rng.choice(PATHS), **rng.choice(KINDS)),
            "refuses everything": refuse_everything,
            "reads no account": lambda: break_(
                f"/portfolio/{rng.choice(self.book.accounts)}/", status=500
            ),
            "hangs behind": sim.upstream.hang,
            "hangs behind again": sim.upstream.hang,
            "reaches nobody": sim.upstream.refuse,
            "is reached again": sim.upstream.come_back,
            "reads no positions": lambda: break_("/positions/0", status=500),
            "is mended": mend,
            "comes back": come_back,
            "comes back again": come_back,
            "is cut off in silence": cut_off_in_silence,
            "leaves out an account": leave_out,
            "lacks an account in a list": lack_in_a_list,
            "knows of no positions": know_nothing,
            "is not established or is": lambda: setattr(
                sim.login, "established", rng.choice((None, True, False))
            ),
            "logs out": sim.login.log_out,
            "logs in": sim.rules.person_logs_in,
            "loses the brokerage session": lambda: setattr(sim.login, "brokerage", False),
            "renews its session": sim.rules.forget_calls,
            "opens or not": lambda: turn(sim.login, "can_open", usual=True),
            "competes or not": lambda: turn(sim.login, "competing", usual=False),
            "is cut off or not": lambda: turn(sim.login, "connected", usual=True),
            "wants a pause": lambda: sim.rules.penalize(rng.choice((1, 5, 20)), retry_after=5),
            "drops the stream": sim.websocket.drop,
            "is mute or not": lambda: turn(sim.websocket, "mute", usual=False),
            "is deaf or not": lambda: turn(sim.websocket, "deaf", usual=False),
            "refuses the stream or not": lambda: turn(sim.websocket, "refused", usual=False),
        }

    def set_right(self, rig: Rig) -> None:
        login, websocket = rig.sim.login, rig.sim.websocket
        rig.sim.upstream.come_back()
        login.can_open = login.connected = True
        login.established = None
        login.competing = False
        websocket.mute = websocket.deaf = websocket.refused = False
        if not login.logged_in:
            rig.sim.rules.person_logs_in()

    async def go(self) -> None:
        async with supervised_rig(
            self.book, timing=TIMING, now=WallClock(utc_now()), greeks_max_age_s=30.0
        ) as rig:
            self.forget_while_cut_off(rig)
            with ExitStack() as broken:
                faults = self.faults(rig, broken)

                def judge(row: Snapshot) -> None:
                    self.judge(row)
                    self.judge_age(row, rig.bridge.inputs().positions_at)

                ticker = Ticker(rig.bridge, judge, interval_s=0.5, emit=discard_event)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ticker.run)
                    for _ in range(self.rng.randint(10, 40)):
                        name = self.rng.choice(tuple(faults))
                        self.past.append((round(trio.current_time(), 2), name))
                        faults[name]()
                        await trio.sleep(self.rng.choice(PAUSES_S))
                    faults["comes back"]()
                    with trio.move_on_after(PATIENCE_S):
                        await rig.until(lambda: self.is_right(rig), f"after {self.past}")
                    assert self.is_right(rig), (rig.row(), rig.events[-9:], self.past)
                    nursery.cancel_scope.cancel()
            arrivals = [one.at for one in rig.sim.rules.requests]
            assert most_within(arrivals, 1.0) <= 10, self.past
            for row in rig.rows.distinct.values():
                accounts = tuple(row.account.split(","))
                assert any(self.fits(row, accounts, held) for _, held in self.books), (
                    f"at some instant: {row}, {self.past}"
                )

    def forget_while_cut_off(self, rig: Rig) -> None:
        """A gateway without its upstream, or without its login, calls an empty book complete, and
        half a book when it has just come back."""
        login, page = rig.sim.login, rig.sim.portfolio.page

        def known_page(account: str, number: int) -> list[dict[str, Any]]:
            if not (login.connected and login.authenticated):
                return []
            entries = page(account, number)
            if self.unknown.get(account, -math.inf) > trio.current_time():
                return []
            if account in self.half_loaded:
                self.half_loaded.remove(account)
                return entries[: len(entries) // 2]
            return entries

        rig.sim.portfolio.page = known_page  # type: ignore[method-assign]

    def is_right(self, rig: Rig) -> bool:
        row = rig.row()
        return row is not None and row.account == ",".join(self.book.accounts) and rig.is_right(row)


def lately(history: list[tuple[float, T]], now: float) -> list[T]:
    """The values of the last seconds, the one that was there before included."""
    ends = [at for at, _ in history[1:]] + [math.inf]
    return [value for (_, value), end in zip(history, ends, strict=True) if end > now - BLIND_S]


def live_through(seed: int) -> int:
    walk = Walk(seed)
    trio.run(walk.go, clock=PatientClock())
    assert walk.false_rows == [], f"seed {seed}: {walk.false_rows[0]}"
    assert walk.too_old == [], f"seed {seed}: {walk.too_old[0]}"
    return walk.rows


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock has nothing to do with the fast one."""
    monkeypatch.setattr(sleep, "SHORTEST_SLEEP_S", math.inf)
    monkeypatch.setattr(clocks, "SMALLEST_STEP_S", math.inf)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_false_row_in_some_series_of_disasters_and_a_right_one_after(seed: int) -> None:
    live_through(seed)


@pytest.mark.long
def test_no_false_row_in_any_series_of_disasters_and_a_right_one_after(
    request: pytest.FixtureRequest,
) -> None:
    minutes: Any = request.config.getoption("--fuzz-minutes")
    until = time.monotonic() + minutes * 60
    first = seed = int(time.time())
    rows = 0
    while time.monotonic() < until:
        rows += live_through(seed)
        seed += 1
    print(f"{seed - first} walks, {rows} rows in {minutes:g} minutes")
