"""One connection to TWS or IB Gateway, from its first packet to its last.

ib_async is an asyncio library; trio-asyncio runs its loop inside one Trio task. Every connection
has a loop of its own, so whatever breaks in there ends this connection and nothing else.

The gateway's messages are handled synchronously: what they change in memory holds for the very next
row.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, assert_never

import trio
from ib_async import Contract

from trio_bridge.asyncio_compat import trio_asyncio
from trio_bridge.errors import BridgeError, GatewayError, leaves
from trio_bridge.gateways.accounts import Accounts
from trio_bridge.gateways.bursts import Bursts
from trio_bridge.gateways.ongoing import Ongoing, Recurring
from trio_bridge.gateways.readiness import SETTLE_S, Reason, Settling
from trio_bridge.gateways.socket.account import AccountWatch, PositionRequests
from trio_bridge.gateways.socket.asking import (
    Asking,
    Loss,
    answer_to,
    end_all_tasks,
    resolve,
)
from trio_bridge.gateways.socket.client import GatewayClient
from trio_bridge.gateways.socket.details import by_preference, details_from
from trio_bridge.gateways.socket.heartbeat import Heartbeat
from trio_bridge.gateways.socket.holdings import (
    AGAIN_S,
    Holdings,
    HoldingsView,
    learn_details,
)
from trio_bridge.gateways.socket.market_data.subscriptions import POLL_S, Subscriptions
from trio_bridge.gateways.socket.notices import Notices
from trio_bridge.gateways.worth import Agreement
from trio_bridge.logs import Log
from trio_bridge.model import utc_now
from trio_bridge.policy.reset_window import hold_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from ib_async import Position

    from trio_bridge.config import Settings
    from trio_bridge.gateways.base import EventSink
    from trio_bridge.gateways.readiness import Readiness
    from trio_bridge.gateways.socket.details import Details
    from trio_bridge.gateways.socket.market_data.lines import MarketLines

HANDSHAKE_TIMEOUT_S = 10.0
POSITIONS_TIMEOUT_S = 30.0
"""From one position to the next, or to the last one's end message."""

CONFIRM_EMPTY_S = 1.0
"""A gateway that has just logged in may know of no positions yet, and a false row of zeros is the
worst error: an empty book counts only when reported twice, this far apart."""

IDLE_POLL_S = 1.0
"""How often to check the subscriptions when all options have answered."""

NOTHING = HoldingsView((), {})

log = Log()


class Phase(Enum):
    """Where a connection is in its life; it may be lost in any phase."""

    TRYING = auto()
    """Shaking hands with an address that is not the last one: if it hangs up, nothing is lost."""
    OPENING = auto()
    """Shaking hands with the last address, or not yet with any."""
    DOWNLOADING = auto()
    """The positions are on their way."""
    TO_DOWNLOAD = auto()
    """They have to be requested again as soon as the gateway's link is up."""
    SERVING = auto()
    """The positions are complete, and kept up to date."""
    CLOSING = auto()


class Connection:
    """`run` is the whole life of a connection; everything else is read while it lasts."""

    def __init__(
        self,
        settings: Settings,
        emit: EventSink,
        *,
        readiness: Readiness,
        lines: MarketLines,
        details: dict[int, Details],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """`now` is the wall clock."""
        self._settings = settings
        self._now = now
        self._readiness = readiness
        self._readiness.block(Reason.DOWNLOADING)
        self._settling = Settling(readiness, SETTLE_S)
        self._is_resting = False
        self._scope = trio.CancelScope()
        self._loss = Loss()
        self._wake = trio.Event()
        self._crash: Exception | None = None
        self._phase = Phase.OPENING
        self.rest_or_wake()
        self._asking = Asking(self._loss, settings.ib_socket_host, settings.ib_socket_port)
        self.done = trio.Event()
        self.client = GatewayClient(self)
        self.heartbeat = Heartbeat(self._ask_time)
        self.accounts = Accounts(settings.ib_account, emit)
        self.holdings = Holdings(self.accounts, details)
        said = Ongoing(emit, trio.current_time)
        self._recurring = Recurring(emit, trio.current_time)
        self._bursts = Bursts(emit, trio.current_time)
        self.subscriptions = Subscriptions(
            self.client.ib,
            lines,
            data_type=settings.ib_market_data_type,
            max_age_s=settings.greeks_max_age_s,
            emit=emit,
            bursts=self._bursts,
            look_up=self.holdings.look_up,
            clock=trio.current_time,
        )
        sent = self.subscriptions.sent
        self.account = AccountWatch(
            self.client.ib.client, self.accounts, sent=sent, clock=trio.current_time
        )
        self._positions = PositionRequests(self.client.ib.client, self.accounts, sent=sent)
        self._agreement = Agreement(readiness, said)
        self._notices = Notices(
            self.subscriptions,
            readiness,
            self._settling,
            client_id=settings.ib_client_id,
            emit=emit,
            said=said,
            recurring=self._recurring,
            bursts=self._bursts,
            lose=self._lose_by,
            start_over=self._start_over,
            carry_on=self._carry_on,
        )

    # What the bridge asks

    @property
    def ending(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._loss.has_come

    def end(self) -> None:
        """End the connection, or the attempt to make one; then `done` is set."""
        self._lose("disconnected")
        self._scope.cancel()

    async def wait_lost(self) -> str:
        await self.done.wait()
        return str(self._loss.error)

    def rest_or_wake(self) -> None:
        """The bridge may have begun to rest, or woken up (`IBridgeBase.rest`)."""
        has_to_rest = self._readiness.blocks(Reason.STANDBY, trio.current_time())
        if has_to_rest is self._is_resting:
            return
        self._is_resting = has_to_rest
        if not has_to_rest and self._phase is Phase.SERVING:
            self._await_greeks()
        self._wake.set()

    # Life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, download, report started; then serve until the connection is lost.

        Raises:
            GatewayError, ConfigError: before it has started.
        """
        started = False
        refusal: BridgeError | None = None
        try:
            with self._scope:
                async with trio_asyncio.open_loop():
                    try:
                        await self._connect()
                        started = True
                        self._readiness.clear(Reason.NOT_CONNECTED)
                        task_status.started()
                        await self._serve()
                    except BridgeError as error:
                        refusal = error
                        self._lose(str(error))
                    except Exception as error:
                        self.bug(error)
                    finally:
                        self._phase = Phase.CLOSING
                        self._readiness.block(Reason.NOT_CONNECTED)
                        self._bursts.look(at_once=True)
                        await self.client.close()
                        await end_all_tasks()
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
            raise refusal or self._loss.error

    def _broke_down(self, error: Exception) -> None:
        """An exception in the asyncio loop ends this connection and is logged."""
        log.error("the connection's event loop broke down", exc_info=error)
        self._lose(f"the connection broke down: {'; '.join(map(repr, leaves(error)))}")

    def _lose(self, reason: str) -> None:
        self._lose_by(GatewayError(reason))

    def _lose_by(self, error: GatewayError) -> None:
        self._loss.come(error)
        self._readiness.block(Reason.NOT_CONNECTED)
        self._wake.set()

    # The beginning

    async def _connect(self) -> None:
        settings, ib = self._settings, self.client.ib
        ib.wrapper.clientId = settings.ib_client_id
        addresses = await resolve(
            settings.ib_socket_host, settings.ib_socket_port, timeout_s=HANDSHAKE_TIMEOUT_S
        )
        await self._shake_hands(addresses)
        self.accounts.managed(ib.client.getAccounts())
        await self._download()

    async def _shake_hands(self, addresses: list[str]) -> None:
        """Try the addresses in turn; a gateway may listen on one of them only, and another program
        on another."""
        settings, client = self._settings, self.client.ib.client
        for address in addresses:
            is_last = address == addresses[-1]
            self._phase = Phase.OPENING if is_last else Phase.TRYING
            # Not ib.connectAsync: it also asks for orders, accounts and executions.
            shake_hands = functools.partial(
                client.connectAsync, address, settings.ib_socket_port, settings.ib_client_id, 0
            )
            try:
                await self._asking.ask(
                    shake_hands, HANDSHAKE_TIMEOUT_S, "the gateway did not answer"
                )
            except GatewayError:
                if self._loss.has_come or is_last:
                    raise
                await self.client.close()
                self.client.expect_another()
            else:
                return

    async def _download(self) -> None:
        """Get the positions; rows then wait for the Greeks of their options.

        A gateway that is cut off from Interactive Brokers may send only a part, or nothing at all:
        that does not count, and is requested again when the link is up.
        """
        self._phase = Phase.DOWNLOADING
        self._readiness.block(Reason.DOWNLOADING)
        self._settling.forget()
        cut_off, outages = self._notices.upstream_lost, self._notices.outages
        self.holdings.forget()
        self.subscriptions.open()
        self._agreement.start(trio.current_time(), len(self.accounts.chosen))
        self.account.start()
        await self._ask_positions()
        if not self.holdings.view.positions:
            with trio.move_on_after(CONFIRM_EMPTY_S):
                await self._loss.event.wait()
            await self._ask_positions()
        if cut_off or self._notices.outages > outages:
            self._phase = Phase.TO_DOWNLOAD
            return
        self._phase = Phase.SERVING
        self._await_greeks()
        self._compare()
        self._readiness.clear(Reason.DOWNLOADING)

    @property
    def _needs_data(self) -> HoldingsView:
        """What needs market data now."""
        return NOTHING if self._is_resting else self.holdings.view

    def _await_greeks(self) -> None:
        """Rows wait for the Greeks of every option."""
        self.subscriptions.expect(self._needs_data.exposures)
        self._settling.forget()
        if not self._notices.upstream_lost:  # its return starts that clock otherwise
            self._settling.start(trio.current_time())

    def _compare(self) -> None:
        """Hold the rows back while account values say that positions are lacking."""
        if self._phase is not Phase.SERVING:
            return
        was_lacking = not self._agreement.is_reached
        held = self.holdings.view
        now = trio.current_time()
        self._agreement.judge(
            self.accounts.chosen,
            held.accounts,
            self.account.values(),
            now,
            awaited=self.account.awaited,
            why=self.account.refusal,
        )
        if was_lacking and self._agreement.is_reached:
            # What has arrived late is waited for as what came in time.
            self._await_greeks()

    async def _ask_positions(self) -> None:
        request: Callable[[], Awaitable[object]] = self._positions.ask
        if not self._positions.are_needed:
            request = self.client.ib.reqPositionsAsync
            self.subscriptions.sent(1)
        await self._asking.ask(request, POSITIONS_TIMEOUT_S, "the positions did not arrive")

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.client.read)
            nursery.start_soon(self.heartbeat.run)
            nursery.start_soon(learn_details, self.holdings, self._learn, self._now)
            try:
                await self._follow()
            except GatewayError as error:
                self._lose(str(error))
            nursery.cancel_scope.cancel()

    async def _follow(self) -> None:
        while not self._loss.has_come:
            self._wake = trio.Event()
            if self._phase is Phase.TO_DOWNLOAD and not self._notices.upstream_lost:
                await self._download()
            await self._step()

    async def _step(self) -> None:
        """Adjust the subscriptions to what we hold; wait for something to happen."""
        self.client.count()
        self._recurring.look()
        self._bursts.look()
        now = trio.current_time()
        again_at = now + IDLE_POLL_S
        if self._notices.upstream_lost:
            self._look_for_comeback(now)
        else:
            due = self.subscriptions.step(self._needs_data)
            due = min(due, self._step_account(now))
            again_at = max(now + POLL_S, min(again_at, due))
            if not self._settling.is_over(now):
                again_at = now + POLL_S
                if self.subscriptions.all_answered and not self.holdings.view.lacking_details:
                    self._settling.answered()
        with trio.move_on_at(again_at):
            await self._wake.wait()

    def _step_account(self, now: float) -> float:
        """Keep the account values up to date; request positions again that are lacking."""
        self._compare()
        if now >= self._agreement.reload_at:
            self._agreement.reloading(now)
            self._start_over()
            self._wake.set()
        return min(self.account.step(soon=self._agreement.doubted(now)), self._agreement.reload_at)

    def _look_for_comeback(self, now: float) -> None:
        why = self._notices.comeback.look(self.client.ticks, now)
        if why and hold_until(self._now(), self._settings.reset_windows) is None:
            self._lose(why)

    def _ask_time(self) -> None:
        if not self._loss.has_come:
            self.subscriptions.sent(1)
            self.client.ib.client.reqCurrentTime()

    async def _learn(self, con_id: int) -> None:
        """Request the details of one contract, beside everything else."""
        self.subscriptions.sent(1)
        request = functools.partial(self.client.ib.reqContractDetailsAsync, Contract(conId=con_id))
        with trio.move_on_after(AGAIN_S), suppress(OSError):  # OSError: the socket fell
            answers = await answer_to(request)
            # ib_async treats an option computation as an answer, too.
            for answer in by_preference(answers) if isinstance(answers, list) else ():
                if answer.contract and answer.contract.conId == con_id:
                    self.holdings.learn(con_id, details_from(answer))
                    self._wake.set()

    # What the gateway says (`client.Listener`)

    def error(self, request_id: int, code: int, text: str, contract: Contract | None) -> None:
        if not self.account.refused(request_id, code, text):
            self._notices.on_error(request_id, code, text, contract)
        self._wake.set()

    def position(self, position: Position) -> None:
        self._asking.heard()
        self.holdings.update(position)
        self._compare()
        self._wake.set()

    def positions_end(self, request_id: int) -> None:
        self._asking.heard()
        self._positions.ended(request_id)

    def account_value(
        self, request_id: int, account: str, key: str, value: str, currency: str
    ) -> None:
        self.account.take(request_id, account, key, value, currency)
        if account not in self.holdings.view.accounts:
            self._compare()

    def account_values_end(self, request_id: int) -> None:
        self.account.ended(request_id)
        self._compare()
        self._wake.set()

    def current_time(self) -> None:
        self.heartbeat.answered()

    def data_type_changes(self, request_id: int) -> None:
        self.subscriptions.feed.note(request_id)

    def too_old(self, version: int, least: int) -> None:
        self._lose_by(
            GatewayError(
                f"the gateway speaks API version {version}; at least {least} is needed",
                remedy="update TWS or IB Gateway",
            )
        )

    def closed(self, reason: str) -> None:
        match self._phase:
            case Phase.TRYING | Phase.CLOSING:
                pass
            case Phase.OPENING | Phase.DOWNLOADING | Phase.TO_DOWNLOAD | Phase.SERVING:
                detail = f": {reason}" if reason else ""
                self._lose(f"the gateway closed the connection{detail}")
            case _:
                assert_never(self._phase)

    def unreadable(self, error: Exception) -> None:
        log.error("the gateway sent what cannot be read", exc_info=error)
        self._lose(f"the gateway sent what cannot be read: {error!r}")

    def bug(self, error: Exception) -> None:
        self._crash = error
        self._lose(f"bug: {error!r}")

    def _carry_on(self) -> None:
        if self._phase is not Phase.SERVING:
            return
        if self.holdings.view.positions:
            self._settling.start(trio.current_time())
        else:
            # It may have reported none for lack of a link, and the loss of the link too late.
            self._start_over()

    def _start_over(self) -> None:
        match self._phase:
            case Phase.SERVING:
                self._phase = Phase.TO_DOWNLOAD
                self._readiness.block(Reason.DOWNLOADING)
            case Phase.DOWNLOADING:
                # Two downloads at once could not be told apart: the end of the first would be
                # mistaken for the end of the second.
                self._lose("the gateway lost our subscriptions in the middle of the download")
            case Phase.TRYING | Phase.OPENING | Phase.TO_DOWNLOAD | Phase.CLOSING:
                pass  # the download is still to come, or no longer needed
            case _:
                assert_never(self._phase)
