"""Drops unused market data before ib_async decodes it. Pure.

A row needs only the model computation of an option, but with it come prices, sizes and the
computations for bid, ask and last: nine messages of ten. Decoding one takes ib_async many times as
long as dropping it here; and it cuts the stream into messages by copying the rest of what has
arrived after each of them, so the cost of a burst grows with its square.

A message is a 4-byte big-endian length and fields, each ended by NUL; the first is its kind.
Message and tick types: https://interactivebrokers.github.io/tws-api/tick_types.html and the
decoders of the official client.
"""

from __future__ import annotations

import struct
from typing import Final

UNREAD: Final = frozenset({b"1", b"2", b"45", b"46", b"81"})
"""Price, size, generic and text ticks, and the parameters sent when a subscription opens."""

COMPUTATION: Final = b"21"
DELAYED_MODEL_TICK: Final = "83"
MODEL_TICKS: Final = frozenset({b"13", DELAYED_MODEL_TICK.encode()})
"""The model's computation, live or frozen, and delayed."""

LARGEST_MESSAGE: Final = 0xFFFFFF
"""The official client's limit; a longer one means that the stream is out of step."""

_LENGTH: Final = struct.Struct(">I")


class TickFilter:
    """Filters the bytes of one connection as they arrive."""

    def __init__(self) -> None:
        self._rest = b""
        self.dropped = 0
        """How many messages were dropped."""

    def feed(self, data: bytes) -> bytes:
        """Return the complete messages that have arrived, without the unused ones.

        Raises:
            ValueError: this is not a stream of messages.
        """
        if self._rest:
            data = self._rest + data
        kept = []
        start, size = 0, len(data)
        while start + _LENGTH.size <= size:
            body = start + _LENGTH.size
            (length,) = _LENGTH.unpack_from(data, start)
            if length > LARGEST_MESSAGE:
                raise ValueError(f"a message of {length} bytes")
            end = body + length
            if end > size:
                break
            if _is_unread(data, body, end):
                self.dropped += 1
            else:
                kept.append(data[start:end])
            start = end
        self._rest = data[start:]
        return b"".join(kept)


def _is_unread(data: bytes, start: int, end: int) -> bool:
    kind_end = data.find(b"\0", start, end)
    kind = data[start:kind_end] if kind_end >= 0 else b""
    if kind != COMPUTATION:
        return kind in UNREAD
    # Kind, request, tick type; a message without one of them is passed on.
    type_start = data.find(b"\0", kind_end + 1, end) + 1
    type_end = data.find(b"\0", type_start, end)
    return type_start > 0 and type_end >= 0 and data[type_start:type_end] not in MODEL_TICKS
