"""Checks what the bridge sends to a TWS in any test: only what an observer may send, not too fast.

There are two checks, at two places:

- `WireWatch` sees every message at the instant at which ib_async passes it to the socket, for all
  bridges in this process. It knows what *may* be sent; anything else is a fault.
- A simulator in another process (`python -m trio_bridge.simulator.tws`, the demo) writes each
  violation to a ledger, a file named by an environment variable. Simulators in this process raise
  `SimulatorViolation` themselves.
"""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import trio
from ib_async.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

ALLOWED = {
    1: "reqMktData",
    2: "cancelMktData",
    9: "reqContractDetails",
    49: "reqCurrentTime",
    59: "reqMarketDataType",
    61: "reqPositions",
    62: "reqAccountSummary",
    63: "cancelAccountSummary",
    71: "startApi",
    74: "reqPositionsMulti",
    75: "cancelPositionsMulti",
    76: "reqAccountUpdatesMulti",
    77: "cancelAccountUpdatesMulti",
}
MOST_A_SECOND = 50
GREETING = b"API\0"


class Message(NamedTuple):
    """One message as passed to the socket; `at` is a time on Trio's clock."""

    connection: int
    at: float
    fields: tuple[str, ...]


class WireWatch:
    """Collects what is sent; `faults` judges it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._count = count()
        self._numbers: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Watch all connections that ib_async makes from now on."""
        send: Callable[[Connection, bytes], None] = Connection.sendMsg

        def record_and_send(connection: Connection, data: bytes) -> None:
            number = self._numbers.setdefault(connection, next(self._count))
            self.sent(number, data)
            send(connection, data)

        monkeypatch.setattr(Connection, "sendMsg", record_and_send)

    def sent(self, connection: int, data: bytes) -> None:
        if not data.startswith(GREETING):
            fields = tuple(data[4:].decode().removesuffix("\0").split("\0"))
            self.messages.append(Message(connection, trio.current_time(), fields))

    def faults(self) -> Iterator[str]:
        """Everything sent that must never be sent."""
        times: dict[int, list[float]] = {}
        for connection, at, fields in self.messages:
            number = int(fields[0])
            if number not in ALLOWED:
                yield f"message {number} must not be sent by an observer: {fields}"
            if number == 71 and int(fields[2]) < 1:
                yield f"client id {fields[2]} is the owner's own"
            recent = times.setdefault(connection, [])
            recent.append(at)
            while recent[0] < at - 1.0:
                del recent[0]
            if len(recent) > MOST_A_SECOND:
                yield f"{len(recent)} messages within a second"
                recent.clear()


def ledger_faults(ledger: Path) -> list[str]:
    """The violations seen by simulators in other processes. Those in this one raise themselves."""
    if not ledger.exists():
        return []
    lines = ledger.read_text().splitlines()
    ledger.unlink()
    return [line for line in lines if not line.startswith(f"{os.getpid()} ")]
