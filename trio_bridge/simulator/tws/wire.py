"""The TWS API's wire format as the gateway speaks it: framing, and every message we send. Pure.

A message is a 4-byte big-endian length and fields, each ended by NUL; the client's first bytes are
`API\\0`. A message's fields depend on the version that both sides agreed on. Layouts
follow the decoders of the official client (9.81.1, version 157) and of ib_async (up to 178).
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from trio_bridge.simulator.book import Holding
    from trio_bridge.simulator.contracts import Contract
    from trio_bridge.simulator.pricing import OptionValue

GREETING: Final = b"API\0"
LENGTH: Final = struct.Struct(">I")
LARGEST_FRAME: Final = 0xFFFFFF
DBL_MAX: Final = 1.7976931348623157e308
"""What the gateway sends for "unset" in a floating-point field."""

# The versions that introduced each field layout.
SIZE_MIN_TICK: Final = 163
SIZE_RULES: Final = 164
ADVANCED_ORDER_REJECT: Final = 166

Field: TypeAlias = str | int | float


class WireError(Exception):
    """The peer does not speak this protocol."""


class ClientStream:
    """Splits a client's bytes into messages; keeps an incomplete one for later."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._greeted = False

    def feed(self, data: bytes) -> list[list[str]]:
        """Add received bytes; return the complete messages, the handshake's version string first.

        Raises:
            WireError: these bytes are not from a TWS client.
        """
        self._buffer += data
        if not self._greeted:
            if not GREETING.startswith(self._buffer[: len(GREETING)]):
                raise WireError("the first bytes are not the API's")
            if len(self._buffer) < len(GREETING):
                return []
            del self._buffer[: len(GREETING)]
            self._greeted = True
        messages = []
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            if length > LARGEST_FRAME:
                raise WireError(f"a message of {length} bytes")
            end = LENGTH.size + length
            if len(self._buffer) < end:
                break
            text = self._buffer[LENGTH.size : end].decode(errors="backslashreplace")
            del self._buffer[:end]
            messages.append(text.removesuffix("\0").split("\0"))
        return messages


def agree_version(offer: str, ours: int) -> int:
    """The version to use with a client that offers `v100..157`, possibly followed by options.

    A server that is older than anything the client speaks answers with its own version all the
    same: it is for the client to leave.

    Raises:
        WireError: the offer is not a version.
    """
    span = offer.split(" ")[0].removeprefix("v")
    lowest, _, highest = span.partition("..")
    try:
        low, high = int(lowest), int(highest or lowest)
    except ValueError:
        raise WireError(f"not a version: {offer!r}") from None
    return min(max(low, high), ours)


def text(value: Field) -> str:
    """One field as the gateway (a Java program) prints it."""
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return repr(value).replace("e+", "E").replace("e", "E")
    return str(value)


def message(*fields: Field) -> bytes:
    """A complete message."""
    return framed("".join(text(field) + "\0" for field in fields).encode())


def framed(body: bytes) -> bytes:
    """A message body with its length."""
    return LENGTH.pack(len(body)) + body


# The gateway itself --------------------------------------------------------------------------


def handshake(version: int, at: str) -> bytes:
    """The response to the client's version: ours, and the time of the connection."""
    return message(version, at)


def managed_accounts(accounts: tuple[str, ...]) -> bytes:
    """The account ids; a list of several ends with a comma, as on the real gateway."""
    return message(15, 1, ",".join(accounts) + ("," if len(accounts) > 1 else ""))


def next_valid_id(order_id: int) -> bytes:
    """The next valid order id, which most clients treat as the end of start-up."""
    return message(9, 1, order_id)


def current_time(epoch_s: int) -> bytes:
    """The gateway's clock."""
    return message(49, 1, epoch_s)


def error(version: int, req_id: int, code: int, words: str) -> bytes:
    """An error or a notice; `req_id` is -1 if it does not answer a request."""
    extra = ("",) if version >= ADVANCED_ORDER_REJECT else ()
    return message(4, 2, req_id, code, words, *extra)


# Positions and accounts ----------------------------------------------------------------------


def _terms(contract: Contract) -> tuple[Field, ...]:
    """The fields that open every description of a contract."""
    return (
        contract.con_id,
        contract.symbol,
        contract.sec_type,
        contract.expiry,
        contract.strike,
        contract.right,
        multiplier(contract),
    )


def multiplier(contract: Contract) -> str:
    """Empty where there is none."""
    return "" if contract.multiplier is None else f"{contract.multiplier:g}"


def position(holding: Holding) -> bytes:
    """One position, its contract with an exchange; quantity 0 when it was closed."""
    contract = holding.contract
    return message(
        61,
        3,
        holding.account,
        *_terms(contract),
        contract.exchange,
        contract.currency,
        contract.local_symbol,
        contract.trading_class,
        holding.quantity,
        holding.average_cost,
    )


def position_end() -> bytes:
    """All positions have been sent; changes follow."""
    return message(62, 1)


def position_multi(req_id: int, holding: Holding) -> bytes:
    """One position, for reqPositionsMulti."""
    contract = holding.contract
    return message(
        71,
        1,
        req_id,
        holding.account,
        *_terms(contract),
        contract.exchange,
        contract.currency,
        contract.local_symbol,
        contract.trading_class,
        holding.quantity,
        holding.average_cost,
        "",
    )


def position_multi_end(req_id: int) -> bytes:
    """All positions of the account have been sent."""
    return message(72, 1, req_id)


def account_summary(req_id: int, account: str, key: str, value: str, currency: str) -> bytes:
    """One figure of an account, for reqAccountSummary."""
    return message(63, 1, req_id, account, key, value, currency)


def account_summary_end(req_id: int) -> bytes:
    """All figures of all accounts were sent."""
    return message(64, 1, req_id)


def account_multi(req_id: int, account: str, key: str, value: str, currency: str) -> bytes:
    """One figure of an account, for reqAccountUpdatesMulti."""
    return message(73, 1, req_id, account, "", key, value, currency)


def account_multi_end(req_id: int) -> bytes:
    """All figures of the account have been sent."""
    return message(74, 1, req_id)


def executions_end(req_id: int) -> bytes:
    """The end of the executions (the simulator has none)."""
    return message(55, 1, req_id)


# Market data ---------------------------------------------------------------------------------


class Tick(NamedTuple):
    """A market-data message without its request id, so that it is encoded once for all requests."""

    head: bytes
    tail: bytes

    @property
    def is_computation(self) -> bool:
        """Whether it carries Greeks (message 21)."""
        return self.head.startswith(b"21\0")

    def to(self, req_id: int) -> bytes:
        """The message for one request."""
        return framed(b"%b%d\0%b" % (self.head, req_id, self.tail))


def tick_of(head: tuple[Field, ...], *tail: Field) -> Tick:
    """A tick whose request id stands between `head` and `tail`."""
    return Tick(
        "".join(text(field) + "\0" for field in head).encode(),
        "".join(text(field) + "\0" for field in tail).encode(),
    )


def tick_price(tick_type: int, price: float, size: int = 0) -> Tick:
    """A price, together with its size for bid, ask and last."""
    return tick_of((1, 6), tick_type, price, size, 0)


def tick_size(tick_type: int, size: int) -> Tick:
    """A size."""
    return tick_of((2, 6), tick_type, size)


def tick_parameters(min_tick: float) -> Tick:
    """Sent at the start of a subscription: minimum tick, exchange map, snapshot permission."""
    return tick_of((81,), min_tick, "", 3)


def option_computation(tick_type: int, value: OptionValue, dividend: float = 0.0) -> Tick:
    """A computation; the zero after the tick type means "based on returns"."""
    return tick_of(
        (21,),
        tick_type,
        0,
        value.iv,
        value.delta,
        value.price,
        dividend,
        value.gamma,
        value.vega,
        value.theta,
        value.underlying_price,
    )


def market_data_type(req_id: int, data_type: int) -> bytes:
    """The kind of data (1 to 4) that a request's ticks are from now on."""
    return message(58, 1, req_id, data_type)


def snapshot_end(req_id: int) -> bytes:
    """The snapshot is complete and its line is free again."""
    return message(57, 1, req_id)
