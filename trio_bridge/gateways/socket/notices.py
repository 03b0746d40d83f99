"""What the gateway says, message by message, turned into what is done about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import structlog

from trio_bridge.gateways.readiness import Reason
from trio_bridge.gateways.socket.codes import Reaction, reaction_to
from trio_bridge.gateways.socket.subscriptions import ASK_BROKEN_FARM_S
from trio_bridge.model import Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_async import Contract

    from trio_bridge.gateways.base import EventSink
    from trio_bridge.gateways.readiness import Readiness, Settling
    from trio_bridge.gateways.socket.codes import Refusal
    from trio_bridge.gateways.socket.subscriptions import Subscriptions

log = structlog.get_logger()


class OnlyOnce:
    """An event sink that says a thing once, told apart by its key."""

    def __init__(self, emit: EventSink) -> None:
        self._emit = emit
        self._said: set[object] = set()

    def __call__(self, key: object, message: str, status: Severity = Severity.INFO) -> None:
        if key not in self._said:
            self._said.add(key)
            self._emit(message, status)


class Notices:
    """Reacts to the message codes of one connection (`socket_codes`), at once and without waiting.

    Args:
        lose: ends the connection for the reason given.
        start_over: positions and subscriptions are gone on the other side; get them again.
        carry_on: the link is back, and the gateway has kept what it knew.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        readiness: Readiness,
        settling: Settling,
        *,
        client_id: int,
        emit: EventSink,
        say_once: OnlyOnce,
        lose: Callable[[str], None],
        start_over: Callable[[], None],
        carry_on: Callable[[], None],
    ) -> None:
        self._subscriptions = subscriptions
        self._readiness = readiness
        self._settling = settling
        self._client_id = client_id
        self._emit = emit
        self._say_once = say_once
        self._lose = lose
        self._start_over = start_over
        self._carry_on = carry_on
        self._self_restoring = False
        self._lost_at: float | None = None
        self.outages = 0
        """How often the upstream was lost."""

    @property
    def upstream_lost(self) -> bool:
        """Whether the gateway is cut off from Interactive Brokers: nothing it holds is current."""
        return self._lost_at is not None

    def on_error(self, request_id: int, code: int, text: str, contract: Contract | None) -> None:
        reaction = reaction_to(code, text)
        match reaction:
            case Reaction.IGNORE:
                log.debug("gateway notice", code=code, text=text)
            case Reaction.UPSTREAM_LOST:
                self._upstream_is_lost(code)
            case Reaction.UPSTREAM_BACK | Reaction.UPSTREAM_BACK_EMPTY:
                self._upstream_is_back(code, empty=reaction is Reaction.UPSTREAM_BACK_EMPTY)
            case Reaction.RECONNECT:
                self._lose(f"the gateway asks for a new connection ({code}: {text})")
            case Reaction.CLIENT_ID_TAKEN:
                self._lose(
                    f"client id {self._client_id} is in use by another program (326): end that "
                    "one, or set IB_CLIENT_ID to a number of this bridge's own"
                )
            case Reaction.FARM_BROKEN:
                self._subscriptions.data_stopped()
                self._subscriptions.ask_silent_again(ASK_BROKEN_FARM_S)
                self._emit(f"a market data farm is away ({code}: {text})", Severity.WARNING)
            case Reaction.FARM_WELL:
                if self._self_restoring:
                    # Some gateways say no more than this of a link that is back. But farms are
                    # other machines than the one that knows of positions; a new client is told.
                    self._lose(
                        f"a market data farm is back ({code}), and perhaps the gateway's link: "
                        "connecting anew to know"
                    )
                self._subscriptions.ask_silent_again()
            case Reaction.DEFINITIONS_WELL:
                self._subscriptions.ask_unknown_again()
            case Reaction.NOTE:
                self._say_once(code, f"gateway notice ({code}: {text})", Severity.WARNING)
            case Reaction.PACE:
                self._emit(f"the gateway found us too fast ({code}: {text})", Severity.WARNING)
            case Reaction.SUB_ACCOUNTS:
                self._lose(
                    "the gateway refuses positions to a login with more than 50 sub-accounts "
                    f"({code}: {text}); log in as one of the accounts, or as a user who sees 50 or "
                    "fewer"
                )
            case Reaction.DATA_GOES_ON:
                self._say_once(code, f"{_name(contract)}: {text} ({code})")
            case Reaction.REMARK:
                self._pass_on(code, text, contract, Severity.INFO)
            case (
                Reaction.TOO_MANY_LINES
                | Reaction.UNKNOWN_CONTRACT
                | Reaction.NOT_SUBSCRIBED
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
            self._emit(
                f"the gateway lost its link to Interactive Brokers ({code}): no rows until it is "
                "back",
                Severity.WARNING,
            )
        self._self_restoring = code == 2110

    def _upstream_is_back(self, code: int, *, empty: bool) -> None:
        self._readiness.clear(Reason.UPSTREAM_LOST)
        self._self_restoring = False
        # What has ticked meanwhile was computed without a link, from what was known before.
        self._subscriptions.data_stopped(self._lost_at)
        self._subscriptions.ask_unknown_again()
        self._lost_at = None
        if empty:
            self._subscriptions.all_gone()
            self._start_over()
            self._emit(f"the gateway's link is back ({code}): subscribing everything again")
        else:
            self._subscriptions.ask_silent_again()
            self._carry_on()
            self._emit(f"the gateway's link is back ({code}): carrying on")

    def _on_refusal(
        self, reaction: Refusal, request_id: int, code: int, text: str, contract: Contract | None
    ) -> None:
        if contract is not None and self._subscriptions.is_ours(contract.conId, request_id):
            self._subscriptions.refused(reaction, contract, code, text)
        elif reaction is Reaction.COMPETING_SESSION and request_id < 0:
            self._subscriptions.owner_is_elsewhere(_con_id(contract), code)
        else:
            self._pass_on(code, text, contract, Severity.WARNING)

    def _pass_on(self, code: int, text: str, contract: Contract | None, status: Severity) -> None:
        con_id = _con_id(contract)
        where = f" for {_name(contract)}" if con_id else ""
        self._say_once((code, con_id), f"the gateway says{where}: {text} ({code})", status)


def _con_id(contract: Contract | None) -> int:
    return 0 if contract is None else contract.conId


def _name(contract: Contract | None) -> str:
    told = "" if contract is None else contract.localSymbol
    return told or f"contract {_con_id(contract)}"
