"""A real HTTP server that accepts webhooks, responds as configured, and records what it gets."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import h11
import trio

from tests.support.process import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Receiver:
    """`answers` are the next statuses (then 200); while `silent` no request is answered at all."""

    port: int = 0
    posts: list[dict[str, Any]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    silent: bool = False

    def url(self, path: str = "/services/the-secret") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def text(self) -> str:
        """Everything posted so far, and the kinds of the events."""
        return "\n".join(
            "\n".join((str(post.get("content")), *(one["kind"] for one in post.get("events", ()))))
            for post in self.posts
        )

    async def wait_for(self, text: str) -> None:
        """Wait until the text is posted; the time limit is in real time, not on Trio's clock."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.text:
            assert time.monotonic() < deadline, f"no {text!r} in {self.posts}"
            await trio.sleep(0.02)

    async def serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        body = b""
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:  # not HTTP, or the client left midway
                return
            if event is h11.NEED_DATA:
                try:
                    connection.receive_data(await stream.receive_some())
                except trio.BrokenResourceError:
                    return
            elif isinstance(event, h11.Request):
                self.targets.append(event.target.decode())
                sent = dict(event.headers)
                self.authorizations.append(sent.get(b"authorization", b"").decode() or None)
                body = b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                await self._answer(connection, stream, body)
                if connection.our_state is h11.MUST_CLOSE:
                    return
                connection.start_next_cycle()
            else:
                return

    async def _answer(
        self, connection: h11.Connection, stream: trio.SocketStream, body: bytes
    ) -> None:
        if self.silent:
            await trio.sleep_forever()
        status = self.answers.pop(0) if self.answers else 200
        if status == 200 and body:
            self.posts.append(json.loads(body))
        headers = [*self.headers, ("Content-Length", str(len(self.body)))]
        events = (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=self.body),
            h11.EndOfMessage(),
        )
        await stream.send_all(b"".join(connection.send(event) or b"" for event in events))


@asynccontextmanager
async def open_receiver() -> AsyncIterator[Receiver]:
    """A receiver on a free port of this machine."""
    receiver = Receiver()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_tcp, receiver.serve, 0, host="127.0.0.1")
        )
        receiver.port = listeners[0].socket.getsockname()[1]
        yield receiver
        nursery.cancel_scope.cancel()
