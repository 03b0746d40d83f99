"""One connection to TWS or IB Gateway, from its first packet to its last.

ib_async is an asyncio library; trio-asyncio runs its loop inside one Trio task. Every session has a
loop of its own, so that whatever breaks in there takes this one connection with it and no more.

ib_async calls our handlers synchronously, inside the loop, so what they change in memory holds for
the very next row. It also swallows what a handler raises; `_guarded` keeps bugs loud.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import trio
import trio_asyncio
from ib_async import IB, Contract

from trio_bridge.errors import BridgeError, ConfigError, GatewayError
from trio_bridge.gateways.socket_notices import Notices, OnlyOnce
from trio_bridge.gateways.socket_positions import Holdings, details_from
from trio_bridge.gateways.socket_subscriptions import POLL_S, Subscriptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_bridge.config import Settings
    from trio_bridge.gateways.base import EventSink
    from trio_bridge.gateways.socket_positions import Details
    from trio_bridge.policy.market_lines import MarketLines

T = TypeVar("T")

HANDSHAKE_TIMEOUT_S = 10.0
POSITIONS_TIMEOUT_S = 30.0
DETAILS_TIMEOUT_S = 10.0
DETAILS_AGAIN_S = 60.0
"""How long until a details request without an answer is made again."""

PROBE_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 1.0
SETTLE_TIMEOUT_S = 10.0
"""How long the first rows wait for the Greeks of every option."""

IDLE_POLL_S = 1.0
"""The same once all have answered."""

log = structlog.get_logger()


class Session:
    """`run` is the whole life of a connection; everything else is read while it lasts."""

    def __init__(
        self,
        settings: Settings,
        emit: EventSink,
        *,
        lines: MarketLines,
        details: dict[int, Details],
    ) -> None:
        self._settings = settings
        self._emit = emit
        self._ib = IB()
        self._lost = trio.Event()
        self._closed = trio.Event()
        self._wake = trio.Event()
        self._crash: Exception | None = None
        self._probes, self._probe_requests = trio.open_memory_channel[trio.Event](1)
        self._reload = False
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.lost_reason = ""
        self.downloaded = False
        self.settled = False
        self._settle_deadline = 0.0
        self.holdings = Holdings(())
        self.holdings.details = details
        say_once = OnlyOnce(emit)
        self.subscriptions = Subscriptions(
            self._ib,
            lines,
            data_type=settings.ib_market_data_type,
            emit=emit,
            say_once=say_once,
            clock=trio.current_time,
        )
        self._notices = Notices(
            self.subscriptions,
            client_id=settings.ib_client_id,
            emit=emit,
            say_once=say_once,
            lose=self._lose,
            start_over=self._start_over,
        )

    # What the bridge asks

    @property
    def lost(self) -> bool:
        """Whether the connection has ended, known at the instant it does."""
        return self._lost.is_set()

    @property
    def upstream_lost(self) -> bool:
        return self._notices.upstream_lost

    async def wait_lost(self) -> str:
        await self.done.wait()
        return self.lost_reason

    async def probe(self) -> None:
        """One reqCurrentTime. It proves the hop to the gateway, not the gateway's own link."""
        answered = trio.Event()
        try:
            self._probes.send_nowait(answered)
        except trio.WouldBlock:
            raise GatewayError("the last probe is still unanswered") from None
        with trio.move_on_after(PROBE_TIMEOUT_S):
            await answered.wait()
            return
        raise GatewayError(f"no answer to a probe within {PROBE_TIMEOUT_S:g} s")

    # Life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, download, report started; then serve until the connection is lost.

        Raises:
            GatewayError, ConfigError: before it was started.
        """
        refused: BridgeError | None = None
        started = False
        try:
            with self.scope:
                async with trio_asyncio.open_loop():
                    self._attach()
                    try:
                        await self._open()
                        started = True
                        task_status.started()
                        await self._serve()
                    except BridgeError as error:
                        refused = error
                        self._lose(str(error))
                    except Exception as error:
                        self._crash = error
                    finally:
                        await self._close()
        except BaseExceptionGroup as group:
            broken, rest = group.split(Exception)
            if broken is not None:
                self._broke_down(broken)
            if rest is not None:
                raise rest from None
        except Exception as error:
            self._broke_down(error)
        finally:
            self._lose("disconnected")
            self.done.set()
        if self._crash is not None:
            raise self._crash
        if not started and not self.scope.cancelled_caught:
            raise refused or GatewayError(self.lost_reason)

    def _broke_down(self, error: Exception) -> None:
        """An exception in the asyncio loop ends this connection, and is never hidden."""
        log.error("the connection's event loop broke down", exc_info=error)
        self._lose(f"the connection broke down: {_innermost(error)!r}")

    def _attach(self) -> None:
        ib = self._ib
        ib.errorEvent += self._guarded(self._on_error)
        ib.positionEvent += self._guarded(self._on_position)
        ib.client.conn.disconnected += self._guarded(self._on_disconnected)

    def _guarded(self, handler: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(handler)
        def guarded(*args: Any) -> None:
            try:
                handler(*args)
            except Exception as error:
                self._crash = error
                self._lose(f"bug in a message handler: {error!r}")

        return guarded

    async def _close(self) -> None:
        self._ib.disconnect()
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            if self._ib.client.conn.isConnected():
                await self._closed.wait()

    def _lose(self, reason: str) -> None:
        if not self._lost.is_set():
            self.lost_reason = reason
            self._lost.set()
            self._wake.set()

    async def _bounded(
        self, request: Callable[[], Awaitable[T]], timeout_s: float, failure: str
    ) -> T:
        """Run asyncio code until it is done, the connection is lost, or time is up."""
        result: list[T] = []
        error: Exception | None = None

        async def ask() -> T:
            return await request()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_lost, nursery.cancel_scope)
            with trio.move_on_after(timeout_s):
                try:
                    result.append(await trio_asyncio.aio_as_trio(ask)())
                except (OSError, EOFError) as caught:
                    error = caught
            nursery.cancel_scope.cancel()
        if result:
            return result[0]
        if self._lost.is_set():
            raise GatewayError(self.lost_reason)
        if error is not None:
            raise GatewayError(self._explain(error)) from error
        raise GatewayError(f"{failure} within {timeout_s:g} s")

    async def _cancel_when_lost(self, scope: trio.CancelScope) -> None:
        await self._lost.wait()
        scope.cancel()

    def _explain(self, error: Exception) -> str:
        where = f"{self._settings.ib_socket_host}:{self._settings.ib_socket_port}"
        if isinstance(error, ConnectionRefusedError) or "refused" in str(error):
            return f"connection refused by {where}: is TWS or IB Gateway up, its API port enabled?"
        return f"no connection to {where}: {error}"

    async def _open(self) -> None:
        settings, ib = self._settings, self._ib
        ib.wrapper.clientId = settings.ib_client_id

        async def shake_hands() -> None:
            # Not ib.connectAsync: it also asks for orders, accounts and executions.
            await ib.client.connectAsync(
                settings.ib_socket_host, settings.ib_socket_port, settings.ib_client_id, 0
            )

        await self._bounded(shake_hands, HANDSHAKE_TIMEOUT_S, "the gateway did not answer")
        self.holdings.accounts = self._select_accounts(ib.client.getAccounts())
        ib.client.reqMarketDataType(int(settings.ib_market_data_type))
        await self._download_positions()

    def _select_accounts(self, managed: list[str]) -> tuple[str, ...]:
        wanted = self._settings.ib_account
        unknown = [account for account in wanted if account not in managed]
        if unknown:
            raise ConfigError(
                f"IB_ACCOUNT={','.join(wanted)}: this login does not manage {', '.join(unknown)}; "
                f"it manages {', '.join(sorted(managed))}"
            )
        return wanted or tuple(sorted(managed))

    async def _download_positions(self) -> None:
        self.downloaded = False
        found = await self._bounded(
            self._ib.reqPositionsAsync, POSITIONS_TIMEOUT_S, "the positions did not arrive"
        )
        self.holdings.replace(found)
        self.subscriptions.expect(self.holdings.option_ids())
        self.downloaded = True
        self.settled = False
        self._settle_deadline = trio.current_time() + SETTLE_TIMEOUT_S

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer_probes)
            nursery.start_soon(self._learn_details)
            while not self._lost.is_set():
                self._wake = trio.Event()
                if self._reload:
                    self._reload = False
                    await self._download_positions()
                await self._step()
            nursery.cancel_scope.cancel()

    async def _ask(self, request: Callable[[], Awaitable[T]], timeout_s: float) -> T | None:
        """Run asyncio code beside the serving; None when no answer came in time."""

        async def ask() -> T:
            return await request()

        with trio.move_on_after(timeout_s):
            try:
                answer: T = await trio_asyncio.aio_as_trio(ask)()
                return answer
            except OSError:  # what ib_async raises in waiting requests when the socket falls
                return None
        return None

    async def _answer_probes(self) -> None:
        async for answered in self._probe_requests:
            if await self._ask(self._ib.reqCurrentTimeAsync, PROBE_TIMEOUT_S) is not None:
                answered.set()

    async def _learn_details(self) -> None:
        """Ask for what positions leave out: exchange, multiplier, a futures option's underlying."""
        asked: dict[int, float] = {}
        while True:
            for contract in self.holdings.lacking_details():
                con_id = contract.conId
                if asked.get(con_id, -math.inf) > trio.current_time() - DETAILS_AGAIN_S:
                    continue
                asked[con_id] = trio.current_time()
                request = functools.partial(
                    self._ib.reqContractDetailsAsync, Contract(conId=con_id)
                )
                answers = await self._ask(request, DETAILS_TIMEOUT_S)
                if answers:
                    self.holdings.learn(con_id, details_from(answers[0]))
                    self._wake.set()
            await trio.sleep(IDLE_POLL_S)

    async def _step(self) -> None:
        """Bring the subscriptions in line with what we hold; wait for something to happen."""
        now = trio.current_time()
        again_at = now + IDLE_POLL_S
        if not self.upstream_lost:
            due = self.subscriptions.step(self.holdings.options(), self.holdings.exposures())
            again_at = max(now + POLL_S, min(again_at, due))
            if not self.settled:
                again_at = now + POLL_S
                self.settled = self.subscriptions.all_answered or now >= self._settle_deadline
        with trio.move_on_at(again_at):
            await self._wake.wait()

    # What the gateway says

    def _on_position(self, position: Any) -> None:
        self.holdings.update(position)
        self._wake.set()

    def _on_disconnected(self, message: str) -> None:
        self._closed.set()
        detail = f": {message}" if message else ""
        self._lose(f"the gateway closed the connection{detail}")

    def _on_error(self, request_id: int, code: int, text: str, contract: Any) -> None:
        self._notices.on_error(request_id, code, text, contract)
        self._wake.set()

    def _start_over(self) -> None:
        self.downloaded = False
        self._reload = True


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
