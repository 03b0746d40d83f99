"""A gateway that plays one recorded stream of market data to its client. Plain sockets.

It answers what a client needs to start and accepts the subscriptions of all options in the book.
After one round to warm up and a pause it plays the given number of rounds, each with what the
simulated gateway sends per option: three prices, three sizes and four computations, the model's
last. Then it closes the connection.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import NamedTuple, Self

from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws import wire
from trio_bridge.simulator.tws.ticks import TickFeed

VERSION = 178
QUIET_S = 2.0
"""Between the first round and the others: the client starts its stopwatch in this pause."""
PIECE = 64 * 1024
"""Bytes sent at a time in a flood."""
MESSAGES_AN_UPDATE = 10
REQUEST_POSITIONS, REQUEST_MARKET_DATA, REQUEST_TIME = "61", "1", "49"
REQUEST_ACCOUNT_VALUES = "62"


class Recording(NamedTuple):
    """How many options tick, how many rounds, and how fast: messages per second, 0 for a flood."""

    options: int
    rounds: int
    rate: int

    @property
    def messages(self) -> int:
        return self.options * self.rounds * MESSAGES_AN_UPDATE


class Player:
    """Serves one client, in a thread of this process."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        book = make_book(options=self.recording.options)
        client, _ = self._listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client:
            requests = self._answer(client, wire.ClientStream(), book)
            book.freeze(at=1.0)
            feed = TickFeed(book)
            updates = [
                b"".join(tick.to(request) for tick in feed.update(con_id, 1))
                for request, con_id in requests.items()
            ]
            client.sendall(b"".join(updates))
            time.sleep(QUIET_S)
            self._play(client, updates)
            client.shutdown(socket.SHUT_WR)
            while client.recv(PIECE):
                pass

    def _answer(
        self, client: socket.socket, stream: wire.ClientStream, book: object
    ) -> dict[int, int]:
        """Answer the client until every option is subscribed; return contract ids by request."""
        requests: dict[int, int] = {}
        while len(requests) < self.recording.options:
            for fields in stream.feed(client.recv(PIECE)):
                client.sendall(self._answer_to(fields, requests, book))
        return requests

    def _answer_to(self, fields: list[str], requests: dict[int, int], book: object) -> bytes:
        kind = fields[0]
        if kind.startswith("v1"):
            return wire.handshake(VERSION, "20260102 09:30:00 EST")
        if kind == "71":
            return wire.managed_accounts(book.accounts) + wire.next_valid_id(1)  # type: ignore[attr-defined]
        if kind == REQUEST_POSITIONS:
            held = b"".join(map(wire.position, book.positions()))  # type: ignore[attr-defined]
            return held + wire.position_end()
        if kind == REQUEST_TIME:
            return wire.current_time(int(time.time()))
        if kind == REQUEST_ACCOUNT_VALUES:
            number = int(fields[2])
            told = (
                wire.account_summary(number, account, key, "100000", "USD")
                for account in book.accounts  # type: ignore[attr-defined]
                for key in ("NetLiquidation", "GrossPositionValue")
            )
            return b"".join(told) + wire.account_summary_end(number)
        if kind == REQUEST_MARKET_DATA:
            requests[int(fields[2])] = int(fields[3])
            return wire.market_data_type(int(fields[2]), 1)
        return b""

    def _play(self, client: socket.socket, updates: list[bytes]) -> None:
        if not self.recording.rate:
            everything = b"".join(updates)
            for _ in range(self.recording.rounds):
                for start in range(0, len(everything), PIECE):
                    client.sendall(everything[start : start + PIECE])
            return
        # One packet per option's update, as a gateway sends them.
        gap = MESSAGES_AN_UPDATE / self.recording.rate
        due = time.perf_counter()
        for _ in range(self.recording.rounds):
            for update in updates:
                due += gap
                wait = due - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                client.sendall(update)
