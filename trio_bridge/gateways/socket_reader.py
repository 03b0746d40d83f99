"""Reads a gateway's socket in a Trio task, while asyncio's transport goes on writing to it.

Through trio-asyncio a packet wakes a task that waits for the socket, which wakes the loop's task,
which calls the transport: twice the cost of plain asyncio, for every few ticks. A Trio task reads
for less; and since nothing depends on a tick's arrival to the millisecond, it lets some gather.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from asyncio import Transport
    from collections.abc import Callable

READ_BYTES = 256 * 1024

GATHER_S = 0.1
"""Between two reads: a wake-up costs more than what a packet brings, and the gateway itself lets
ticks gather for longer than this."""


async def read_beside(transport: Transport, take: Callable[[bytes], None]) -> None:
    """Hand what arrives to `take` until the peer has closed; the transport then notices the end.

    When this is cancelled the transport reads no more: close it.

    Raises:
        OSError: the connection broke.
    """
    transport.pause_reading()
    # A file descriptor of our own: the transport may close its one at any time.
    owned = socket.socket(fileno=socket.dup(transport.get_extra_info("socket").fileno()))
    with trio.socket.from_stdlib_socket(owned) as ours:
        while data := await ours.recv(READ_BYTES):
            take(data)
            if len(data) < READ_BYTES:
                await trio.sleep(GATHER_S)
    transport.resume_reading()
