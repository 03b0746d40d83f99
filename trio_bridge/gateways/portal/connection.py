"""One connection to the Client Portal Gateway, from its first answer to its loss or its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from trio_bridge.errors import ConfigError, GatewayError
from trio_bridge.gateways.base import RiskInputs
from trio_bridge.gateways.portal.client import PortalClient
from trio_bridge.gateways.portal.errors import AnswerError, NoAnswerError, PausedError
from trio_bridge.gateways.portal.feed import PortalFeed
from trio_bridge.gateways.portal.health import Silence
from trio_bridge.gateways.portal.login import Login, SessionState
from trio_bridge.gateways.portal.pacing import (
    CONTRACT_INFO,
    DEFINITIONS,
    OPEN_SESSION,
    STATUS,
    Timing,
)
from trio_bridge.gateways.portal.stream import QuoteStream
from trio_bridge.gateways.readiness import Blocked, Reason

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from datetime import datetime

    from trio_bridge.config import Settings
    from trio_bridge.errors import BridgeError
    from trio_bridge.gateways.base import EventSink
    from trio_bridge.gateways.ongoing import Ongoing
    from trio_bridge.gateways.portal.health import Answers
    from trio_bridge.gateways.portal.pacing import EndpointLimit, Pacing

CONNECT_TIMEOUT_S: Final = 40.0
LOAD_TIMEOUT_S: Final = 20.0
"""How long `connect` waits for the first positions; after that they just come later."""

PROBE_TIMEOUT_S: Final = 20.0
CLOSE_TIMEOUT_S: Final = 1.0

UNTOLD: Final = (DEFINITIONS, CONTRACT_INFO, OPEN_SESSION)
"""Endpoints whose failures are told by what they lead to: no multiplier, no brokerage session."""

SESSION_HINTS: Final = frozenset({400, 401})
"""What other endpoints answer when the session is gone ("no bridge", "not authenticated")."""


class Connection:
    """Run it once with `nursery.start`; it ends when it is lost or its scope is cancelled."""

    def __init__(
        self,
        settings: Settings,
        emit: EventSink,
        context: ssl.SSLContext,
        pacing: Pacing,
        troubles: Ongoing,
        answers: Answers,
        timing: Timing,
        now: Callable[[], datetime],
    ) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self._lost = trio.Event()
        self._lost_error: BridgeError = NoAnswerError("never connected")
        self._connected = False
        self._pacing = pacing
        self._answers = answers
        self._silence = Silence(trio.current_time)
        url = settings.ibkr_gateway_url
        self._client = PortalClient(
            url,
            context,
            pacing,
            on_outcome=self._note,
            timing=timing,
            now=now,
        )
        self._session = Login(self._client, troubles, url, timing)
        self.feed = PortalFeed(
            self._client, settings, emit, troubles, timing, is_well=self._session.is_well
        )
        self._stream = QuoteStream(url, context, pacing, self._session, self.feed, troubles, timing)

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set() or self.done.is_set()

    async def wait_lost(self) -> str:
        await self._lost.wait()
        return str(self._lost_error)

    def not_ready_reason(self) -> Blocked | None:
        if self.is_lost:
            return Blocked(Reason.NOT_CONNECTED)
        if self._silence.is_suspect:
            return Blocked(Reason.NO_ANSWER, self._silence.last_error)
        return self._session.not_ready_reason() or self.feed.not_ready_reason()

    def inputs(self) -> RiskInputs:
        greeks = self.feed.greeks(well_at=self._session.well_at)
        return RiskInputs(self.feed.accounts, self.feed.portfolio.positions(), greeks)

    async def probe(self) -> None:
        """See `IBridgeBase.probe`: any answer is a sign of life, even a refusal."""
        with trio.move_on_after(PROBE_TIMEOUT_S):
            try:
                if self._pacing.pause_s > 0:
                    await self._client.knock()
                else:
                    await self._session.tickle()
            except AnswerError:
                pass
            return
        raise NoAnswerError(f"no answer within {PROBE_TIMEOUT_S:.0f} s")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, tell the parent, and keep going.

        Raises:
            GatewayError: before the parent was told: the gateway gave no usable answer.
            ConfigError: before the parent was told: it does not know an account of IB_ACCOUNT.
        """
        with self.scope:
            try:
                await self._open()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._session.keep_alive)
                    nursery.start_soon(self._session.watch)
                    nursery.start_soon(self._serve)
                    await self._first_load()
                    self._connected = True
                    task_status.started()
            finally:
                self.done.set()
                with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                    await self._client.aclose()
        if self._lost.is_set() and not self._connected:
            raise self._lost_error

    async def _open(self) -> None:
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            try:
                if await self._session.check() is SessionState.HEALTHY:
                    await self._load_accounts()
            except PausedError:
                # The gateway wants peace, which is a state like "not logged in": see that it is
                # there, without a request, and wait.
                await self._client.knock()
            return
        raise NoAnswerError(f"the gateway did not get ready within {CONNECT_TIMEOUT_S:.0f} s")

    async def _load_accounts(self) -> None:
        try:
            await self.feed.load_accounts()
        except ConfigError:
            # It ends the service, and a gateway that is just logging in may not know all of them
            # yet: only what it says again, five seconds later, is its word.
            await self.feed.load_accounts()

    async def _first_load(self) -> None:
        """Wait for the first positions, as long as there is hope for them."""
        with trio.move_on_after(LOAD_TIMEOUT_S):
            async with trio.open_nursery() as nursery:

                async def give_up() -> None:
                    await self._session.wait_for(healthy=False)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(give_up)
                await self.feed.wait_loaded()
                nursery.cancel_scope.cancel()

    async def _serve(self) -> None:
        """Follow the portfolio whenever the session is well."""
        while True:
            await self._session.wait_for(healthy=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow)
                nursery.start_soon(self._stream.run)
                await self._session.wait_for(healthy=False)
                nursery.cancel_scope.cancel()

    async def _follow(self) -> None:
        try:
            await self.feed.run()
        except* ConfigError as group:
            self._end(_first_leaf(group))

    def _note(self, endpoint: EndpointLimit, error: GatewayError | None) -> None:
        self._silence.note(error)
        if self._silence.is_lost and error is not None:
            self._end(error)
        well = self._session.state is SessionState.HEALTHY
        if isinstance(error, AnswerError) and error.status in SESSION_HINTS:
            if not well:
                return  # that is what "not well" means
            if endpoint is not STATUS:
                self._session.look_soon()
        # A pause is one for all, whichever request has met it.
        if endpoint not in UNTOLD or isinstance(error, PausedError):
            self._answers.note(endpoint.path, error)

    def _end(self, error: BridgeError) -> None:
        if not self._lost.is_set():
            self._lost_error = error
            self._lost.set()
            self.scope.cancel()


def _first_leaf(group: BaseExceptionGroup[ConfigError]) -> ConfigError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ConfigError)
    return error
