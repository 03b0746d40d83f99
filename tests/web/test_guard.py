"""What stands before the application, and what it has to say to the owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from pydantic import SecretStr
from structlog.testing import capture_logs

from trio_bridge.web.access import Access
from trio_bridge.web.guard import COMPLAIN_EVERY_S, LARGEST_BODY, Guard, refusal

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send
    from trio.testing import MockClock

TOKEN = "correct-horse-battery"


class Room:
    """Takes what it gets as the body."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.bodies.append((await receive())["body"])
        await refusal(200, "welcome")(scope, receive, send)


def guard(room: Room) -> Guard:
    return Guard(room, Access(SecretStr(TOKEN), 8650), turn_away=refusal(401, "the token"))


async def knock(
    door: Guard, *, authorization: str | None = None, path: str = "/api/status", body: bytes = b""
) -> list[Message]:
    """One request; what is sent as the answer."""
    headers = [(b"host", b"localhost")]
    if authorization is not None:
        headers.append((b"authorization", authorization.encode()))
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": headers}
    pieces = [body[at : at + 1_000] for at in range(0, max(1, len(body)), 1_000)]
    sent: list[Message] = []

    async def receive() -> Message:
        if not pieces:
            await trio.sleep_forever()
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        sent.append(message)

    await door(scope, receive, send)
    return sent


async def test_a_wrong_token_is_told_to_the_owner_once_a_minute(mock_clock: MockClock) -> None:
    door = guard(Room())
    with capture_logs() as logs:
        for _ in range(3):
            answer = await knock(door, authorization="Bearer guess")
            assert answer[0]["status"] == 401
        assert [one["log_level"] for one in logs] == ["warning"]
        mock_clock.jump(COMPLAIN_EVERY_S)
        await knock(door, authorization="Bearer guess")
    assert len(logs) == 2
    assert "guess" not in str(logs)


async def test_somebody_without_a_token_is_no_news(mock_clock: MockClock) -> None:
    """A browser that opens the page for the first time, or whose cookie is too old."""
    room = Room()
    with capture_logs() as logs:
        assert (await knock(guard(room)))[0]["status"] == 401
    assert logs == []
    assert room.bodies == []


async def test_what_tells_nothing_needs_no_token() -> None:
    door = guard(Room())
    for path, status in (("/healthz", 200), ("/login", 200), ("/static/page.css", 200)):
        assert (await knock(door, path=path))[0]["status"] == status
    assert (await knock(door, path="/"))[0]["status"] == 401


async def test_a_body_is_kept_until_it_is_known_to_be_too_large_and_no_further() -> None:
    room = Room()
    for size in (LARGEST_BODY, LARGEST_BODY + 1, 40 * LARGEST_BODY):
        await knock(guard(room), path="/login", body=b"x" * size)
    assert [len(body) for body in room.bodies] == [LARGEST_BODY, LARGEST_BODY + 1, LARGEST_BODY + 1]


async def test_websockets_are_refused() -> None:
    """1008, "policy violation": https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1"""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    room = Room()
    await guard(room)({"type": "websocket", "path": "/events", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert room.bodies == []
