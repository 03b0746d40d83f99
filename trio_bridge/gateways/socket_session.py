"""One connection to TWS or IB Gateway, from its first packet to its last.

ib_async is an asyncio library; trio-asyncio runs its loop inside one Trio task. Every session has a
loop of its own, so that whatever breaks in there takes this one connection with it and no more.

ib_async calls our handlers synchronously, inside the loop, so what they change in memory holds for
the very next row. What a handler raises does not reach the caller (eventkit hands it to an error
handler, or drops it); `_on_bug` keeps it loud.
"""

from __future__ import annotations

import functools
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import trio
import trio_asyncio
from ib_async import IB, Contract

from trio_bridge.errors import BridgeError, ConfigError, GatewayError
from trio_bridge.gateways.socket_notices import Notices, OnlyOnce
from trio_bridge.gateways.socket_positions import Holdings, details_from
from trio_bridge.gateways.socket_reader import read_beside
from trio_bridge.gateways.socket_subscriptions import POLL_S, Subscriptions
from trio_bridge.gateways.socket_ticks import TickFilter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

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

DETAILS_GAP_S = 0.05
UNDERLYINGS_GAP_S = 0.25
"""Between two requests for details: what is left of the gateway's message rate is for market data,
and most of it while details only tell which future an option is on."""

PROBE_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 1.0
SETTLE_TIMEOUT_S = 10.0
"""How long the first rows wait for the Greeks of every option."""

IDLE_POLL_S = 1.0
"""How often the subscriptions are looked after when all options have answered."""

POSITION_MESSAGE = 61
CURRENT_TIME_MESSAGE = 49

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
        self._ib = IB()
        self._scope = trio.CancelScope()
        self._lost = trio.Event()
        self._closed = trio.Event()
        self._wake = trio.Event()
        self._crash: Exception | None = None
        self._questions, self._asked = trio.open_memory_channel[None](1)
        self._time_came = trio.Event()
        self._probing = False
        self._missed = False
        self._open = False
        self._closing = False
        self._downloading = False
        self._reload = False
        self._settle_until = -math.inf
        self.done = trio.Event()
        self.lost_reason = ""
        self.received = self.sent = 0
        """Messages, as of the last step: ib_async forgets them when the connection ends."""
        self.downloaded = False
        self.settled = False
        self.holdings = Holdings((), details)
        self._ticks = TickFilter()
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
    def connected(self) -> bool:
        """Whether the connection stands; that it has ended is known at the instant it does."""
        return self._open and not self._lost.is_set()

    @property
    def upstream_lost(self) -> bool:
        return self._notices.upstream_lost

    def end(self) -> None:
        """End the connection, or the attempt to make one; `done` tells when that has happened."""
        self._lose("disconnected")
        self._scope.cancel()

    async def wait_lost(self) -> str:
        await self.done.wait()
        return self.lost_reason

    async def probe(self) -> None:
        """One reqCurrentTime. It proves the hop to the gateway, not the gateway's own link.

        After a miss, the late answer to an earlier question is as good as a new one: a gateway that
        catches up may leave the second of two hasty questions unanswered.
        """
        if self._probing:
            raise GatewayError("the last probe is still under way")
        if not self._missed:
            self._time_came = trio.Event()
        self._probing = self._missed = True
        try:
            if not self._time_came.is_set():
                with suppress(trio.WouldBlock):
                    self._questions.send_nowait(None)
            with trio.move_on_after(PROBE_TIMEOUT_S):
                await self._time_came.wait()
                self._missed = False
                return
        finally:
            self._probing = False
        raise GatewayError(f"no answer to a probe within {PROBE_TIMEOUT_S:g} s")

    # Life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, download, report started; then serve until the connection is lost.

        Raises:
            GatewayError, ConfigError: before it was started.
        """
        started = False
        refusal: BridgeError | None = None
        try:
            with self._scope:
                async with trio_asyncio.open_loop():
                    self._attach()
                    try:
                        await self._connect()
                        started = self._open = True
                        task_status.started()
                        await self._serve()
                    except BridgeError as error:
                        refusal = error
                        self._lose(str(error))
                    except Exception as error:
                        self._on_bug(None, error)
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
        if not started:
            raise refusal or GatewayError(self.lost_reason)

    def _broke_down(self, error: Exception) -> None:
        """An exception in the asyncio loop ends this connection, and is never hidden."""
        log.error("the connection's event loop broke down", exc_info=error)
        self._lose(f"the connection broke down: {_innermost(error)!r}")

    def _attach(self) -> None:
        client = self._ib.client
        # ib_async's own handler asks for account figures after a 1102: none of our business.
        self._ib.errorEvent.clear()
        self._ib.errorEvent.connect(self._on_error, error=self._on_bug)
        self._ib.positionEvent.connect(self._on_position, error=self._on_bug)
        client.conn.disconnected.connect(self._on_disconnected, error=self._on_bug)
        client.conn.hasData.error_event.connect(self._on_gibberish)
        self._digest = client.conn.data_received
        client.conn.data_received = self._receive  # type: ignore[method-assign]
        # ib_async logs and skips what it cannot read. A position that is missing makes every row
        # a lie, so without it there is no connection.
        read_position = client.decoder.handlers[POSITION_MESSAGE]

        @functools.wraps(read_position)
        def read(fields: list[str]) -> None:
            try:
                read_position(fields)
            except Exception as error:
                self._on_gibberish(None, error)

        client.decoder.handlers[POSITION_MESSAGE] = read
        # Not ib.reqCurrentTime: all its answers go to whoever asked last.
        client.decoder.handlers[CURRENT_TIME_MESSAGE] = lambda fields: self._time_came.set()

    def _count_messages(self) -> None:
        client = self._ib.client
        self.received = max(self.received, client._numMsgRecv + self._ticks.dropped)
        self.sent = max(self.sent, client.conn.numMsgSent)

    async def _close(self) -> None:
        self._open, self._closing = False, True
        self._count_messages()
        client = self._ib.client
        with suppress(OSError):  # the peer may have closed already, and we not have heard of it
            client.disconnect()
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            if client.conn.isConnected():
                await self._closed.wait()
        if client.conn.transport is not None:
            client.conn.transport.abort()

    def _lose(self, reason: str) -> None:
        if not self._lost.is_set():
            self.lost_reason = reason
            self._lost.set()
            self._wake.set()

    async def _bounded(
        self, request: Callable[[], Awaitable[T]], timeout_s: float, failure: str
    ) -> T:
        """Run asyncio code until it is done, the connection is lost, or time is up."""
        answers: list[T] = []
        failures: list[str] = []

        async def fail_when_lost() -> None:
            await self._lost.wait()
            failures.append(self.lost_reason)
            nursery.cancel_scope.cancel()

        async def fail_when_late() -> None:
            await trio.sleep(timeout_s)
            failures.append(f"{failure} within {timeout_s:g} s")
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_lost)
            nursery.start_soon(fail_when_late)
            try:
                answers.append(await trio_asyncio.aio_as_trio(request)())
            except OSError as error:
                failures.append(self._explain(error))
            nursery.cancel_scope.cancel()
        # The first failure is the cause: giving up on a connection also loses it. And an answer of
        # a connection that ended meanwhile is of no use, because nothing follows it.
        if self._lost.is_set():
            failures.append(self.lost_reason)
        if failures:
            raise GatewayError(failures[0])
        return answers[0]

    # The beginning

    async def _connect(self) -> None:
        settings, client = self._settings, self._ib.client
        self._ib.wrapper.clientId = settings.ib_client_id
        await self._shake_hands(await self._resolve())
        self.holdings.accounts = self._select_accounts(client.getAccounts())
        await self._download()

    async def _resolve(self) -> list[str]:
        """The addresses behind the host's name.

        asyncio would look it up in a thread that nobody can interrupt; Ctrl-C would have to wait
        for a name server that does not answer.
        """
        host, port = self._settings.ib_socket_host, self._settings.ib_socket_port
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT_S):
                found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        except trio.TooSlowError:
            raise GatewayError(
                f"IB_SOCKET_HOST={host}: no answer from the name server "
                f"within {HANDSHAKE_TIMEOUT_S:g} s"
            ) from None
        except (OSError, UnicodeError) as error:
            raise GatewayError(f"IB_SOCKET_HOST={host}: no such host ({error})") from error
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    async def _shake_hands(self, addresses: list[str]) -> None:
        settings, client = self._settings, self._ib.client
        for address in addresses:
            # Not ib.connectAsync: it also asks for orders, accounts and executions.
            shake_hands = functools.partial(
                client.connectAsync, address, settings.ib_socket_port, settings.ib_client_id, 0
            )
            try:
                await self._bounded(shake_hands, HANDSHAKE_TIMEOUT_S, "the gateway did not answer")
                return
            except GatewayError:
                if self._lost.is_set() or address == addresses[-1]:
                    raise

    def _explain(self, error: Exception) -> str:
        where = f"{self._settings.ib_socket_host}:{self._settings.ib_socket_port}"
        if isinstance(error, ConnectionRefusedError):
            return f"connection refused by {where}: is TWS or IB Gateway up, its API port enabled?"
        return f"no connection to {where}: {error}"

    def _select_accounts(self, managed: list[str]) -> tuple[str, ...]:
        wanted = self._settings.ib_account
        unknown = [account for account in wanted if account not in managed]
        if unknown:
            raise ConfigError(
                f"IB_ACCOUNT={','.join(wanted)}: this login does not manage {', '.join(unknown)}; "
                f"it manages {', '.join(sorted(managed))}"
            )
        return wanted or tuple(sorted(managed))

    async def _download(self) -> None:
        """Get the positions; rows then wait for the Greeks of their options."""
        self.downloaded = self.settled = self._reload = False
        self._downloading = True
        self.holdings.forget()
        self.subscriptions.open()
        self.subscriptions.sent(1)
        await self._bounded(
            self._ib.reqPositionsAsync, POSITIONS_TIMEOUT_S, "the positions did not arrive"
        )
        self._downloading = False
        self.subscriptions.expect(self.holdings.exposures())
        self._settle_until = trio.current_time() + SETTLE_TIMEOUT_S
        self.downloaded = True

    # Serving

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            nursery.start_soon(self._ask_time)
            nursery.start_soon(self._learn_details)
            try:
                await self._follow()
            except GatewayError as error:
                self._lose(str(error))
            nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        transport = self._ib.client.conn.transport
        if transport is None:
            return  # closed in the meantime, and known to be
        try:
            await read_beside(transport, self._receive)
        except OSError as error:
            self._on_disconnected(str(error))

    async def _follow(self) -> None:
        while not self._lost.is_set():
            self._wake = trio.Event()
            if self._reload:
                await self._download()
            await self._step()

    async def _step(self) -> None:
        """Bring the subscriptions in line with what we hold; wait for something to happen."""
        self._count_messages()
        now = trio.current_time()
        again_at = now + IDLE_POLL_S
        if self.upstream_lost:
            self._settle_until = now + SETTLE_TIMEOUT_S
        else:
            due = self.subscriptions.step(self.holdings.options(), self.holdings.exposures())
            again_at = max(now + POLL_S, min(again_at, due))
            if not self.settled:
                again_at = now + POLL_S
                self.settled = self.subscriptions.all_answered or now >= self._settle_until
        with trio.move_on_at(again_at):
            await self._wake.wait()

    async def _ask(self, request: Callable[[], Awaitable[T]], timeout_s: float) -> T | None:
        """Run asyncio code beside the serving; None when no answer came in time."""
        self.subscriptions.sent(1)
        with trio.move_on_after(timeout_s), suppress(OSError):  # OSError: the socket fell
            answer: T = await trio_asyncio.aio_as_trio(request)()
            return answer
        return None

    async def _ask_time(self) -> None:
        async for _ in self._asked:
            if not self._lost.is_set():
                self.subscriptions.sent(1)
                self._ib.client.reqCurrentTime()

    async def _learn_details(self) -> None:
        """Ask for what positions leave out: exchange, multiplier, a futures option's underlying."""
        asked: dict[int, float] = {}

        def due(con_ids: Iterable[int]) -> int | None:
            recently = trio.current_time() - DETAILS_AGAIN_S
            return next((one for one in con_ids if asked.get(one, -math.inf) <= recently), None)

        async with trio.open_nursery() as nursery:
            while True:
                gap_s = DETAILS_GAP_S
                con_id = due(self.holdings.lacking_details())
                if con_id is None:
                    gap_s = UNDERLYINGS_GAP_S
                    con_id = due(self.holdings.lacking_underlyings())
                if con_id is not None:
                    asked[con_id] = trio.current_time()
                    nursery.start_soon(self._learn, con_id)
                await trio.sleep(gap_s)

    async def _learn(self, con_id: int) -> None:
        ask = functools.partial(self._ib.reqContractDetailsAsync, Contract(conId=con_id))
        answers = await self._ask(ask, DETAILS_TIMEOUT_S)
        if answers:
            self.holdings.learn(con_id, details_from(answers[0]))
            self._wake.set()

    # What the gateway says

    def _receive(self, data: bytes) -> None:
        try:
            wanted = self._ticks.feed(data)
        except ValueError as error:
            self._on_gibberish(None, error)
        else:
            if wanted:
                self._digest(wanted)

    def _on_position(self, position: Any) -> None:
        self.holdings.update(position)
        self._wake.set()

    def _on_disconnected(self, message: str) -> None:
        self._closed.set()
        if not self._closing:
            detail = f": {message}" if message else ""
            self._lose(f"the gateway closed the connection{detail}")

    def _on_error(self, request_id: int, code: int, text: str, contract: Any) -> None:
        self._notices.on_error(request_id, code, text, contract)
        self._wake.set()

    def _on_gibberish(self, _source: Any, error: Exception) -> None:
        log.error("the gateway sent what cannot be read", exc_info=error)
        self._lose(f"the gateway sent what cannot be read: {error!r}")

    def _on_bug(self, _source: Any, error: Exception) -> None:
        self._crash = error
        self._lose(f"bug: {error!r}")

    def _start_over(self) -> None:
        if self._downloading:
            # Two downloads at once could not be told apart: the end of the first would pass for
            # the end of the second.
            self._lose("the gateway lost our subscriptions in the middle of the download")
        self.downloaded = False
        self._reload = True


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
