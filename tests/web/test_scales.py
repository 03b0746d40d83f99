"""How numbers become places on a chart: a calm time looks calm, and its labels are true."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.database import store
from tests.support.process import free_port, running_service
from tests.support.rows import snapshot
from tests.web.support import is_answering
from tests.web.texts import DRAWN_TEXTS, RECORD_TEXTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.web.browser import Browser
    from trio_bridge.model import Snapshot

pytestmark = pytest.mark.xdist_group("chromium")

ROWS = 120

# Of a chart: how much of its height its line takes, and the longest line of soft colour across it,
# as a part of its width.
DRAWN = """
    const plot = document.querySelector(`.plot[data-series="${arguments[0]}"]`);
    const canvas = plot.querySelector('canvas');
    const over = plot.querySelector('.u-over');
    const scale = canvas.width / canvas.getBoundingClientRect().width;
    const area = [over.offsetLeft, over.offsetTop, over.offsetWidth, over.offsetHeight];
    const [left, top, width, height] = area.map((one) => Math.round(one * scale));
    const { data } = canvas.getContext('2d').getImageData(left, top, width, height + 2);
    const colour = (name) => {
      const probe = document.createElement('canvas').getContext('2d');
      probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
      probe.fillRect(0, 0, 1, 1);
      return probe.getImageData(0, 0, 1, 1).data;
    };
    const rows = (name) => {
      const [r, g, b] = colour(name);
      return Array.from({ length: height + 2 }, (_, y) => {
        let found = 0;
        for (let i = 4 * y * width; i < 4 * (y + 1) * width; i += 4) {
          found += data[i + 3] > 200 && Math.abs(data[i] - r) + Math.abs(data[i + 1] - g)
            + Math.abs(data[i + 2] - b) < 30;
        }
        return found;
      });
    };
    const inked = rows(arguments[0]).flatMap((count, y) => (count ? [y] : []));
    return [(Math.max(...inked) - Math.min(...inked)) / height, Math.max(...rows('soft')) / width];
"""


def restless_day() -> list[Snapshot]:
    """The last ten minutes: delta wavers by a thousandth, gamma climbs from 0 to 10, theta falls
    through zero, the price wavers by half a point."""
    now = datetime.now(UTC)
    wave = [(-1) ** n for n in range(ROWS)]
    return [
        replace(
            snapshot(n, now - timedelta(seconds=5 * (ROWS - n))),
            delta=3_500 + 1.75 * wave[n],
            gamma=10 * n / (ROWS - 1),
            theta=-7_440 + 7_730 * n / (ROWS - 1),
            underlying_price=5_290.12 + 0.25 * wave[n],
        )
        for n in range(ROWS)
    ]


@asynccontextmanager
async def page_without_gateway(home: Path, database: str, **settings: object) -> AsyncIterator[str]:
    """The page's address of a service that takes no rows, because no gateway answers."""
    port = free_port()
    async with running_service(
        home,
        IB_SOCKET_PORT=free_port(),
        DATABASE_URL=database,
        BRIDGE_STATUS_PORT=port,
        BRIDGE_RECONNECT_BACKOFF="0.2",
        **settings,
    ) as service:
        await is_answering(service, port)
        yield f"http://127.0.0.1:{port}/"


async def test_a_calm_time_looks_calm_and_zero_is_there_or_said_to_be_missing(
    browser: Browser, tmp_path: Path, fresh_database: str
) -> None:
    await store(fresh_database, restless_day())
    await browser.reset()
    async with page_without_gateway(tmp_path, fresh_database) as url:
        async with browser.before_each_page(RECORD_TEXTS):
            await browser.open(url)
            await browser.drawn()
        await browser.settled()
        zeroless = await browser.do(
            "return [...document.querySelectorAll('.plot')].filter((one) =>"
            " one.innerText.includes('0 is off the scale')).map((one) => one.dataset.series)"
        )
        drawn = {name: await browser.do(DRAWN, name) for name in ("delta", "theta", "gamma")}
        price_height, _ = await browser.do(DRAWN, "underlying_price")
        texts = await browser.do(DRAWN_TEXTS)
        await browser.keep_screenshot("page-scales")
        await browser.become(width=390, height=844, phone=True)
        await browser.do("window.texts.length = 0")
        await browser.until("return window.texts.includes('Local time (UTC)')")
        on_phone = await browser.do(DRAWN_TEXTS)

    assert zeroless == ["delta", "vega"]
    delta_height, delta_line = drawn["delta"]
    assert delta_height < 0.1
    assert delta_line < 0.5
    assert price_height < 0.1
    for name in ("theta", "gamma"):
        height, line = drawn[name]
        assert height > 0.7, name
        assert line > 0.9, name
    # Gamma's axis has steps of 2.5.
    assert {"0.0", "2.5", "5.0", "7.5", "10.0"} <= set(texts)
    assert "3" not in texts
    for of_one_axis in (r"3,\d{3}", r"−[1-9],\d00", r"5,[23]\d\d"):
        marks = {text for text in on_phone if re.fullmatch(of_one_axis, text)}
        assert len(marks) >= 2, (of_one_axis, on_phone)  # one alone gives no scale


@pytest.mark.parametrize(
    ("low", "high", "is_price", "bottom", "top"),
    [
        (3_499, 3_501, False, 3_000, 4_000),  # never less than a fifth of its size
        (-3_501, -3_499, False, -4_000, -3_000),
        (5_290, 5_291, True, 5_200, 5_400),  # a price: a hundredth
        (40, 100, False, 0, 110),  # what has lost half its size is seen against zero
        (-100, -40, False, -110, 0),
        (55, 100, False, 50, 105),
        (40, 100, True, 30, 110),
        (-7_440, 290, False, -8_300, 1_100),
        (0, 0, False, -1, 1),
        (0.00001, 0.00002, False, 0, 0.000023),
    ],
)
async def test_an_axis_reaches_far_enough_and_no_further(
    browser: Browser, calm: str, low: float, high: float, is_price: bool, bottom: float, top: float
) -> None:
    await browser.reset()
    await browser.open(calm)
    least, most = await browser.import_and_do(
        "scale.js", "return m.range(...a)", low, high, is_price
    )
    assert bottom <= least <= low
    assert high <= most <= top
    size = max(abs(low), abs(high))
    assert most - least >= size * (0.01 if is_price else 0.2)
    if not is_price and bottom == 0:
        assert least == 0
    if not is_price and top == 0:
        assert most == 0


async def test_labels_are_the_numbers_where_they_stand(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    for step, labels in (
        (2.5, ["0.0", "2.5", "5.0", "7.5"]),
        (25, ["0", "25", "50", "75"]),
        (250, ["0", "250", "500", "750"]),
        (0.25, ["0.00", "0.25", "0.50", "0.75"]),
        (0.0025, ["0.0000", "0.0025", "0.0050", "0.0075"]),
        (0.5, ["0.0", "0.5", "1.0", "1.5"]),
        (0.00000025, ["0.00000000", "0.00000025", "0.00000050", "0.00000075"]),
        (-2.5, ["0.0", "−2.5", "−5.0", "−7.5"]),
    ):
        found = await browser.import_and_do(
            "format.js", "return [0, 1, 2, 3].map((n) => m.mark(n * a[0], Math.abs(a[0])))", step
        )
        assert found == labels


async def test_attempts_that_repeat_are_one_line(
    browser: Browser, tmp_path: Path, fresh_database: str
) -> None:
    await browser.reset()
    async with page_without_gateway(tmp_path, fresh_database) as url:
        await browser.open(url)
        await browser.until_text("#events", "The last of ")  # as they come
        await browser.open(url)
        told = await browser.until_text("#events", "The last of ")  # and as they are asked for
        assert told.count("reconnect attempt") == 1


async def test_a_run_has_its_number_its_first_and_its_last_time(
    browser: Browser, calm: str
) -> None:
    await browser.reset()
    await browser.open(calm)
    await browser.choose("#zone", "utc")
    kinds = ["gateway.lost", *["gateway.reconnecting"] * 3, "gateway.connected", "gateway.notice"]
    kinds += ["gateway.notice", "gateway.reconnecting"]
    kinds += ["database.circuit_opened", "database.circuit_changed"] * 3
    began = datetime(2026, 1, 2, 14, 30, tzinfo=UTC)
    events = [
        {"kind": kind, "message": f"{n}", "timestamp": (began + timedelta(seconds=n)).isoformat()}
        for n, kind in enumerate(kinds)
    ]
    much_later = (began + timedelta(hours=1)).isoformat()
    events.append({"kind": kinds[-1], "message": "later", "timestamp": much_later})
    runs = await browser.import_and_do(
        "events.js", "return m.folded(a[0]).map((one) => [one.event.message, one.count])", events
    )
    text = await browser.import_and_do(
        "events.js",
        "const { run } = await import('/static/words.js'); return run(m.folded(a[0])[1])",
        events,
    )
    apart = [["0", 1], ["3", 3], ["4", 1], ["5", 1], ["6", 1], ["7", 1]]
    assert runs == [*apart, ["12", 3], ["13", 3], ["later", 1]]
    assert text.startswith("The last of 3 since ")
    assert text.endswith("14:30 UTC.")
