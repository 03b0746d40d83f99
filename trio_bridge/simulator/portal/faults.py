"""Faults to inject into a simulated gateway: error statuses, HTML, hangs, slow bodies."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

import trio
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

if TYPE_CHECKING:
    from collections.abc import Generator

    from starlette.requests import Request

DRIP_S: Final = 0.25
HTML: Final = (
    "<!DOCTYPE html><html><head><title>SimulatedLogin</title></head><body>Please wait</body></html>"
)


class Fault:
    """What happens to matching requests instead of the usual response, until lifted.

    Args:
        path: a part of the path after /v1/api; empty for every request.
        status: respond with this error status.
        html: respond with a web page, and 200 unless there is a status.
        text: respond with this text, and 200 unless there is a status.
        hang: accept the request and never respond.
        drip: respond 200 and send the body byte by byte, without an end.
        late_s: respond as usual, but this many seconds late.
        left_out: let this many matching requests pass first.
    """

    def __init__(
        self,
        path: str,
        *,
        status: int | None = None,
        html: bool = False,
        text: str | None = None,
        hang: bool = False,
        drip: bool = False,
        late_s: float = 0.0,
        left_out: int = 0,
    ) -> None:
        self.hits = 0
        """How many requests it affected."""
        self.late_s = late_s
        self._path = path
        self._status = status
        self._html = html
        self._text = text
        self._hang = hang
        self._drip = drip
        self._left_out = left_out
        self._lifted = trio.Event()

    def strikes(self, path: str) -> bool:
        """Whether this request is affected; counts it."""
        if self._path not in path:
            return False
        if self._left_out > 0:
            self._left_out -= 1
            return False
        self.hits += 1
        return True

    def lift(self) -> None:
        self._lifted.set()

    async def answer(self, request: Request) -> Response:
        """The faulty response."""
        if self._hang:
            await self._lifted.wait()
            return JSONResponse({"error": "too late"}, 503)
        if self._drip:
            return StreamingResponse(_Drip(self._lifted), media_type="application/json")
        if self._html:
            return HTMLResponse(HTML, self._status or 200)
        if self._text is not None:
            return Response(self._text, self._status or 200, media_type="application/json")
        status = self._status or 500
        return JSONResponse({"error": f"simulated {status}", "statusCode": status}, status)


class _Drip:
    """A body byte by byte. Not a generator: a cut-off response would leave that unfinished."""

    def __init__(self, end: trio.Event) -> None:
        self._end = end
        self._pieces = itertools.chain([b"["], itertools.repeat(b" "))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with trio.move_on_after(DRIP_S):
            await self._end.wait()
            raise StopAsyncIteration
        return next(self._pieces)


class Faults:
    """The faults now in force."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    @contextmanager
    def __call__(self, fault: Fault) -> Generator[Fault]:
        """Apply a fault for the length of a `with` block."""
        self._faults.append(fault)
        try:
            yield fault
        finally:
            self._faults.remove(fault)
            fault.lift()

    def find(self, path: str) -> Fault | None:
        return next((fault for fault in self._faults if fault.strikes(path)), None)
