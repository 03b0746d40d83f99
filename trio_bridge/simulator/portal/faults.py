"""Troubles that a simulated gateway can be given: error statuses, HTML, hangs, slow bodies."""

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
    """What happens to matching requests instead of their answer, until it is lifted.

    Args:
        path: a part of the path, behind /v1/api; empty for every request.
        status: answer with this error status.
        html: answer with a web page, and 200 unless there is a status.
        text: answer with this text, and 200 unless there is a status.
        hang: take the request and answer nothing.
        drip: answer 200 and send the body byte by byte, without an end.
        late_s: answer as usual, but so many seconds later.
        left_out: let so many matching requests pass first.
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
        """How many requests it struck."""
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
        """Whether this request is struck; counts it."""
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
        """The answer that is none."""
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
    """A body byte by byte. No generator: a response that is cut off would leave it unfinished."""

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
    """The faults that are there now."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    @contextmanager
    def __call__(self, fault: Fault) -> Generator[Fault]:
        """Have a fault for the length of a `with` block."""
        self._faults.append(fault)
        try:
            yield fault
        finally:
            self._faults.remove(fault)
            fault.lift()

    def find(self, path: str) -> Fault | None:
        return next((fault for fault in self._faults if fault.strikes(path)), None)
