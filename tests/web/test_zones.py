"""Every time on the page names its zone, which the reader chooses and the browser remembers."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import httpx
import pytest

from tests.web.support import PATIENCE_S
from tests.web.texts import DRAWN_TEXTS, RECORD_TEXTS

if TYPE_CHECKING:
    from tests.web.browser import Browser

pytestmark = pytest.mark.xdist_group("chromium")

HERE = "Asia/Tokyo"
CHOICES = {
    "local": (HERE, "Local time (Asia/Tokyo)"),
    "utc": ("UTC", "UTC"),
    "new-york": ("America/New_York", "New York time"),
}
NAMES = {HERE: {"UTC+9"}, "UTC": {"UTC"}, "America/New_York": {"EST", "EDT"}}


async def connected_since(url: str) -> datetime:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        status = (await http.get(f"{url}api/status")).json()
    return datetime.fromisoformat(status["gateway"]["since"])


async def point_at_the_middle(browser: Browser) -> None:
    left, top, width = await browser.do(
        "const box = document.querySelector('.u-over').getBoundingClientRect();"
        "return [box.left, box.top, box.width]"
    )
    await browser.point(left + width / 2 - 1, top + 9)
    await browser.point(left + width / 2, top + 9)


async def test_every_time_names_its_zone(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.live_in(HERE)
    since = await connected_since(calm)
    async with browser.before_each_page(RECORD_TEXTS):
        await browser.open(calm)
        await browser.drawn()
        await browser.until_text("#gateway", "Connected")
        for choice, (zone, title) in CHOICES.items():
            await browser.choose("#zone", choice)
            (name,) = {since.astimezone(ZoneInfo(zone)).tzname(), "UTC+9"} & NAMES[zone]
            clock = f"{since.astimezone(ZoneInfo(zone)):%H:%M:%S}"
            assert f"since {clock} {name}." in await browser.text("#gateway")
            await browser.until_text("#coverage", f" {name}: ")
            await browser.until_text("#events-zone", title)
            assert clock[:5] in await browser.text("#events time")
            await point_at_the_middle(browser)
            await browser.until_text("#readout", f" {name}")
            # The axis: its title, and times of the last quarter of an hour.
            await browser.do("window.texts.length = 0")
            await browser.until("return window.texts.includes(arguments[0])", title)
            now = datetime.now(UTC).astimezone(ZoneInfo(zone))
            marks = [re.match(r"(\d\d):(\d\d)", text) for text in await browser.do(DRAWN_TEXTS)]
            minutes = [60 * int(mark[1]) + int(mark[2]) for mark in marks if mark]
            assert minutes
            assert all((60 * now.hour + now.minute - one) % 1_440 <= 16 for one in minutes)
        assert await browser.violations() == []


async def test_the_choice_is_remembered(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.live_in(HERE)
    await browser.open(calm)
    assert await browser.do("return document.querySelector('#zone').value") == "local"
    await browser.choose("#zone", "new-york")
    await browser.open(calm)
    await browser.until_text("#events-zone", "New York time")
    assert await browser.do("return document.querySelector('#zone').value") == "new-york"


async def test_without_a_memory_the_choice_holds_until_the_page_is_left(
    browser: Browser, calm: str
) -> None:
    await browser.reset()
    blocked = """
        Object.defineProperty(window, 'localStorage', {
          get() { throw new DOMException('blocked', 'SecurityError'); },
        });
    """
    async with browser.before_each_page(blocked):
        await browser.open(calm)
        await browser.drawn()
        await browser.choose("#zone", "utc")
        await browser.until_text("#events-zone", "UTC")
        assert await browser.complaints() == []


async def test_an_hour_is_called_what_it_was_called_then(browser: Browser, calm: str) -> None:
    """New York's summer time ended on 1 November 2026 at 06:00 UTC."""
    await browser.reset()
    await browser.open(calm)
    await browser.choose("#zone", "new-york")
    ended = datetime(2026, 11, 1, 6, tzinfo=UTC).timestamp()
    found = await browser.import_and_do(
        "format.js", "return [m.time(a[0] - 1, a[0]), m.time(a[0], a[0])]", ended
    )
    assert found == ["01:59:59 EDT", "01:00:00 EST"]


async def test_headline_and_tooltips_name_the_zone(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    await browser.choose("#zone", "utc")
    at = datetime(2026, 1, 2, 14, 30, 5, tzinfo=UTC).timestamp()
    lines = await browser.import_and_do(
        "words.js",
        """
        const gap = { from: a[0] - 60, to: a[0] - 5, reasons: [] };
        return [m.blind(a[0], a[0] + 20).line, m.waiting(a[0], a[0] + 20).line,
          m.gap(gap, a[0], "", false).heading,
          m.gap({ ...gap, to: a[0], open: true }, a[0], "", false).heading,
          m.gap({ ...gap, to: a[0], open: true, blind: true }, a[0], "", false).heading];
        """,
        at,
    )
    assert lines == [
        "The last message came at 14:30:05 UTC, 20 s ago. Nothing here is current.",
        "The last message came at 14:30:05 UTC, 20 s ago.",
        "No rows from 14:29:05 to 14:30:00 UTC (55 s)",
        "No rows since 14:29:05 UTC (60 s)",
        "No contact with the bridge since 14:29:05 UTC (60 s)",
    ]
