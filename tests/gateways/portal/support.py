"""A PortalBridge against a simulated portal, and a watcher that lets no false row pass."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from functools import wraps
from inspect import isfunction
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from tests.support.heard import AnEvent, of
from tests.support.patient_clock import until
from trio_bridge.config import Settings
from trio_bridge.gateways.portal.bridge import PortalBridge
from trio_bridge.gateways.portal.holdings import Holdings
from trio_bridge.gateways.portal.market_data.board import QuoteBoard
from trio_bridge.gateways.portal.wire.pacing import Timing
from trio_bridge.gateways.readiness import NotReadyError
from trio_bridge.model import ApiMode, Snapshot, utc_now
from trio_bridge.simulator.portal.server import ServedPortal, open_portal_simulator
from trio_bridge.tasks.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection
    from datetime import datetime

    from trio_bridge.events.event import Event
    from trio_bridge.simulator.book import Book

QUICK = Timing(
    tickle_s=3.0,
    tickle_retry_s=1.0,
    status_s=1.0,
    login_retry_s=1.0,
    positions_s=2.0,
    accounts_s=3.0,
    quotes_s=1.0,
    streamed_quotes_s=1.0,
    first_quotes_s=0.3,
    definitions_retry_s=1.0,
    silent_s=60.0,
    backoff_s=(1.0,),
    # What a busy machine could break by standing still for some seconds, no test waits for.
    answer_s=60.0,
    slow_answer_s=60.0,
    settle_s=60.0,
    status_stale_s=600.0,
    positions_stale_s=600.0,
)
"""Everything sooner, patience longer, nothing beyond the pacing."""

POLL_S = 0.2


def make_settings(url: str, **changes: Any) -> Settings:
    return Settings(  # type: ignore[call-arg]
        _env_file=None,
        ib_api_mode=ApiMode.PORTAL,
        ibkr_gateway_url=url,
        **({"greeks_max_age_s": 1_200.0} | changes),
    )


class Rig:
    """What a test holds: the simulator, the bridge, the events and all rows there were."""

    def __init__(
        self,
        sim: ServedPortal,
        bridge: PortalBridge,
        events: list[Event],
        changes: Changes,
    ) -> None:
        self.sim = sim
        self.bridge = bridge
        self.events = events
        self.rows = RowsSeen(bridge, changes)

    def row(self) -> Snapshot | None:
        try:
            return self.bridge.get_portfolio_greeks()
        except NotReadyError:
            return None

    async def until(self, condition: Callable[[], object], what: str = "") -> None:
        await until(
            condition,
            every_s=POLL_S,
            complaint=lambda: (
                f"{what}: {self.bridge.readiness.why(trio.current_time())}, "
                f"{self.row()}, {self.events}"
            ),
        )

    async def until_right(
        self, accounts: tuple[str, ...] | None = None, *, without: Collection[int] = ()
    ) -> Snapshot:
        """Wait for a row that says what the book says now."""
        await self.until(lambda: self.is_right(self.row(), accounts, without), "for a right row")
        row = self.row()
        assert row is not None
        return row

    def is_right(
        self,
        row: Snapshot | None,
        accounts: tuple[str, ...] | None = None,
        without: Collection[int] = (),
    ) -> bool:
        return row is not None and agrees(row, self.sim.book, accounts, without=without)

    def told(self, kind: type[AnEvent], **fields: Any) -> list[AnEvent]:
        """Events of a kind."""
        return of(self.events, kind, **fields)

    def only_true_rows(self) -> bool:
        """Whether every row that there ever was said what the (still) book says."""
        assert self.rows.error is None, self.rows.error
        return all(agrees(row, self.sim.book) for row in self.rows.distinct.values())


class RowsSeen(trio.abc.Instrument):
    """Looks at the bridge's row after every single step that any task makes: no state that a ticker
    could ever see escapes it. Rows that say the same are kept once; a step after which nothing has
    changed is not read again."""

    def __init__(self, bridge: PortalBridge, changes: Changes) -> None:
        self.distinct: dict[tuple[str | float | None, ...], Snapshot] = {}
        self.error: Exception | None = None
        self._bridge = bridge
        self._changes = changes
        self._seen: object = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        try:
            bridge = self._bridge
            readiness = bridge.readiness.why(trio.current_time())
            state = (readiness, self._changes.count, trio.current_time())
            if state == self._seen:
                return
            self._seen = state
            row = bridge.get_portfolio_greeks()
        except NotReadyError:
            return
        except Exception as error:  # Trio would drop an instrument that raises
            self.error = error
            return
        said = (row.account, row.positions, row.priced, *greeks_of(row))
        self.distinct.setdefault(said, row)


class Changes:
    """Counts whatever may have changed the positions and quotes that rows are made of."""

    READERS: Final = frozenset(
        {
            *("greeks", "has_greeks", "underlying_of", "undefined", "lacking", "unmagnified"),
            *("magnification_of", "options", "positions"),
        }
    )
    """What changes nothing. Any other method counts, so a new one can't be forgotten."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        for kind in (QuoteBoard, Holdings):
            for name, method in list(vars(kind).items()):
                if isfunction(method) and not name.startswith("_") and name not in self.READERS:
                    patch.setattr(kind, name, self._counted(method))

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return method(*args, **kwargs)

        return counted


def agrees(
    row: Snapshot,
    book: Book,
    accounts: tuple[str, ...] | None = None,
    *,
    without: Collection[int] = (),
) -> bool:
    """Whether a row says what the book says, to the precision of the portal's strings."""
    truth = book.net_greeks(accounts, without=without)
    if (row.positions, row.priced) != (truth.positions, truth.priced):
        return False
    return all(
        value is not None and math.isclose(value, true, rel_tol=0, abs_tol=tolerance(book))
        for value, true in zip(
            greeks_of(row),
            (truth.delta, truth.gamma, truth.vega, truth.theta),
            strict=True,
        )
    )


def greeks_of(row: Snapshot) -> tuple[float | None, ...]:
    return row.delta, row.gamma, row.vega, row.theta


def tolerance(book: Book, decimals: int = 3) -> float:
    """How far strings of so many decimals can move a sum over the book."""
    units = math.fsum(
        abs(held.quantity) * (held.contract.multiplier or 0.0)
        for held in book.positions()
        if held.contract.is_option
    )
    return float(0.5 * 10**-decimals * units + 1e-6)


@asynccontextmanager
async def portal_rig(
    book: Book,
    *,
    timing: Timing = QUICK,
    connect: bool = True,
    now: Callable[[], datetime] = utc_now,
    **settings: Any,
) -> AsyncGenerator[Rig]:
    """Serve the book, connect a bridge to it and watch its rows. `now` is its wall clock."""
    events: list[Event] = []
    changes = Changes()
    with pytest.MonkeyPatch.context() as patch:
        changes.watch(patch)
        async with open_portal_simulator(book) as sim:
            bridge = PortalBridge(
                make_settings(sim.url, **settings), emit=events.append, now=now, timing=timing
            )
            async with bridge:
                rig = Rig(sim, bridge, events, changes)
                trio.lowlevel.add_instrument(rig.rows)
                try:
                    if connect:
                        await bridge.connect()
                    yield rig
                    await bridge.disconnect()
                finally:
                    trio.lowlevel.remove_instrument(rig.rows)


@asynccontextmanager
async def supervised_rig(
    book: Book, *, timing: Timing = QUICK, heartbeat_s: float = 1.0, **settings: Any
) -> AsyncGenerator[Rig]:
    """As `portal_rig`, but connected and kept so by the supervisor."""
    async with portal_rig(book, timing=timing, connect=False, **settings) as rig:
        supervisor = Supervisor(
            rig.bridge,
            delays_s=(0.2, 0.5),
            windows=(),
            heartbeat_s=heartbeat_s,
            emit=rig.events.append,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            yield rig
            nursery.cancel_scope.cancel()
