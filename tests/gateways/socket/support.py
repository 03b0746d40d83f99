"""A SocketBridge against a simulated gateway over TCP; a watcher that lets no false row pass."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from tests.support.heard import AnEvent, because, of
from tests.support.patient_clock import PatientClock, until
from tests.support.time import WallClock
from trio_bridge.config import Settings
from trio_bridge.errors import GatewayError
from trio_bridge.gateways.base import discard_event
from trio_bridge.gateways.readiness import NotReadyError, Reason
from trio_bridge.gateways.socket.bridge import SocketBridge
from trio_bridge.model import utc_now
from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.tws.server import TwsSimulator, open_tws_simulator
from trio_bridge.tasks.supervisor import Supervisor
from trio_bridge.tasks.ticker import Ticker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection
    from datetime import datetime

    from trio_bridge.events.event import Event
    from trio_bridge.model import Snapshot
    from trio_bridge.simulator.contracts import Contract

SUBSCRIBE, CANCEL, DETAILS, CURRENT_TIME, DATA_TYPE, POSITIONS, START = 1, 2, 9, 49, 59, 61, 71
"""The numbers of all messages that a bridge sends."""

POLL_S = 0.02
"""On the real clock; five times that on the patient one, where a look costs more than the time."""

TICK_S = 0.25
"""How often the simulator looks whether the book has moved."""

INTERVAL_S = 0.5
"""Of the ticker's grid."""


def still_book(**shape: Any) -> Book:
    """A book that holds still, so that every row can be judged."""
    book = make_book(**shape)
    book.freeze(at=10)
    return book


def options_of(book: Book) -> list[Contract]:
    """The options that are held."""
    return [held.contract for held in book.positions() if held.contract.is_option]


def make_settings(port: int, **changes: Any) -> Settings:
    return Settings(  # type: ignore[call-arg]
        _env_file=None, **({"ib_socket_port": port, "ib_market_data_lines": 90} | changes)
    )


def agrees(
    row: Snapshot,
    book: Book,
    accounts: Collection[str] | None = None,
    *,
    without: Collection[int] = (),
) -> bool:
    """Whether a row says what the book says now, to 1e-9 of each figure."""
    truth = book.net_greeks(accounts, without=without)
    return (row.positions, row.priced) == (truth.positions, truth.priced) and all(
        value is not None and math.isclose(value, true, rel_tol=1e-9)
        for value, true in zip(
            (row.delta, row.gamma, row.vega, row.theta),
            (truth.delta, truth.gamma, truth.vega, truth.theta),
            strict=True,
        )
    )


class EveryStep(trio.abc.Instrument):
    """Reads the bridge's row after every single step that any task makes: no state that another
    task could ever see escapes it. `judge` says what is wrong with a row, or None."""

    def __init__(self, bridge: SocketBridge, judge: Callable[[Snapshot], str | None]) -> None:
        self._bridge = bridge
        self._judge = judge
        self.rows = 0
        self.false_rows: list[str] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        try:
            row = self._bridge.get_portfolio_greeks()
        except NotReadyError:
            return
        except Exception as error:  # an instrument that raises would be dropped silently
            self.false_rows.append(repr(error))
            return
        self.rows += 1
        complaint = self._judge(row)
        if complaint is not None:
            self.false_rows.append(complaint)

    def __enter__(self) -> EveryStep:
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)


class Rig:
    """What a test holds: the simulator, the bridge, and everything they said."""

    def __init__(
        self, sim: TwsSimulator, *, now: Callable[[], datetime] = utc_now, **settings: Any
    ) -> None:
        self.sim = sim
        self.book = sim.book
        self.events: list[Event] = []
        self.rows: list[tuple[float, Snapshot]] = []
        """What the ticker took, with the instant."""
        self.bridge = SocketBridge(
            make_settings(sim.port, **settings), emit=self.events.append, now=now
        )

    def put(self, row: Snapshot) -> None:
        self.rows.append((trio.current_time(), row))

    def told(self, kind: type[AnEvent], **fields: Any) -> list[AnEvent]:
        """Events of a kind."""
        return of(self.events, kind, **fields)

    def row(self) -> Snapshot | None:
        try:
            return self.bridge.get_portfolio_greeks()
        except NotReadyError:
            return None

    def blocked(self) -> Reason | None:
        """Why there is no row, or None when there is one."""
        try:
            self.bridge.get_portfolio_greeks()
        except NotReadyError as error:
            return error.blocked.reason
        return None

    async def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Wait until it holds."""
        patient = isinstance(trio.lowlevel.current_clock(), PatientClock)
        await until(
            condition,
            every_s=5 * POLL_S if patient else POLL_S,
            complaint=lambda: f"{what}: {self.blocked()}, {self.row()}, {self.events[-20:]}",
        )

    async def until_right(
        self, accounts: Collection[str] | None = None, *, without: Collection[int] = ()
    ) -> Snapshot:
        """Wait for a row that says what the book says now."""

        def right() -> bool:
            row = self.row()
            return row is not None and agrees(row, self.book, accounts, without=without)

        await self.until(right, "for a right row")
        row = self.row()
        assert row is not None
        return row

    async def until_received(self, message_id: int, count: int = 1) -> None:
        """Wait until the simulator has got so many of these messages."""
        await self.until(
            lambda: len(self.sim.received(message_id)) >= count, f"for message {message_id}"
        )

    async def until_told(self, kind: type[Event], times: int = 1, **fields: Any) -> None:
        await self.until(
            lambda: len(self.told(kind, **fields)) >= times, f"to be told {kind} {fields}"
        )

    async def until_because(self, words: str) -> None:
        """Wait for an event that gives this reason."""
        await self.until(lambda: because(self.events, words), f"to be told {words!r}")

    async def settle(self) -> None:
        """Let everything that was sent arrive: the simulator answers in order."""
        await self.bridge.probe()

    def quickly(self) -> None:
        """Look after the subscriptions at once instead of with the next second."""
        assert self.bridge._connection is not None
        self.bridge._connection._wake.set()

    def only_true_rows(self, accounts: Collection[str] | None = None) -> bool:
        """Whether the ticker took only rows that say what the (still) book says."""
        return all(agrees(row, self.book, accounts) for _, row in self.rows)

    def rows_between(self, begin: float, end: float = math.inf) -> list[Snapshot]:
        return [row for at, row in self.rows if begin <= at <= end]


async def steps(number: int) -> None:
    """Let every task that can go on do so, this many times. On the patient clock no time passes
    meanwhile, so this leads into the middle of what happens in one instant."""
    for _ in range(number):
        await trio.lowlevel.checkpoint()


CONNECTED_AFTER = 60
"""Steps: by then a connection is made and the first subscriptions are on their way (40)."""


@asynccontextmanager
async def connecting(rig: Rig) -> AsyncGenerator[set[str]]:
    """Let the bridge connect while the block runs; wait for the outcome, and yield refusals."""
    refusals: set[str] = set()

    async def connect() -> None:
        try:
            await rig.bridge.connect()
        except GatewayError as refusal:
            refusals.add(str(refusal))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        yield refusals


@asynccontextmanager
async def socket_rig(
    book: Book, *, connect: bool = True, simulator: dict[str, Any] | None = None, **settings: Any
) -> AsyncGenerator[Rig]:
    """Serve the book and (unless told otherwise) connect a bridge to it.

    `settings` are the bridge's; `now` among them is its wall clock.
    """
    async with open_tws_simulator(book, **({"tick_interval_s": TICK_S} | (simulator or {}))) as sim:
        rig = Rig(sim, **settings)
        async with rig.bridge:
            if connect:
                await rig.bridge.connect()
            yield rig
            await rig.bridge.disconnect()


@asynccontextmanager
async def supervised_rig(
    book: Book,
    *,
    delays_s: tuple[float, ...] = (0.2,),
    heartbeat_s: float = 1.0,
    simulator: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncGenerator[Rig]:
    """As `socket_rig`, but kept connected by the supervisor, with a ticker that takes rows; the
    wall clock goes with Trio's."""
    settings = {"now": WallClock(utc_now()), **settings}
    async with socket_rig(book, connect=False, simulator=simulator, **settings) as rig:
        supervisor = Supervisor(
            rig.bridge,
            delays_s=delays_s,
            windows=(),
            heartbeat_s=heartbeat_s,
            emit=rig.events.append,
        )
        # Its own events depend on how busy this machine is.
        ticker = Ticker(rig.bridge, rig.put, interval_s=INTERVAL_S, emit=discard_event)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            nursery.start_soon(ticker.run)
            yield rig
            nursery.cancel_scope.cancel()
