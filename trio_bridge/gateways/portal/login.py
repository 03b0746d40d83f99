"""The brokerage session behind the gateway: watched, kept alive, opened without competing.

A person logs in with a browser; the API cannot. The owner's own session always comes first: we
never compete, never log out, and wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn, assert_never

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
from trio_bridge.gateways.portal.values import ShapeError
from trio_bridge.gateways.portal.wire.pacing import OPEN_SESSION, STATUS, TICKLE

if TYPE_CHECKING:
    from trio_bridge.events.event import Event
    from trio_bridge.gateways.portal.wire.client import Answer, PortalClient, Shared

STATUS_GAP_S: Final = 1.0
"""At least this long between two checks of the status."""

OPENING_CHECKS: Final = 3
"""How often the status is checked after the brokerage session was opened."""


def read_status(payload: object) -> SessionState:
    """The state in `/iserver/auth/status` or in a tickle's `authStatus`."""
    if not isinstance(payload, dict) or not isinstance(payload.get("authenticated"), bool):
        return SessionState.UNKNOWN
    if payload.get("competing") is True:
        return SessionState.COMPETING
    if not payload["authenticated"] or payload.get("established") is False:
        return SessionState.NO_BROKERAGE
    if payload.get("connected") is False:
        return SessionState.UPSTREAM_LOST
    return SessionState.HEALTHY


def read_tickle(payload: object) -> SessionState:
    """The state in `/tickle`."""
    part = payload.get("iserver") if isinstance(payload, dict) else None
    return read_status(part.get("authStatus") if isinstance(part, dict) else None)


class Login:
    """Looks after one connection's brokerage session and notes its state in the client's
    `Health`."""

    def __init__(self, client: PortalClient, shared: Shared) -> None:
        self.token = ""
        """What the WebSocket asks for: the `session` of a tickle."""
        self._client = client
        self._health = client.health
        self._troubles = shared.troubles
        self._login_url = shared.settings.ibkr_gateway_url
        self._timing = shared.timing
        self._tickled = SessionState.UNKNOWN
        """What the last tickle said, until the status is known again."""
        self._checking = trio.Lock()

    async def check(self) -> SessionState:
        """Check the status; open the brokerage session when it is missing.

        Raises:
            GatewayError: the gateway gave no usable answer; the state stays as it was.
        """
        async with self._checking:
            state, authenticated = await self._status()
            reason = ""
            if state in (SessionState.NO_BROKERAGE, SessionState.COMPETING) and not authenticated:
                # Rows stop at once; the event waits: the session may be open in a moment.
                self._health.note_session(state)
                # Without `compete` this takes nothing from the owner: it is refused or has no
                # effect while the owner's session lasts.
                found, (state, reason) = state, await self._open(state)
                if found is SessionState.COMPETING and state is SessionState.NO_BROKERAGE:
                    # The owner has just left: now it can be opened.
                    state, reason = await self._open(state)
            self._tickled = SessionState.UNKNOWN
            self._set(state, reason)
            return state

    async def is_well(self) -> bool:
        """Check now; where the status is of no use, a tickle will do."""
        try:
            return await self.check() is SessionState.HEALTHY
        except AnswerError:
            await self.tickle()
            return self._tickled is SessionState.HEALTHY

    async def tickle(self) -> None:
        """Keep the session alive, and notice its state.

        Raises:
            NoAnswerError: none came.
            AnswerError: the answer is unusable; the gateway is there.
        """
        try:
            answer: Answer[object] = await self._client.ask(TICKLE)
        except LoggedOutError:
            self._tickle_said(SessionState.LOGGED_OUT)
            raise
        payload = answer.value
        if isinstance(payload, dict) and isinstance(payload.get("session"), str):
            self.token = payload["session"]
        state = read_tickle(payload)
        self._health.note_word(state, answer.asked_at)
        self._tickle_said(state)

    def take_hint(self, status: object) -> None:
        """The stream has sent a status: check soon if it is not well."""
        if read_status(status) not in (SessionState.UNKNOWN, SessionState.HEALTHY):
            self._health.doubt_session()

    async def keep_alive(self) -> NoReturn:
        """Tickle once a minute, whatever fails."""
        while True:
            try:
                await self.tickle()
            except GatewayError:
                await trio.sleep(self._timing.tickle_retry_s)
            else:
                await trio.sleep(self._timing.tickle_s)

    async def watch(self) -> NoReturn:
        """Check the status again and again: often while all is well, less often while it is not."""
        timing = self._timing
        while True:
            with trio.move_on_after(
                timing.status_s if self._health.is_well else timing.login_retry_s
            ):
                await self._health.wait_doubted()
            try:
                await self.check()
            except GatewayError:  # reported by `Health`
                if self._tickled not in (SessionState.UNKNOWN, self._health.session):
                    self._set(self._tickled, "")
            await trio.sleep(STATUS_GAP_S)

    def _tickle_said(self, state: SessionState) -> None:
        self._tickled = state
        if state not in (SessionState.UNKNOWN, self._health.session):
            self._health.doubt_session()

    async def _status(self) -> tuple[SessionState, bool]:
        """The state, and whether the gateway calls itself authenticated."""
        try:
            answer = await self._client.ask(STATUS, read=_read_known)
        except LoggedOutError:
            return SessionState.LOGGED_OUT, False
        state, authenticated = answer.value
        self._health.note_word(state, answer.asked_at)
        return state, authenticated

    async def _open(self, state: SessionState) -> tuple[SessionState, str]:
        """Open the brokerage session; the state afterwards, and why it is not well."""
        try:
            answer: Answer[object] = await self._client.ask(OPEN_SESSION, slow=True)
        except LoggedOutError:
            return SessionState.LOGGED_OUT, ""
        except GatewayError as error:
            return state, str(error)
        for _ in range(OPENING_CHECKS):
            state, _authenticated = await self._status()
            if state is not SessionState.NO_BROKERAGE:
                break
            await trio.sleep(STATUS_GAP_S)
        return state, _complaint(answer.value)

    def _set(self, state: SessionState, reason: str) -> None:
        trouble: Event | None = None
        match state:
            case SessionState.HEALTHY:
                self._troubles.end("session", LoginBack)
            case SessionState.LOGGED_OUT:
                trouble = LoggedOut(reason, self._login_url)
            case SessionState.NO_BROKERAGE:
                trouble = NoBrokerageSession(reason, self._login_url, self._timing.login_retry_s)
            case SessionState.COMPETING:
                trouble = CompetingLogin(reason)
            case SessionState.UPSTREAM_LOST:
                trouble = LoginCutOff(reason)
            case SessionState.UNKNOWN:
                pass  # before the first status only
            case _:
                assert_never(state)
        if trouble is not None:
            self._troubles.begin("session", trouble)
        self._health.note_session(state)


def _read_known(payload: object) -> tuple[SessionState, bool]:
    """The state, and whether the gateway calls itself authenticated."""
    state = read_status(payload)
    if state is SessionState.UNKNOWN or not isinstance(payload, dict):
        raise ShapeError("the answer names no session state")
    return state, payload["authenticated"]


def _complaint(payload: object) -> str:
    """The error in the answer to an opening; empty if there is none."""
    if not isinstance(payload, dict):
        return ""
    return next((str(payload[key]) for key in ("error", "fail", "message") if payload.get(key)), "")
