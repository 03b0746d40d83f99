"""Acts on what the gateway says, message by message."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, assert_never

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.events.data import FarmBack, FarmDown
from trio_bridge.events.gateway import (
    GatewayNotice,
    GatewayRemark,
    GatewayWarning,
    RateLimited,
    UpstreamBack,
    UpstreamLost,
)
from trio_bridge.gateways.readiness import Reason
from trio_bridge.gateways.socket.codes import Reaction, farm_in, reaction_to
from trio_bridge.gateways.socket.comeback import Comeback
from trio_bridge.logs import Log
from trio_bridge.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_async import Contract

    from trio_bridge.gateways.base import EventSink
    from trio_bridge.gateways.bursts import Bursts
    from trio_bridge.gateways.ongoing import Ongoing, Recurring
    from trio_bridge.gateways.readiness import Readiness, Settling
    from trio_bridge.gateways.socket.codes import Refusal
    from trio_bridge.gateways.socket.market_data.subscriptions import Subscriptions

log = Log()


class Notices:
    """Reacts to the message codes of one connection (see `codes`), at once and without waiting.

    Args:
        lose: ends the connection for the reason given.
        start_over: the gateway has forgotten positions and subscriptions; get them again.
        carry_on: the link is back, and the gateway has forgotten nothing.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        readiness: Readiness,
        settling: Settling,
        *,
        client_id: int,
        emit: EventSink,
        said: Ongoing,
        recurring: Recurring,
        bursts: Bursts,
        lose: Callable[[GatewayError], None],
        start_over: Callable[[], None],
        carry_on: Callable[[], None],
    ) -> None:
        self._subscriptions = subscriptions
        self._readiness = readiness
        self._settling = settling
        self._client_id = client_id
        self._emit = emit
        self._said = said
        self._recurring = recurring
        self._bursts = bursts
        self._lose = lose
        self._start_over = start_over
        self._carry_on = carry_on
        self._self_restoring = False
        self._lost_at: float | None = None
        self._said_back = False
        self.comeback = Comeback()
        self.outages = 0
        """How often the upstream was lost."""

    @property
    def upstream_lost(self) -> bool:
        """Whether the gateway is cut off from Interactive Brokers, so that nothing is current."""
        return self._lost_at is not None

    def on_error(self, request_id: int, code: int, text: str, contract: Contract | None) -> None:
        reaction = reaction_to(code, text)
        self.comeback.heard(code, trio.current_time())
        match reaction:
            case Reaction.IGNORE:
                log.debug("gateway notice", code=code, text=clean(text))
            case Reaction.UPSTREAM_LOST:
                self._upstream_is_lost(code)
            case Reaction.UPSTREAM_BACK | Reaction.UPSTREAM_BACK_EMPTY:
                self._upstream_is_back(code, empty=reaction is Reaction.UPSTREAM_BACK_EMPTY)
            case Reaction.RECONNECT:
                self._lose(GatewayError(f"the gateway asks for a new connection ({code}: {text})"))
            case Reaction.CLIENT_ID_TAKEN:
                self._lose(
                    GatewayError(
                        f"client id {self._client_id} is in use by another program (326)",
                        setting="IB_CLIENT_ID",
                        remedy="end that one, or set IB_CLIENT_ID to a number of this bridge's own",
                    )
                )
            case Reaction.FARM_BROKEN:
                farm = farm_in(text)
                self._subscriptions.farms.broke(farm)
                self._recurring.comes(farm, FarmDown(code, text), partial(FarmBack, farm))
            case Reaction.FARM_WELL:
                if self._self_restoring:
                    # Some gateways report no more than this when the link is back. But positions
                    # come from another machine than the farms; only a new client learns the truth.
                    self._lose(
                        GatewayError(
                            f"a market data farm is back ({code}), and perhaps the gateway's link: "
                            "reconnecting to find out"
                        )
                    )
                farm = farm_in(text)
                self._subscriptions.farms.mended(farm)
                self._recurring.goes(farm)
            case Reaction.DEFINITIONS_WELL:
                self._subscriptions.refusals.ask_unknown_again()
            case Reaction.NOTE:
                self._said.once(code, GatewayNotice(code, text))
            case Reaction.PACE:
                self._emit(RateLimited(code, text))
            case Reaction.SUB_ACCOUNTS:
                self._lose(
                    GatewayError(
                        "the gateway refuses positions to a login with more than 50 sub-accounts "
                        f"({code}: {text})",
                        remedy="log in as one of the accounts, or as a user who sees 50 or fewer",
                    )
                )
            case Reaction.REMARK:
                self._pass_on(GatewayRemark, code, text, contract)
            case (
                Reaction.TOO_MANY_LINES
                | Reaction.UNKNOWN_CONTRACT
                | Reaction.ADVICE
                | Reaction.COMPETING_SESSION
                | Reaction.INVALID_REQUEST
            ):
                self._on_refusal(reaction, request_id, code, text, contract)
            case _:
                assert_never(reaction)

    def _upstream_is_lost(self, code: int) -> None:
        if self._lost_at is None:
            self.outages += 1
            self._lost_at = self._subscriptions.data_stopped()
            self._readiness.block(Reason.UPSTREAM_LOST)
            self._settling.hold(self._lost_at)
            self.comeback.begin(code, self._lost_at)
            self._emit(UpstreamLost(code))
        self._self_restoring = code == 2110

    def _upstream_is_back(self, code: int, *, empty: bool) -> None:
        if self._lost_at is None and self._said_back and not empty:
            log.debug("the link is up, as it was", code=code)
            return
        self._said_back = True
        self.comeback.over()
        self._readiness.clear(Reason.UPSTREAM_LOST)
        self._self_restoring = False
        # Ticks during the outage were computed from what was known before it.
        self._subscriptions.data_stopped(self._lost_at)
        self._subscriptions.refusals.ask_unknown_again()
        self._lost_at = None
        if empty:
            self._subscriptions.all_gone()
            self._start_over()
            self._emit(UpstreamBack(code, forgot=True))
        else:
            self._subscriptions.ask_silent_again()
            self._carry_on()
            self._emit(UpstreamBack(code, forgot=False))

    def _on_refusal(
        self, reaction: Refusal, request_id: int, code: int, text: str, contract: Contract | None
    ) -> None:
        if contract is not None and self._subscriptions.is_ours(contract.conId, request_id):
            self._subscriptions.refused(reaction, contract.conId, code, text)
        elif reaction is Reaction.COMPETING_SESSION and request_id < 0:
            self._subscriptions.all_stopped(code)
        else:
            self._pass_on(GatewayWarning, code, text, contract)

    def _pass_on(
        self, kind: type[GatewayRemark], code: int, text: str, contract: Contract | None
    ) -> None:
        if contract is None or not contract.conId:
            self._said.once(code, kind(code, "", text))
            return
        name = contract.localSymbol or f"contract {contract.conId}"
        self._bursts.add((kind, code), contract.conId, name, partial(kind, code=code, words=text))
