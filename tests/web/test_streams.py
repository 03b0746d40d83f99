"""Live streams: everybody hears everything, nobody is waited for."""

from __future__ import annotations

import pytest
import trio

from trio_bridge.web.streams import (
    MOST_STREAMS,
    QUEUE_SIZE,
    Hub,
    TooManyStreamsError,
    encode,
)


async def test_every_listener_hears_what_is_told_while_he_listens() -> None:
    hub = Hub()
    hub.send("row", b"too early")
    with hub.listen() as one, hub.listen() as other:
        hub.send("row", b"{}")
        assert hub.listeners == 2
        assert await one.receive() == await other.receive() == encode("row", b"{}")
    assert hub.listeners == 0
    hub.send("row", b"too late")


async def test_a_listener_that_does_not_keep_up_is_let_go_and_the_others_are_not() -> None:
    hub = Hub()
    with hub.listen() as slow, hub.listen() as quick:
        for number in range(QUEUE_SIZE + 1):
            hub.send("row", b"%d" % number)
            assert await quick.receive() == encode("row", b"%d" % number)
        assert hub.listeners == 1
        heard = [message async for message in slow]
        assert len(heard) == QUEUE_SIZE  # the beginning, and then the end
        hub.send("row", b"on")
        assert await quick.receive() == encode("row", b"on")


async def test_there_is_room_for_so_many_and_again_when_one_has_gone() -> None:
    hub = Hub()
    listening = [hub.listen() for _ in range(MOST_STREAMS)]
    for one in listening:
        one.__enter__()
    with pytest.raises(TooManyStreamsError), hub.listen():
        pass
    listening.pop().__exit__(None, None, None)
    with hub.listen() as late:
        hub.send("row", b"{}")
        with trio.fail_after(5):
            await late.receive()
    for one in listening:
        one.__exit__(None, None, None)
