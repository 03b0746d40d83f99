"""One connection to the Client Portal Gateway, from its first answer to its loss or its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import trio

from trio_bridge.errors import ConfigError, GatewayError
from trio_bridge.gateways.base import RiskInputs
from trio_bridge.gateways.ongoing import Ongoing
from trio_bridge.gateways.portal.account import ValuesLoop
from trio_bridge.gateways.portal.definitions import DefinitionLoop
from trio_bridge.gateways.portal.health import (
    AnswerError,
    Health,
    NoAnswerError,
    PausedError,
    SessionState,
)
from trio_bridge.gateways.portal.holdings import Memory
from trio_bridge.gateways.portal.login import Login
from trio_bridge.gateways.portal.market_data.quotes import QuoteLoop
from trio_bridge.gateways.portal.market_data.stream import QuoteStream
from trio_bridge.gateways.portal.positions import PositionLoop
from trio_bridge.gateways.portal.wire.client import PortalClient
from trio_bridge.gateways.readiness import Reason

if TYPE_CHECKING:
    import ssl

    from trio_bridge.errors import BridgeError
    from trio_bridge.gateways.portal.wire.client import Shared
    from trio_bridge.gateways.readiness import Readiness

CONNECT_TIMEOUT_S: Final = 40.0
LOAD_TIMEOUT_S: Final = 20.0
"""How long `connect` waits for the first positions; it returns without them after that."""

PROBE_TIMEOUT_S: Final = 20.0
CLOSE_TIMEOUT_S: Final = 1.0


class Connection:
    """Run it once with `nursery.start`; it ends when it is lost or its scope is cancelled."""

    def __init__(self, shared: Shared, context: ssl.SSLContext, readiness: Readiness) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self._lost = trio.Event()
        self._lost_error: BridgeError | None = None
        self._shared = shared
        self._readiness = readiness
        self._health = Health(shared.answers, readiness, shared.timing.status_stale_s)
        self._client = PortalClient(shared, context, self._health)
        self._login = Login(self._client, shared)
        said = Ongoing(shared.emit, trio.current_time)
        self._memory = Memory(shared.settings, readiness, shared.timing.settle_s, said)
        self._positions = PositionLoop(self._client, shared, self._memory, self._login)
        self._is_resting = False
        self._rest_changed = trio.Event()
        self.rest_or_wake()

    def rest_or_wake(self) -> None:
        """The bridge may have begun to rest, or woken up (`IBridgeBase.rest`)."""
        has_to_rest = self._readiness.blocks(Reason.STANDBY, trio.current_time())
        if has_to_rest is self._is_resting:
            return
        self._is_resting = has_to_rest
        self._memory.rest_or_wake(is_resting=has_to_rest)
        self._rest_changed.set()
        self._rest_changed = trio.Event()

    async def wait_lost(self) -> str:
        await self._lost.wait()
        return str(self._lost_error)

    def inputs(self) -> RiskInputs:
        memory = self._memory
        greeks = memory.greeks(well_at=self._health.well_at)
        return RiskInputs(
            memory.accounts,
            memory.holdings.positions(),
            greeks,
            memory.troubles(greeks),
            memory.rates(),
            positions_at=memory.positions_at,
        )

    async def probe(self) -> None:
        """See `IBridgeBase.probe`: any answer is a sign of life, even a refusal."""
        with trio.move_on_after(PROBE_TIMEOUT_S):
            try:
                if self._shared.pacing.pause_s > 0:
                    await self._client.knock()
                else:
                    await self._login.tickle()
            except AnswerError:
                pass
            return
        raise NoAnswerError(f"no answer within {PROBE_TIMEOUT_S:.0f} s")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, report started, and keep going.

        Raises:
            GatewayError: before it has started: the gateway gave no usable answer.
            ConfigError: before it has started: the gateway does not know an account of IB_ACCOUNT.
        """
        started = False
        with self.scope:
            try:
                await self._open()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._end_in_silence)
                    nursery.start_soon(self._login.keep_alive)
                    nursery.start_soon(self._login.watch)
                    nursery.start_soon(self._serve)
                    await self._first_load()
                    started = True
                    if self._lost_error is None:
                        self._readiness.clear(Reason.NOT_CONNECTED)
                    task_status.started()
            finally:
                self.done.set()
                self._readiness.block(Reason.NOT_CONNECTED)
                with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                    await self._client.aclose()
        if not started:
            raise self._lost_error or GatewayError("disconnected")

    async def _open(self) -> None:
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            try:
                if await self._login.check() is SessionState.HEALTHY:
                    await self._positions.load_accounts()
            except PausedError:
                # A pause is a state like "not logged in": check, without a request, that the
                # gateway is there, and wait.
                await self._client.knock()
            return
        raise NoAnswerError(f"the gateway did not get ready within {CONNECT_TIMEOUT_S:.0f} s")

    async def _first_load(self) -> None:
        """Wait for the first positions, for as long as the session is well."""
        with trio.move_on_after(LOAD_TIMEOUT_S):
            async with trio.open_nursery() as nursery:

                async def give_up() -> None:
                    await self._health.wait_session(well=False)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(give_up)
                await self._memory.wait_download()
                nursery.cancel_scope.cancel()

    async def _serve(self) -> None:
        """Follow the portfolio whenever the session is well, each time from an empty memory."""
        client, shared, memory = self._client, self._shared, self._memory
        while True:
            await self._health.wait_session(well=True)
            definitions = DefinitionLoop(client, shared, memory)
            values = ValuesLoop(client, shared, memory)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._follow, nursery, definitions, values)
                    await self._health.wait_session(well=False)
                    nursery.cancel_scope.cancel()
            finally:
                # Before the next session begins: nothing old may show in it.
                memory.forget()
                self._positions.forget_accounts()

    async def _follow(
        self,
        nursery: trio.Nursery,
        definitions: DefinitionLoop,
        values: ValuesLoop,
    ) -> None:
        """The accounts come first, then everything else at once."""
        try:
            await self._positions.know_accounts()
            nursery.start_soon(definitions.run)
            nursery.start_soon(self._price)
            nursery.start_soon(values.run)
            await self._positions.run()
        except ConfigError as error:
            self._end(error)

    async def _price(self) -> NoReturn:
        """Keep the quotes coming, except while the bridge rests."""
        client, shared, memory = self._client, self._shared, self._memory
        while True:
            while self._is_resting:
                await self._rest_changed.wait()
            stream = QuoteStream(client, shared, memory, self._login)
            quotes = QuoteLoop(client, shared, memory, stream)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.run)
                nursery.start_soon(quotes.run)
                await self._rest_changed.wait()
                nursery.cancel_scope.cancel()

    async def _end_in_silence(self) -> None:
        self._end(await self._health.wait_silent())

    def _end(self, error: BridgeError) -> None:
        if self._lost_error is None:
            self._lost_error = error
            self._lost.set()
            self._readiness.block(Reason.NOT_CONNECTED)
            self.scope.cancel()
