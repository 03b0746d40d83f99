"""The brokerage session behind the gateway: watched, kept alive, opened without competing.

A person logs in with a browser; the API cannot. The owner's own session always comes first: we
never compete, never log out, and wait in patience.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.events.portal import (
    CompetingLogin,
    LoggedOut,
    LoginBack,
    LoginCutOff,
    NoBrokerageSession,
)
from trio_bridge.gateways.portal.health import AnswerError, LoggedOutError, SessionState
from trio_bridge.gateways.portal.pacing import OPEN_SESSION, STATUS, TICKLE
from trio_bridge.gateways.portal.values import ShapeError

if TYPE_CHECKING:
    from trio_bridge.events.event import Event
    from trio_bridge.gateways.portal.client import Answer, PortalClient, Shared

STATUS_GAP_S: Final = 1.0
"""Between two looks at the status, however often one is asked for."""

OPENING_LOOKS: Final = 3
"""How often the status is looked at after the brokerage session was opened."""


def read_status(payload: object) -> SessionState:
    """The state told by `/iserver/auth/status` or by a tickle's `authStatus`."""
    if not isinstance(payload, dict) or not isinstance(payload.get("authenticated"), bool):
        return SessionState.UNKNOWN
    if payload.get("competing") is True:
        return SessionState.COMPETING
    if not payload["authenticated"]:
        return SessionState.NO_BROKERAGE
    if payload.get("connected") is False:
        return SessionState.UPSTREAM_LOST
    return SessionState.HEALTHY


def read_tickle(payload: object) -> SessionState:
    """The state told by `/tickle`."""
    part = payload.get("iserver") if isinstance(payload, dict) else None
    return read_status(part.get("authStatus") if isinstance(part, dict) else None)


class Login:
    """Looks after one connection's brokerage session; what it finds is noted in the client's
    `Health`."""

    def __init__(self, client: PortalClient, shared: Shared) -> None:
        self.token = ""
        """What the WebSocket wants to see: the `session` of a tickle."""
        self._client = client
        self._health = client.health
        self._troubles = shared.troubles
        self._login_url = shared.settings.ibkr_gateway_url
        self._timing = shared.timing
        self._tickled = SessionState.UNKNOWN
        """What the last tickle told, until the status is known again."""
        self._looking = trio.Lock()

    async def check(self) -> SessionState:
        """Look at the status; open the brokerage session when it is missing.

        Raises:
            GatewayError: the gateway gave no usable answer; the state stays as it was.
        """
        async with self._looking:
            state, authenticated = await self._status()
            reason = ""
            if state in (SessionState.NO_BROKERAGE, SessionState.COMPETING) and not authenticated:
                # Before it is told: the new one may be there at once, or not for long.
                self._health.note_session(state)
                # Without competing this takes nothing from the owner, and it is refused or
                # without effect as long as the owner's session lasts.
                found, (state, reason) = state, await self._open(state)
                if found is SessionState.COMPETING and state is SessionState.NO_BROKERAGE:
                    # The owner left meanwhile: the way is free now.
                    state, reason = await self._open(state)
            self._tickled = SessionState.UNKNOWN
            self._set(state, reason)
            return state

    async def is_well(self) -> bool:
        """Look now, as `check`; where the status has no use, a tickle tells it, too."""
        try:
            return await self.check() is SessionState.HEALTHY
        except AnswerError:
            await self.tickle()
            return self._tickled is SessionState.HEALTHY

    async def tickle(self) -> None:
        """Keep the session alive, and notice its state.

        Raises:
            NoAnswerError: none came.
            AnswerError: an answer of no use; the gateway lives.
        """
        try:
            told: Answer[Any] = await self._client.ask(TICKLE)
        except LoggedOutError:
            self._told_by_tickle(SessionState.LOGGED_OUT)
            raise
        answer: Any = told.value
        if isinstance(answer, dict) and isinstance(answer.get("session"), str):
            self.token = answer["session"]
        state = read_tickle(answer)
        self._health.note_word(state, told.asked_at)
        self._told_by_tickle(state)

    def take_hint(self, status: object) -> None:
        """The stream has told a status: look soon if it is not well."""
        if read_status(status) not in (SessionState.UNKNOWN, SessionState.HEALTHY):
            self._health.doubt_session()

    async def keep_alive(self) -> NoReturn:
        """Tickle once a minute for ever; no failure ends it."""
        while True:
            try:
                await self.tickle()
            except GatewayError:
                await trio.sleep(self._timing.tickle_retry_s)
            else:
                await trio.sleep(self._timing.tickle_s)

    async def watch(self) -> NoReturn:
        """Look at the status for ever: often while all is well, patiently while it is not."""
        while True:
            timing = self._timing
            with trio.move_on_after(
                timing.status_s if self._health.is_well else timing.login_retry_s
            ):
                await self._health.wait_doubted()
            try:
                await self.check()
            except GatewayError:  # told by the client's own bookkeeping
                if self._tickled not in (SessionState.UNKNOWN, self._health.session):
                    self._set(self._tickled, "")
            await trio.sleep(STATUS_GAP_S)

    def _told_by_tickle(self, state: SessionState) -> None:
        self._tickled = state
        if state not in (SessionState.UNKNOWN, self._health.session):
            self._health.doubt_session()

    async def _status(self) -> tuple[SessionState, bool]:
        """The state, and whether the gateway calls itself authenticated."""
        try:
            answer: Answer[Any] = await self._client.ask(STATUS, read=_known_status)
        except LoggedOutError:
            return SessionState.LOGGED_OUT, False
        state = read_status(answer.value)
        self._health.note_word(state, answer.asked_at)
        return state, answer.value["authenticated"]

    async def _open(self, state: SessionState) -> tuple[SessionState, str]:
        """Open the brokerage session; the state afterwards, and why it is not well."""
        try:
            answer: Answer[Any] = await self._client.ask(OPEN_SESSION, slow=True)
        except LoggedOutError:
            return SessionState.LOGGED_OUT, ""
        except GatewayError as error:
            return state, str(error)
        for _ in range(OPENING_LOOKS):
            state, _authenticated = await self._status()
            if state is not SessionState.NO_BROKERAGE:
                break
            await trio.sleep(STATUS_GAP_S)
        return state, _complaint(answer.value)

    def _set(self, state: SessionState, reason: str) -> None:
        if state is SessionState.HEALTHY:
            self._troubles.end("session", LoginBack)
        else:
            self._troubles.begin("session", self._trouble(state, reason))
        self._health.note_session(state)

    def _trouble(self, state: SessionState, reason: str) -> Event:
        match state:
            case SessionState.LOGGED_OUT:
                return LoggedOut(reason, self._login_url)
            case SessionState.NO_BROKERAGE:
                return NoBrokerageSession(reason, self._login_url, self._timing.login_retry_s)
            case SessionState.COMPETING:
                return CompetingLogin(reason)
            case _:
                return LoginCutOff(reason)


def _known_status(payload: Any) -> Any:
    if read_status(payload) is SessionState.UNKNOWN:
        raise ShapeError("the answer names no session state")
    return payload


def _complaint(payload: object) -> str:
    """What the answer to an opening says against it, if anything."""
    if not isinstance(payload, dict):
        return ""
    return next((str(payload[key]) for key in ("error", "fail", "message") if payload.get(key)), "")
