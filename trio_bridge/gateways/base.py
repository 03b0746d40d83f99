"""The contract between the bridge and a gateway, in either mode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, Self

import trio

from trio_bridge.gateways.leftovers import Leftovers
from trio_bridge.gateways.readiness import NotReadyError, Readiness, Reason
from trio_bridge.gateways.remarks import Remarks
from trio_bridge.gateways.sleep import SleepWatch
from trio_bridge.identity import account_of
from trio_bridge.model import (
    OLD,
    ApiMode,
    Defect,
    ExchangeRates,
    Greeks,
    Position,
    Snapshot,
    Trouble,
    utc_now,
)
from trio_bridge.risk.portfolio import Portfolio, Standing, aggregate, standings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime
    from types import TracebackType

    from trio_bridge.config import Settings
    from trio_bridge.events.event import Event
    from trio_bridge.policy.clocks import Clocks


class EventSink(Protocol):
    """Takes an event for `api_logs`. Never blocks, never raises."""

    def __call__(self, event: Event, /) -> None: ...


class RiskInputs(NamedTuple):
    """What is held in memory at one instant. Greeks and troubles are by contract id.

    `positions_at` is the instant (as `Greeks.current_until`) from which the age of the positions
    counts; None where the gateway reports each change by itself.
    """

    accounts: Sequence[str]
    positions: tuple[Position, ...]
    greeks: Mapping[int, Greeks]
    troubles: Mapping[int, Trouble] = MappingProxyType({})
    rates: ExchangeRates = ExchangeRates()
    positions_at: float | None = None


class Usage(NamedTuple):
    """How much of the gateway the bridge has used: messages since the start, market-data lines now.

    A message is one of the wire protocol, or a request and its answer. Lines are None where the
    gateway has no such limit.
    """

    received: int = 0
    sent: int = 0
    lines_used: int | None = None
    lines_budget: int | None = None


def discard_event(event: Event) -> None:
    """The default event sink."""


class IBridgeBase(ABC):
    """One brokerage account (or several) seen through one gateway.

    Use it as a context manager: a connection's background tasks belong to that block.

        async with build_bridge_from_env() as bridge:
            await bridge.connect()
            print(bridge.get_portfolio_greeks())

    A bridge may be connected again, any number of times, after it was lost or disconnected.
    """

    mode: ClassVar[ApiMode]

    def __init__(
        self,
        settings: Settings,
        *,
        emit: EventSink = discard_event,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.settings = settings
        self.emit = emit
        self._now = now
        self.readiness = Readiness()
        """Of this connection or attempt; the next one gets a new object."""
        self.sleep = SleepWatch(emit)
        self._rests_because: str | None = None
        self._leftovers = Leftovers()
        self._remarks = Remarks(emit)
        self._positions: tuple[Position, ...] = ()
        self._portfolio = Portfolio()
        self._scope: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Self:
        self._scope = trio.open_nursery()
        self._nursery = await self._scope.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._scope is not None
        assert self._nursery is not None
        # A cancelled connection ends within its own shielded deadline.
        self._nursery.cancel_scope.cancel()
        self._nursery = None
        return await self._scope.__aexit__(kind, error, traceback)

    @property
    def nursery(self) -> trio.Nursery:
        """Parent of a connection's background tasks."""
        if self._nursery is None:
            raise RuntimeError("use the bridge in `async with bridge:`")
        return self._nursery

    def _begin(self) -> Readiness:
        """To be called by `connect` once the previous connection has ended: return the readiness
        that the new one blocks and clears."""
        self.readiness = Readiness()
        self.rest(self._rests_because)
        self.sleep.restart(self.sleep.read(self._now))
        return self.readiness

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """Where the gateway is, for messages: `host:port` or a URL."""

    @abstractmethod
    async def connect(self) -> None:
        """Make one attempt to connect; return when the positions are downloaded, or (PORTAL) when
        they have to wait for a login.

        Has a timeout of its own; may be cancelled at any time.

        Raises:
            GatewayError: the attempt failed; the text says why.
            ConfigError: the gateway answered, but a setting does not fit it (IB_ACCOUNT).
        """

    @abstractmethod
    async def disconnect(self) -> None:
        """End the connection within 2 seconds. Harmless when there is none."""

    def is_connected(self) -> bool:
        """Whether there is a connection to the gateway (not: whether a row can be given)."""
        return not self.readiness.blocks(Reason.NOT_CONNECTED, trio.current_time())

    def rest(self, because: str | None) -> None:
        """Stand by: stay connected and keep the positions, but give every market-data line back and
        give no row. `because` is said wherever a reason is asked for; None: wake up. Rows then wait
        for the Greeks as after a connect.

        May be called at any time, and holds for later connections, too.
        """
        self._rests_because = because
        if because is None:
            self.readiness.clear(Reason.STANDBY)
        else:
            self.readiness.block(Reason.STANDBY, because)

    @property
    def is_resting(self) -> bool:
        return self._rests_because is not None

    @property
    def stands_by(self) -> bool:
        """Whether it rests, and nothing else would keep it from giving rows."""
        blocked = self.readiness.why(trio.current_time())
        return blocked is not None and blocked.reason is Reason.STANDBY

    @abstractmethod
    async def wait_lost(self) -> str:
        """Wait until the connection has ended by itself; return why."""

    @abstractmethod
    async def probe(self) -> None:
        """Ask the gateway for a sign of life and wait for it; has a timeout of its own.

        Raises:
            GatewayError: none came.
        """

    @abstractmethod
    def inputs(self) -> RiskInputs:
        """Positions and Greeks as they are in memory. Never awaits."""

    def usage(self) -> Usage:
        """Messages and market-data lines, for the metrics. Never awaits."""
        return Usage()

    def look_at_clocks(self) -> Clocks:
        """Read all clocks. After a sleep of the machine no row can be given until the next
        connection: what is in memory is older than it seems."""
        clocks = self.sleep.read(self._now)
        asleep = self.sleep.look(clocks)
        if asleep is not None:
            self.readiness.block(*asleep)
        return clocks

    def get_portfolio_greeks(self, slot: datetime | None = None) -> Snapshot:
        """The portfolio's net Greeks now, from memory alone.

        Args:
            slot: the instant of the grid that the row is for, UTC; None: it is for now.

        Raises:
            NotReadyError: no true row can be given; the text says why.
        """
        clocks, book = self._book()
        return aggregate(
            self._portfolio,
            book.greeks,
            slot=slot,
            read_at=clocks.wall,
            now=clocks.monotonic_s,
            max_age_s=self.settings.greeks_max_age_s,
            interval_s=self.settings.poll_interval_s,
            account=account_of(book.accounts),
            rates=book.rates,
            positions_at=book.positions_at,
        )

    def states(self) -> list[Standing]:
        """What each position has to do with the row now, from memory alone: those that are priced
        are the ones that the row counts as priced.

        Raises:
            NotReadyError: as `get_portfolio_greeks`.
        """
        clocks, book = self._book()
        return standings(
            self._portfolio,
            book.greeks,
            book.troubles,
            read_at=clocks.wall,
            now=clocks.monotonic_s,
            max_age_s=self.settings.greeks_max_age_s,
            rates=book.rates,
        )

    def defects(self) -> list[Defect]:
        """What makes a row of this moment partial or stale, the former first; none without a
        row."""
        try:
            standings = self.states()
        except NotReadyError:
            return []
        interval_s = self.settings.poll_interval_s
        found = [defect for one in standings if (defect := one.defect(interval_s)) is not None]
        return sorted(found, key=lambda defect: defect.state == OLD)

    def _book(self) -> tuple[Clocks, RiskInputs]:
        """What is held and what is known of it, with `_portfolio` made of it, and when."""
        clocks = self.look_at_clocks()
        if (blocked := self.readiness.why(clocks.monotonic_s)) is not None:
            raise NotReadyError(blocked)
        book = self.inputs()
        if book.positions is not self._positions:
            self._positions = book.positions
            self._portfolio = Portfolio(book.positions)
            self._remarks.on(book.positions)
        return clocks, book
