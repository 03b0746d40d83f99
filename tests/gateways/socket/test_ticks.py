"""What is dropped before ib_async sees it, and that nothing else is, however the bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.gateways.socket.ticks import LARGEST_MESSAGE, TickFilter
from trio_bridge.simulator.tws import wire

UNREAD_KINDS = {"1", "2", "45", "46", "81"}
FIELDS = st.lists(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5),
    max_size=8,
)
COMPUTATIONS = st.builds(
    lambda request, tick_type, rest: ["21", str(request), str(tick_type), *rest],
    st.integers(1, 99),
    st.sampled_from([10, 11, 12, 13, 80, 81, 82, 83, 130]),
    FIELDS,
)
MESSAGES = st.lists(
    st.one_of(
        COMPUTATIONS,
        FIELDS,
        st.builds(lambda kind, rest: [str(kind), *rest], st.integers(0, 110), FIELDS),
    )
)


def encoded(fields: list[str]) -> bytes:
    return wire.framed("".join(f"{field}\0" for field in fields).encode())


def is_unread(fields: list[str]) -> bool:
    if fields[:1] == ["21"]:
        return len(fields) > 2 and fields[2] not in ("13", "83")
    return bool(fields) and fields[0] in UNREAD_KINDS


@given(MESSAGES, st.lists(st.integers(1, 40)))
def test_only_ticks_that_nobody_reads_are_dropped(
    messages: list[list[str]], cuts: list[int]
) -> None:
    stream = b"".join(map(encoded, messages))
    ticks, kept = TickFilter(), b""
    for cut in cuts:
        kept += ticks.feed(stream[:cut])
        stream = stream[cut:]
    kept += ticks.feed(stream)
    assert kept == b"".join(encoded(fields) for fields in messages if not is_unread(fields))
    assert ticks.dropped == sum(map(is_unread, messages))


@pytest.mark.parametrize(
    "body",
    [b"21", b"21\0", b"21\x007", b"21\x007\0", b"21\x007\x0010", b"1", b"", b"\0", b"6" * 300],
)
def test_what_is_no_whole_message_is_left_to_ib_async_to_judge(body: bytes) -> None:
    ticks = TickFilter()
    assert ticks.feed(wire.framed(body)) == wire.framed(body)
    assert ticks.dropped == 0


def test_a_length_that_no_message_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="a message of"):
        TickFilter().feed((LARGEST_MESSAGE + 1).to_bytes(4, "big"))


def test_the_longest_message_there_is_is_waited_for() -> None:
    assert LARGEST_MESSAGE == 0xFFFFFF
    assert TickFilter().feed(b"\0\xff\xff\xff" + b"9\0") == b""


def test_a_computation_without_a_request_is_judged_by_its_tick_type() -> None:
    ticks = TickFilter()
    assert ticks.feed(encoded(["21", "", "10", "0"])) == b""
    assert ticks.feed(encoded(["21", "", "13", "0"])) == encoded(["21", "", "13", "0"])
