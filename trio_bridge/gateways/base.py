"""The whole contract between the bridge and a gateway, whichever of the two modes it speaks."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, Self

import trio

from trio_bridge.errors import NotReadyError
from trio_bridge.events.data import CurrenciesMixed, TypeUnknown
from trio_bridge.gateways.sleep import SleepWatch
from trio_bridge.model import ApiMode, Greeks, Position, Snapshot, utc_now
from trio_bridge.risk.greeks import KNOWN_TYPES, OPTION_TYPES, Portfolio, aggregate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime
    from types import TracebackType

    from trio_bridge.config import Settings
    from trio_bridge.events.event import Event


class EventSink(Protocol):
    """Takes an event for `api_logs`. Never blocks, never raises."""

    def __call__(self, event: Event, /) -> None: ...


class RiskInputs(NamedTuple):
    """What a gateway holds in memory at one instant."""

    accounts: Sequence[str]
    positions: tuple[Position, ...]
    greeks: Mapping[int, Greeks]


class Usage(NamedTuple):
    """What the bridge has made of the gateway: messages since the start, market-data lines now.

    A message is one of the wire protocol, or a request and its answer. Lines are None where the
    gateway knows no such limit.
    """

    received: int = 0
    sent: int = 0
    lines_used: int | None = None
    lines_budget: int | None = None


def discard_event(event: Event) -> None:
    """The event sink of a bridge that nobody listens to."""


class IBridgeBase(ABC):
    """One brokerage account (or several) seen through one gateway.

    Use it as a context manager: what a connection runs in the background belongs to that block.

        async with build_bridge_from_env() as bridge:
            await bridge.connect()
            print(bridge.get_portfolio_greeks())

    A bridge may be connected again after it was lost or disconnected, any number of times.
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
        self._attempted = False
        self._suspect = False
        self._sleep = SleepWatch()
        self._woken = trio.Event()
        self._woken_reason = ""
        self._positions: tuple[Position, ...] = ()
        self._portfolio = Portfolio()
        self._unknown_types: set[str] = set()
        self._currencies: frozenset[str] = frozenset()
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
        # A session ends itself within its own shielded deadline when it is cancelled.
        self._nursery.cancel_scope.cancel()
        self._nursery = None
        return await self._scope.__aexit__(kind, error, traceback)

    @property
    def nursery(self) -> trio.Nursery:
        """Parent of whatever a connection runs in the background."""
        if self._nursery is None:
            raise RuntimeError("use the bridge in `async with bridge:`")
        return self._nursery

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """Where the gateway is, for messages: `host:port` or a URL."""

    @abstractmethod
    async def connect(self) -> None:
        """Make one attempt to connect; return when the positions are downloaded.

        Bounded by a timeout of its own; may be cancelled at any time.

        Raises:
            GatewayError: the attempt failed; the text says why, in words for a person.
            ConfigError: the gateway answered, but a setting doesn't fit it (IB_ACCOUNT).
        """

    @abstractmethod
    async def disconnect(self) -> None:
        """End the connection within 2 seconds. Harmless when there is none."""

    @abstractmethod
    def is_connected(self) -> bool:
        """Whether the connection to the gateway stands (not: whether a row can be given)."""

    @abstractmethod
    async def wait_lost(self) -> str:
        """Wait until the connection has ended by itself; return why."""

    @abstractmethod
    async def probe(self) -> None:
        """Ask the gateway for a sign of life and wait for it, with a timeout of its own.

        Raises:
            GatewayError: none came.
        """

    @abstractmethod
    def not_ready_reason(self) -> str | None:
        """Why no true row can be given now, or None: disconnected, upstream lost, first download
        or first Greeks still under way, nobody logged in."""

    @abstractmethod
    def inputs(self) -> RiskInputs:
        """Positions and Greeks as they are in memory. Never awaits."""

    def usage(self) -> Usage:
        """Messages and market-data lines, for the metrics. Never awaits."""
        return Usage()

    def suspect(self, suspect: bool) -> None:
        """Set while a probe is overdue: the connection may be dead, so nothing it says is a row.

        A machine that was asleep sets it, too; `begin_anew` takes it back.
        """
        self._suspect = suspect

    def begin_anew(self) -> None:
        """To be called before `connect`: the next connection has nothing to do with what was."""
        self._suspect = False
        self._woken = trio.Event()
        self._sleep.slept_s(self._now(), trio.current_time())

    def _clear_away(self) -> None:
        """To be called by `connect` when it has let go of the attempt before.

        What that leaves (tickers, handlers, tracebacks) refers to itself in circles. It goes now,
        when no row can be due; left to the collector's own judgement a hundred connections of it
        gather first (measured: 10 MB, which the process then keeps).
        """
        if self._attempted:
            gc.collect()
        self._attempted = True

    async def wait_woken(self) -> str:
        """Wait until the machine is found to have slept since `begin_anew`; return the reason to
        connect anew: what is in memory is as old as the sleep was long, and does not know it."""
        await self._woken.wait()
        return self._woken_reason

    def get_portfolio_greeks(self) -> Snapshot:
        """The portfolio's net Greeks now, from memory alone.

        Raises:
            NotReadyError: no true row can be given; the text says why.
        """
        now = self._now()
        reason = self.not_ready_reason()
        slept_s = self._sleep.slept_s(now, trio.current_time())
        if slept_s:
            # Also while a connection is being made: what came before the sleep is in it.
            self._woken_reason = f"the machine was asleep for {slept_s:.0f} s"
            self._suspect = True
            self._woken.set()
            if self.is_connected():
                reason = self._woken_reason
        if reason is None and self._suspect:
            reason = "the gateway did not answer the last probe"
        if reason is not None:
            raise NotReadyError(reason)
        book = self.inputs()
        if book.positions is not self._positions:
            self._positions = book.positions
            self._portfolio = Portfolio(book.positions)
            self._mention_unknown_types(book.positions)
            self._mention_currencies(book.positions)
        return aggregate(
            self._portfolio,
            book.greeks,
            timestamp=now,
            now=trio.current_time(),
            max_age_s=self.settings.greeks_max_age_s,
            account=",".join(book.accounts),
        )

    def _mention_unknown_types(self, positions: Sequence[Position]) -> None:
        for sec_type in {position.sec_type for position in positions} - KNOWN_TYPES:
            if sec_type not in self._unknown_types:
                self._unknown_types.add(sec_type)
                self.emit(TypeUnknown(sec_type))

    def _mention_currencies(self, positions: Sequence[Position]) -> None:
        held = (one.currency for one in positions if one.sec_type in OPTION_TYPES)
        before, self._currencies = self._currencies, frozenset(filter(None, held))
        if len(self._currencies) > 1 and self._currencies != before:
            self.emit(CurrenciesMixed(tuple(sorted(self._currencies))))
