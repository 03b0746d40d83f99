"""The page judges by the age of the last message, whatever its socket says."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trio

from tests.web.support import record_the_quarter_before

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresServer
    from tests.web.browser import Browser
    from tests.web.support import Watched

pytestmark = pytest.mark.xdist_group("chromium")

# The page's clock can be set forward, so that no test waits for the silence to be long enough.
CLOCK = """
    window.setForwardMs = 0;
    const real = Date.now;
    Date.now = () => real() + window.setForwardMs;
"""
SILENCE_S = 16
SHORT_SILENCE_S = 9


async def pass_in_silence(browser: Browser, seconds: float) -> None:
    await browser.do("window.setForwardMs += 1000 * arguments[0]", seconds)


async def values(browser: Browser) -> set[str]:
    found = await browser.do(
        "return [...document.querySelectorAll('.plot .value')].map((one) => one.innerText)"
    )
    return set(found)


async def assert_that_nothing_looks_current(browser: Browser) -> None:
    assert await values(browser) == {"–"}
    units = await browser.do(
        "return [...document.querySelectorAll('.plot .unit')].map((one) => one.innerText)"
    )
    assert all(unit.startswith("last ") for unit in units), units
    calm = await browser.do("""
        const probe = document.createElement('i');
        document.body.append(probe);
        probe.style.color = 'var(--good)';
        const good = getComputedStyle(probe).color;
        probe.remove();
        return [...document.querySelectorAll('h1, .word')]
          .filter((one) => getComputedStyle(one).color === good).map((one) => one.innerText);
    """)
    assert calm == []
    doubts = await browser.do("return document.querySelectorAll('.doubt:not(:empty)').length")
    assert doubts == 0


@asynccontextmanager
async def cuttable(port: int) -> AsyncIterator[tuple[int, trio.Event]]:
    """A network to an endpoint that forwards nothing more once the event is set, and closes
    nothing; gives its port."""
    cut = trio.Event()

    async def pass_on(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while piece := await source.receive_some(65_536):
                if cut.is_set():
                    await trio.sleep_forever()
                await sink.send_all(piece)
            await sink.send_eof()

    async def connect(near: trio.SocketStream) -> None:
        if cut.is_set():
            await trio.sleep_forever()
        async with near:
            far = await trio.open_tcp_stream("127.0.0.1", port)
            async with far, trio.open_nursery() as both:
                both.start_soon(pass_on, near, far)
                both.start_soon(pass_on, far, near)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, connect, listeners)
        yield listeners[0].socket.getsockname()[1], cut
        nursery.cancel_scope.cancel()


async def test_a_bridge_that_hangs_is_as_loud_as_an_outage(
    browser: Browser, here: Watched, own_postgres: PostgresServer
) -> None:
    await trio.to_thread.run_sync(record_the_quarter_before, own_postgres.conninfo, 0.5)
    await browser.reset()
    async with browser.before_each_page(CLOCK):
        await browser.open(here.url)
        await browser.drawn()
        await browser.until_text("#headline", "Recording")
        here.service.interrupt(signal.SIGSTOP)
        try:
            await pass_in_silence(browser, SHORT_SILENCE_S)
            await browser.settled()
            assert await browser.text("#headline") == "Recording all 33 positions"
            await pass_in_silence(browser, SILENCE_S - SHORT_SILENCE_S)
            await browser.until_text("#headline", "No contact with the bridge")
            mood, title = await browser.do(
                "return [document.querySelector('#verdict').dataset.mood, document.title]"
            )
            assert mood == "bad"
            assert "No contact" in title
            told = await browser.text("#subline")
            assert told.startswith("The last message came at "), told
            await browser.until_text("#state-title", "not current")
            await assert_that_nothing_looks_current(browser)
            # Rows may have been taken all the same: the page does not say that they are missing.
            assert "No rows" not in await browser.do("return document.body.textContent")
            await browser.look_well("frozen")
        finally:
            here.service.interrupt(signal.SIGCONT)
        await browser.until_text("#headline", "Recording")
        assert await browser.text("#state-title") == "State"
        await browser.until("return document.querySelector('.plot .value').innerText !== '–'")


async def test_a_network_that_is_cut_in_silence_is_as_loud_as_an_outage(
    browser: Browser, here: Watched, own_postgres: PostgresServer
) -> None:
    await trio.to_thread.run_sync(record_the_quarter_before, own_postgres.conninfo, 0.5)
    await browser.reset()
    async with cuttable(here.port) as (port, cut), browser.before_each_page(CLOCK):
        await browser.open(f"http://127.0.0.1:{port}/")
        await browser.drawn()
        await browser.until_text("#headline", "Recording")
        cut.set()
        await pass_in_silence(browser, SILENCE_S)
        await browser.until_text("#headline", "No contact with the bridge")
        await assert_that_nothing_looks_current(browser)
        await browser.look_well("cut-off")
        await browser.reset()


async def test_a_page_that_is_looked_at_again_waits_for_a_message_before_it_says_anything(
    browser: Browser, here: Watched
) -> None:
    """Left an hour ago, while the bridge was well; in the meantime it has stopped."""
    await browser.reset()
    async with browser.before_each_page(CLOCK):
        await browser.open(here.url)
        await browser.drawn()
        await browser.until_text("#headline", "Recording")
        await browser.do("dispatchEvent(new Event('pagehide'))")
        here.service.interrupt(signal.SIGSTOP)
        try:
            await pass_in_silence(browser, 3_600)
            await browser.do("dispatchEvent(new Event('pageshow'))")
            await browser.until_text("#headline", "Connecting")
            assert "The last message came at " in await browser.text("#subline")
            await browser.until("return document.querySelector('.plot .value').innerText === '–'")
            await assert_that_nothing_looks_current(browser)
            await pass_in_silence(browser, SILENCE_S)
            await browser.until_text("#headline", "No contact with the bridge")
        finally:
            here.service.interrupt(signal.SIGCONT)
        await browser.until_text("#headline", "Recording")


async def test_a_clock_that_is_set_back_hides_no_silence(browser: Browser, calm: str) -> None:
    await browser.reset()
    async with browser.before_each_page(
        CLOCK + "window.passedMs = 0; const steady = performance.now.bind(performance);"
        "performance.now = () => steady() + window.passedMs;"
    ):
        await browser.open(calm)
        states = await browser.import_and_do(
            "contact.js",
            """
            const contact = new m.Contact();
            const states = [contact.state];
            contact.hear(100);
            states.push(contact.state);
            window.setForwardMs = -3_600_000;
            window.passedMs = 16_000;
            states.push(contact.state, contact.knownUntil(200));
            return states;
            """,
        )
    assert states == ["sought", "there", "lost", 100]
