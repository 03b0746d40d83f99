"""Whatever bytes come over a TWS connection, cut however: read, or refused in the expected way."""

from __future__ import annotations

import logging
import struct
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.gateways.socket.ticks import TickFilter
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws import wire
from trio_bridge.simulator.tws.server import TwsSimulator
from trio_bridge.simulator.tws.session import ClientSession

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.long

FIELDS = st.one_of(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8),
    st.integers().map(str),
    st.integers(-2, 110).map(str),
    st.floats().map(str),
    st.sampled_from(["", "SPX", "OPT", "SMART", "USD", "DU1", "v157..178", "1E999", "9" * 5000]),
)
SERVED = ["1", "2", "6", "7", "8", "9", "14", "17", "49", "59", "61", "64", "74", "76"]
MESSAGES = st.one_of(
    st.lists(FIELDS, max_size=20),
    st.builds(
        lambda kind, rest: [kind, *rest], st.sampled_from(SERVED), st.lists(FIELDS, max_size=20)
    ),
    st.builds(  # a market-data request that is nearly right
        lambda con_id, exchange, tail: [
            "1", "11", "7", str(con_id), "SPX", "OPT", "20260116", "5300", "C", "100", exchange,
            "", "USD", "", "SPXW", *tail,
        ],
        st.integers(0, 3) | st.integers(),
        st.sampled_from(["", "CBOE"]),
        st.lists(FIELDS, max_size=5),
    ),
)  # fmt: skip
CUTS = st.lists(st.integers(0, 60), max_size=12)
START = wire.framed(b"v157..178") + wire.message(71, 2, 10, "")


def framed(fields: list[str]) -> bytes:
    return wire.framed("".join(f"{field}\0" for field in fields).encode())


STREAMS = st.one_of(
    st.binary(max_size=120),
    st.lists(MESSAGES, max_size=6).map(lambda all_: b"".join(map(framed, all_))),
    st.builds(  # one byte of a good stream is another
        lambda all_, place, byte: _changed(b"".join(map(framed, all_)), place, byte),
        st.lists(MESSAGES, min_size=1, max_size=4),
        st.integers(0),
        st.integers(0, 255),
    ),
    st.builds(
        lambda length, rest: struct.pack(">I", length) + rest,
        st.integers(0, 2**32 - 1),
        st.binary(max_size=40),
    ),
)


def _changed(stream: bytes, place: int, byte: int) -> bytes:
    place %= len(stream)
    return stream[:place] + bytes([byte]) + stream[place + 1 :]


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    found = []
    for cut in cuts:
        found.append(stream[:cut])
        stream = stream[cut:]
    return [*found, stream]


@given(stream=STREAMS, cuts=CUTS, greeted=st.booleans())
def chunking_changes_nothing(stream: bytes, cuts: list[int], greeted: bool) -> None:
    stream = wire.GREETING + stream if greeted else stream
    outcomes = []
    for parts in ([stream], pieces(stream, cuts)):
        reader, messages = wire.ClientStream(), []
        try:
            for part in parts:
                messages += reader.feed(part)
        except wire.WireError as refused:
            outcomes.append(str(refused))
        else:
            outcomes.append(repr(messages))
    assert outcomes[0] == outcomes[1]


@given(stream=STREAMS, cuts=CUTS)
def the_filter_keeps_whole_messages(stream: bytes, cuts: list[int]) -> None:
    outcomes = []
    for parts in ([stream], pieces(stream, cuts)):
        ticks, kept = TickFilter(), b""
        try:
            for part in parts:
                kept += ticks.feed(part)
        except ValueError as refused:
            outcomes.append(str(refused))
        else:
            outcomes.append(repr(kept))
        # What it hands on is whole messages and nothing else.
        while kept:
            (length,) = struct.unpack_from(">I", kept)
            assert len(kept) >= 4 + length
            kept = kept[4 + length :]
    assert outcomes[0] == outcomes[1]


@given(offer=st.text(max_size=20) | st.from_regex(r"v\d{1,4}\.\.\d{1,4}( .*)?"))
def versions_are_agreed_or_refused(offer: str) -> None:
    try:
        version = wire.agree_version(offer, 178)
    except wire.WireError:
        return
    assert version <= 178


@given(stream=STREAMS, cuts=CUTS)
def the_simulator_outlives_any_client(stream: bytes, cuts: list[int]) -> None:
    async def serve() -> None:
        sim = TwsSimulator(make_book(options=2))
        ours, theirs = trio.socket.socketpair()
        session = ClientSession(sim, trio.SocketStream(ours))
        sim.sessions.append(session)
        with trio.fail_after(20), theirs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.run)
                client = trio.SocketStream(theirs)
                for part in pieces(wire.GREETING + START + stream, cuts):
                    try:
                        await client.send_all(part)
                    except trio.BrokenResourceError:
                        break
                try:
                    await client.send_eof()
                    async for _ in client:
                        pass
                except trio.BrokenResourceError:
                    pass

    trio.run(serve)


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("trio_bridge.simulator").setLevel(logging.CRITICAL)


def test_the_simulators_framing(fuzz: Callable[..., None]) -> None:
    fuzz(chunking_changes_nothing)


def test_the_tick_filters_framing(fuzz: Callable[..., None]) -> None:
    fuzz(the_filter_keeps_whole_messages)


def test_version_offers(fuzz: Callable[..., None]) -> None:
    fuzz(versions_are_agreed_or_refused)


def test_the_simulator_outlives_any_client(fuzz: Callable[..., None]) -> None:
    fuzz(the_simulator_outlives_any_client)
