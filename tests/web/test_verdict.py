"""The page says what the rows are worth, in the one word that the bridge has for it."""

from __future__ import annotations

import re
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.faults.scene import QUICK
from tests.support.database import store
from tests.support.rows import snapshot
from tests.web.browser import LOOKS
from tests.web.support import following, record_the_quarter_before, watched_service
from tests.web.test_page import HEADLINE, SPOKEN
from tests.web.test_scales import DRAWN, page_without_gateway
from trio_bridge.model import Verdict
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.listings import list_nikkei

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tests.web.browser import Browser
    from tests.web.support import Watched
    from trio_bridge.model import Snapshot
    from trio_bridge.simulator.book import Book

pytestmark = pytest.mark.xdist_group("chromium")

IMPOSSIBLE_DELTA = 40.0
OTHER = "nas:12-ab34"
MANY = 8

DOUBTS = "return [...document.querySelectorAll('.plot .doubt')].map((one) => one.innerText)"
VALUES = "return [...document.querySelectorAll('.plot .value')].map((one) => one.innerText)"
LISTED = (
    "return [...document.querySelectorAll('#defects-list li')]"
    ".map((one) => one.textContent.replaceAll(/\\s+/g, ' '))"
)
FACE = """
    const list = document.querySelector('#defects');
    return {
      mood: document.querySelector('#verdict').dataset.mood,
      title: document.title,
      list: list.checkVisibility(),
      open: list.open,
      summary: document.querySelector('#defects-summary').checkVisibility(),
    };
"""

# Of a stretch of delta's line, which is flat: how much of it is drawn, and how many CSS pixels each
# piece and the hole after it take; in whatever colour that is not the ground's, the grid's or the
# band's, or in the one that is named.
# From and to: parts of the 15 minutes that are shown.
STROKE = """
    const [from, to, name] = arguments;
    const plot = document.querySelector('.plot[data-series="delta"]');
    const canvas = plot.querySelector('canvas');
    const over = plot.querySelector('.u-over');
    const scale = canvas.width / canvas.getBoundingClientRect().width;
    const area = [over.offsetLeft, over.offsetTop, over.offsetWidth, over.offsetHeight];
    const [left, top, width, height] = area.map((one) => Math.round(one * scale));
    const { data } = canvas.getContext('2d').getImageData(left, top, width, height);
    const probe = document.createElement('canvas').getContext('2d');
    const rgb = (colour) => {
      probe.fillStyle = colour;
      probe.fillRect(0, 0, 1, 1);
      return [...probe.getImageData(0, 0, 1, 1).data];
    };
    const style = getComputedStyle(document.documentElement);
    const [ground, ink] = ['card', name].map((one) => rgb(style.getPropertyValue(`--${one}`)));
    const unlike = (x, y, colour) => {
      const [r, g, b, a] = data.slice(4 * (y * width + x), 4 * (y * width + x) + 4);
      return [r, g, b].reduce((sum, one, i) => sum + a / 255 * Math.abs(one - colour[i]), 0);
    };
    const faintest = matchMedia('(forced-colors: active)').matches ? 320 : 165;
    const isInk = name === undefined ? (x, y) => unlike(x, y, ground) > faintest
      : (x, y) => data[4 * (y * width + x) + 3] > 200 && unlike(x, y, ink) < 40;
    const first = Math.round(from * width);
    const xs = Array.from({ length: Math.round(to * width) - first }, (_, i) => first + i);
    const middle = Math.round(height / 2);
    const ys = Array.from({ length: 7 }, (_, i) => middle - 3 + i);
    const drawn = xs.map((x) => ys.some((y) => isInk(x, y)));
    const pieces = drawn.filter((one, i) => one && !drawn[i - 1]).length;
    return [drawn.filter(Boolean).length / xs.length, xs.length / scale / pieces];
"""
# Thirds of the 15 minutes that are shown, away from where one verdict follows on another.
STRETCHES = {Verdict.COMPLETE: (0.05, 0.3), Verdict.PARTIAL: (0.38, 0.6), Verdict.STALE: (0.7, 0.9)}


# The page's clock stands at the second that is named, also when the bridge says what time it is.
STOPPED = """
    const at = 1000 * SECOND;
    const parse = JSON.parse;
    Date.now = () => at;
    JSON.parse = (...all) => {
      const found = parse(...all);
      if (found?.at) found.at = new Date(at).toISOString();
      return found;
    };
"""


@asynccontextmanager
async def still_page(
    browser: Browser,
    home: Path,
    rows: list[Snapshot],
    database: str,
    interval_s: float,
    *,
    width: int = 1_440,
    height: int = 900,
) -> AsyncIterator[Callable[[float], float]]:
    """A page that shows the 15 minutes before the last of these rows, however long it is looked at:
    what is drawn stays at its place. Gives that place for a number of seconds since 1970."""
    await store(database, rows)
    now = rows[-1].timestamp.timestamp() + 0.001
    await browser.reset(width, height)
    async with (
        page_without_gateway(home, database, BRIDGE_POLL_INTERVAL=interval_s) as url,
        browser.before_each_page(STOPPED.replace("SECOND", str(now))),
    ):
        await browser.open(url)
        await browser.drawn()
        await browser.settled()
        yield lambda at: 1 - (now - at) / 900


@asynccontextmanager
async def hasty_service(
    home: Path, database: str, *, book: Book | None = None, **settings: object
) -> AsyncIterator[Watched]:
    """Its lines may be silent for seconds, not for a minute."""
    (home / "sitecustomize.py").write_text(QUICK)
    async with watched_service(
        home, database, book=book, PYTHONPATH=home, BRIDGE_POLL_INTERVAL=0.5, **settings
    ) as watched:
        await watched.wait_ready()
        yield watched


async def told(here: Watched) -> dict[str, Any]:
    """What the bridge says of itself."""
    async with here.client() as http:
        found: dict[str, Any] = (await http.get("/api/status")).json()
        return found


async def test_partial_and_stale_are_headline_title_numbers_and_list(
    browser: Browser, tmp_path: Path, fresh_database: str
) -> None:
    await browser.reset()
    async with hasty_service(tmp_path, fresh_database) as here:
        market = here.gateway.book.market
        options = [option.con_id for option in market.options()]
        await browser.open(here.url)
        await browser.drawn()
        await assert_complete(browser)
        assert (await browser.text("#subline")).startswith("Complete. A row every 0.5 s")
        assert set(await browser.do(DOUBTS)) == {""}

        for broken in (1, MANY):
            for option in options[:broken]:
                market.override(option, delta=IMPOSSIBLE_DELTA)
            await assert_partial(browser, here, broken)
        await trio.to_thread.run_sync(record_the_quarter_before, fresh_database, 0.5)
        await browser.open(here.url)
        await browser.drawn()
        await browser.until_text("#subline", " and ")
        await browser.look_well("partial")
        await browser.become(1_280, 720)
        await browser.keep_screenshot("page-low-partial")
        overflowing = await browser.do(
            "return [document.documentElement, ...document.querySelectorAll('.plot')]"
            ".filter((one) => one.scrollHeight > one.clientHeight).map((one) => one.innerText)"
        )
        assert overflowing == []
        for option in options[:MANY]:
            market.override(option)
        await assert_complete(browser)

        here.gateway.pause_ticks(options[1:])
        here.gateway.stall_lines(options[1:])
        await browser.until_text("#headline", "Stale: old data of ")
        await browser.until_text("#subline", "(old: ")
        await browser.until_text("#rows", "Stale: ")
        assert "priced" not in await browser.text("#rows")
        assert set(await browser.do(DOUBTS)) == {"stale"}
        face = await browser.do(FACE)
        assert (face["mood"], face["title"][:6]) == ("warn", "Stale:")
        await browser.look_well("stale")
        here.gateway.revive_lines()
        here.gateway.resume_ticks()
        await assert_complete(browser)
        assert await browser.complaints() == []


async def assert_partial(browser: Browser, here: Watched, contracts: int) -> None:
    await browser.until(f"{LISTED}.length >= arguments[0]", contracts)
    await browser.until_text("#headline", "Partial: ")
    status = await told(here)
    last, defects = status["ticker"]["last"], status["defects"]
    assert (status["verdict"], last["priced"] < last["positions"]) == ("partial", True)
    word = f"Partial: {last['priced']} of 33 positions"
    await browser.until_text("#headline", word)
    names = [" ".join(one["contract"].split()) for one in defects]  # as it is shown
    await browser.until_text("#subline", names[0])
    assert await browser.text("#headline") == word
    await browser.until_text("#rows", word)
    listed = await browser.do(LISTED)
    assert [one.partition(" (")[0] for one in listed] == names
    assert all(one["state"] in line for one, line in zip(defects, listed, strict=True))
    assert set(await browser.do(DOUBTS)) == {"partial"}
    assert "–" not in await browser.do(VALUES)
    many = len(defects) > 3
    assert await browser.do(FACE) == {
        "mood": "warn",
        "title": f"{word} · trio_bridge",
        "list": True,
        "open": not many,
        "summary": many,
    }


async def assert_complete(browser: Browser) -> None:
    await browser.until(f"return {HEADLINE} === 'Recording all 33 positions'")
    await browser.until_text("#rows", "All 33 positions priced")
    await browser.until("return !document.querySelector('#defects').checkVisibility()")
    assert set(await browser.do(DOUBTS)) == {""}


async def test_a_row_is_believed_before_the_next_status(
    browser: Browser, tmp_path: Path, own_postgres: PostgresServer
) -> None:
    """The status comes every five seconds, rows may come in between: the later one counts."""
    await browser.reset()
    async with (
        browser.before_each_page(ONE_STATUS),
        hasty_service(tmp_path, own_postgres.url) as here,
    ):
        await browser.open(here.url)
        await browser.drawn()
        await browser.until_text("#headline", "Recording")
        option = here.gateway.book.market.options()[0].con_id
        here.gateway.book.market.override(option, delta=IMPOSSIBLE_DELTA)
        await browser.until_text("#headline", "Partial: ")
        assert set(await browser.do(DOUBTS)) == {"partial"}
        here.gateway.book.market.override(option)
        await browser.until_text("#headline", "Recording")


async def test_the_status_follows_the_verdict_at_once_also_where_partial_is_good_enough(
    tmp_path: Path, fresh_database: str
) -> None:
    """It names the contracts. Rows come every 0.5 s, the status at least every five."""
    async with (
        hasty_service(tmp_path, fresh_database, BRIDGE_READY="partial") as here,
        following(here.port) as messages,
    ):
        here.gateway.book.market.override(
            here.gateway.book.market.options()[0].con_id, delta=IMPOSSIBLE_DELTA
        )
        rows = 0
        async for message in messages:
            if message.data and message.kind == "row":
                rows += message.data["verdict"] == "partial"
            elif message.kind == "status" and message.data["verdict"] == "partial":
                break
        assert rows < 5
        assert len(message.data["defects"]) == 1


ONE_STATUS = """
    const add = EventSource.prototype.addEventListener;
    EventSource.prototype.addEventListener = function (kind, listen) {
      return add.call(this, kind, listen, { once: kind === "status" });
    };
"""


@pytest.mark.parametrize("rows_per_bucket", [1, 3])
async def test_history_is_drawn_by_its_verdicts_and_they_are_said_at_the_cursor(
    browser: Browser, tmp_path: Path, fresh_database: str, rows_per_bucket: int
) -> None:
    """15 minutes: complete, then partial, then stale. The last delta of a bucket never moves; where
    it holds several, the others are a little more, so that lowest and highest are not one."""
    thirds = (Verdict.COMPLETE, Verdict.PARTIAL, Verdict.STALE)
    interval_s = 5 if rows_per_bucket == 1 else 0.5
    count = int(900 / interval_s) - 1
    last = int(time.time() / interval_s)
    rows = [
        replace(
            snapshot(n, datetime.fromtimestamp((last - count + n) * interval_s, UTC)),
            delta=1_000.0 if (last - count + n + 1) % rows_per_bucket == 0 else 1_004.0,
            verdict=thirds[n * 3 // count],
        )
        for n in range(count)
    ]
    async with still_page(browser, tmp_path, rows, fresh_database, interval_s):
        for name, look in LOOKS.items():
            await browser.become(**look)
            await browser.settled()
            await browser.keep_screenshot(f"page-{name}-strokes-{rows_per_bucket}")
            await assert_strokes(browser, name)
        await browser.become()
        complete = re.search("([0-9,]+) of them complete", await browser.text("#coverage"))
        assert complete
        assert int(complete[1].replace(",", "")) == sum(
            row.verdict is Verdict.COMPLETE for row in rows
        )
        for verdict, place in zip(thirds, (0.2, 0.5, 0.8), strict=True):
            await browser.do(
                "const scrub = document.querySelector('#scrub');"
                "scrub.value = Math.round(scrub.max * arguments[0]);"
                "scrub.dispatchEvent(new Event('input'))",
                place,
            )
            await browser.settled()
            doubt = "" if verdict is Verdict.COMPLETE else verdict
            assert set(await browser.do(DOUBTS)) == {doubt}
            for text in (await browser.text("#readout"), await browser.do(SPOKEN)):
                assert [one for one in thirds if one in text] == ([doubt] if doubt else [])


async def assert_strokes(browser: Browser, look: str) -> None:
    legend = await browser.text("#readout")
    assert legend.endswith(
        "Dotted: partial, some position is not in the sums."
        " Dashed: stale, some data in the sums are old."
    )
    found = {verdict: await browser.do(STROKE, *stretch) for verdict, stretch in STRETCHES.items()}
    share, length = found[Verdict.COMPLETE]
    assert share == 1.0, (look, found)
    assert length > 50, (look, found)
    for verdict, most, shortest, longest in (
        (Verdict.PARTIAL, 0.75, 4.5, 8.5),
        (Verdict.STALE, 0.9, 8.5, 18),
    ):
        share, length = found[verdict]
        assert 0.25 < share < most, (look, verdict, found)
        assert shortest < length < longest, (look, verdict, found)
    if "forced" not in look:
        for colour, least, most in (("delta", 0, 0.05), ("warn", 0.1, 0.75)):
            share, _ = await browser.do(STROKE, *STRETCHES[Verdict.PARTIAL], colour)
            assert least <= share < most, (look, colour)


async def test_complete_rows_between_partial_ones_are_joined_by_a_solid_line_alone(
    browser: Browser, tmp_path: Path, fresh_database: str
) -> None:
    """A row every 30 s, each third one partial: each stroke is as good as the worse of its ends."""
    interval_s, count = 30, 28
    last = int(time.time() / interval_s)
    rows = [
        replace(
            snapshot(n, datetime.fromtimestamp((last - count + n) * interval_s, UTC)),
            delta=1_000.0,
            verdict=Verdict.COMPLETE if n % 3 else Verdict.PARTIAL,
        )
        for n in range(count)
    ]
    async with still_page(browser, tmp_path, rows, fresh_database, interval_s) as place:

        async def stroke(n: int, colour: str) -> float:
            """How much there is of a colour in the middle of the stroke from row `n`."""
            at = [rows[n].timestamp.timestamp() + part * interval_s for part in (0.3, 0.7)]
            share, _ = await browser.do(STROKE, *map(place, at), colour)
            return float(share)

        for n in (12, 15, 18):
            assert await stroke(n + 1, "delta") == 1.0
            assert await stroke(n + 1, "warn") == 0
            for partial in (n, n + 2):
                assert await stroke(partial, "delta") == 0
                assert 0 < await stroke(partial, "warn") < 0.9


async def test_what_is_narrower_than_a_pixel_is_not_drawn_in_the_style_of_its_neighbours(
    browser: Browser, tmp_path: Path, fresh_database: str
) -> None:
    """Once a minute a bucket of three partial rows, half a pixel wide, far above complete ones."""
    interval_s, count, minute = 0.5, 1_500, 120
    last = 3 * int(time.time() / interval_s / 3)
    rows = [
        replace(
            snapshot(n, datetime.fromtimestamp((last - count + n) * interval_s, UTC)),
            delta=1_300.0 if n % minute < 3 else 1_000.0,
            verdict=Verdict.PARTIAL if n % minute < 3 else Verdict.COMPLETE,
        )
        for n in range(count)
    ]
    async with still_page(
        browser, tmp_path, rows, fresh_database, interval_s, width=1_000, height=700
    ) as place:
        await browser.keep_screenshot("page-partial-moment")
        height, _ = await browser.do(DRAWN, "delta")
        assert height < 0.1
        for n in range(minute, count, minute):
            at = place(rows[n].timestamp.timestamp())
            share, _ = await browser.do(STROKE, at - 0.02, at + 0.02)
            assert 0 < share < 0.5, n


async def test_rows_of_older_versions_are_judged_by_what_they_know(
    browser: Browser, calm: str
) -> None:
    await browser.reset()
    await browser.open(calm)
    found = await browser.import_and_do(
        "rows.js",
        "return a[0].map(([delta, positions, priced, verdict = null]) =>"
        " m.verdictOf({ delta, positions, priced, verdict }))",
        [[1, 3, 3], [1, 3, 2], [None, 3, 3], [1, 3, None], [1, 3, 3, "stale"], [1, 3, 2, "stale"]],
    )
    assert found == ["complete", "partial", "partial", "complete", "stale", "stale"]


async def test_a_bucket_is_worth_what_its_worst_row_is(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    found = await browser.import_and_do(
        "rows.js",
        """
        const series = Object.fromEntries(m.SERIES.map((name) => [name, { last: [1] }]));
        const grid = { from: 0, interval_s: 5, bucket_s: 30 };
        const coverage = { since: 90, rows: 1, complete: 1, slots: 1 };
        const told = { ...grid, t: [90], verdict: ["complete"], gaps: [], series, coverage };
        const rows = new m.Rows(told, []);
        const add = (second, verdict) =>
          rows.add({ timestamp: new Date(1000 * second).toISOString(), delta: 1, verdict });
        [["stale", 95], ["partial", 100], ["complete", 105], ["complete", 120], ["stale", 125]]
          .forEach(([verdict, second]) => add(second, verdict));
        const found = [...rows.verdict];
        rows.trim(126);
        return [found, rows.verdict, rows.t, rows.coverage];
        """,
    )
    coverage = {"since": 90, "rows": 6, "complete": 3, "slots": 8}
    assert found == [["partial", "stale"], ["stale"], [125], coverage]


async def test_a_missing_exchange_rate_is_named(
    browser: Browser, tmp_path: Path, fresh_database: str
) -> None:
    """Every position is priced, but vega and theta are unknown."""
    await browser.reset()
    book = make_book(accounts=2)
    list_nikkei(book, book.accounts[0])
    del book.money.rates["JPY"]
    async with hasty_service(tmp_path, fresh_database, book=book, BRIDGE_READY="partial") as here:
        await browser.open(here.url)
        await browser.drawn()
        await browser.until(f"return {HEADLINE} === 'Partial: vega and theta unknown'")
        await browser.until_text("#subline", "no exchange rate of JPY")
        await browser.until(f"{LISTED}.length === 2")
        assert "35 positions" not in await browser.text("#rows")
        delta, gamma, *unknown, _ = await browser.do(VALUES)
        assert "–" not in (delta, gamma)
        assert unknown == ["–", "–"]
        await browser.look_well("no-rate")


ONE = {"contract": "SPX C5000", "state": "refused", "reason": "not subscribed"}
OLD_ONE = {"contract": "SPX C5100", "state": "old", "reason": "80 s"}
EVERY = "A row every 5 s, the last one 2 s ago."


@pytest.mark.parametrize(
    ("told", "mood", "word", "line"),
    [
        ({}, "good", "Recording all 30 positions", f"Complete. {EVERY}"),
        (
            {"breaker": "OPEN"},
            "warn",
            "Recording all 30 positions into the spool",
            f"Complete. {EVERY} The database is down: rows go into the spool.",
        ),
        (
            {"data_type": "delayed"},
            "good",
            "Recording all 30 positions",
            f"Complete. {EVERY} Market data: delayed.",
        ),
        (
            {"verdict": "partial", "priced": 17, "defects": [ONE] * 13, "because": None},
            "warn",  # although BRIDGE_READY=partial lets it pass
            "Partial: 17 of 30 positions",
            "SPX C5000, SPX C5000, SPX C5000 (refused: not subscribed) and 10 more. " + EVERY,
        ),
        (
            {"verdict": "partial", "priced": 29, "defects": [ONE, OLD_ONE], "because": "partial"},
            "warn",
            "Partial: 29 of 30 positions",
            "SPX C5000 (refused: not subscribed), SPX C5100 (old: 80 s). " + EVERY,
        ),
        (
            {"verdict": "stale", "defects": [OLD_ONE], "breaker": "OPEN"},
            "warn",
            "Stale: old data of 1 of 30 positions",
            "SPX C5100 (old: 80 s). " + f"{EVERY} The database is down: rows go into the spool.",
        ),
        ({"verdict": "stale"}, "warn", "Stale: old data", EVERY),  # before the next status
        ({"verdict": "partial"}, "warn", "Partial", EVERY),
        (
            {"verdict": "blind", "because": "no rows: cut off"},
            "bad",
            "Not recording",
            "No rows: cut off.",
        ),
        (
            {"verdict": "standby", "recorder": {"standby": True, "other": OTHER}},
            "good",
            "Standing by",
            f"{OTHER} records.",
        ),
        (
            {"recorder": {"standby": True, "other": None}},
            "good",
            "Recording all 30 positions",
            f"Complete. {EVERY} This is the standby: no other records.",
        ),
        (
            {"recorder": {"standby": False, "other": OTHER}},
            "good",
            "Recording all 30 positions",
            f"Complete. {EVERY} {OTHER} records, too.",
        ),
    ],
)
async def test_the_headline_is_the_verdict(
    browser: Browser, calm: str, told: dict[str, Any], mood: str, word: str, line: str
) -> None:
    await browser.reset()
    await browser.open(calm)
    found = await browser.import_and_do(
        "words.js",
        """
        const { verdict = "complete", priced = 30, defects = [], breaker = "CLOSED",
          because = null, data_type = "live", recorder = { standby: false, other: null } } = a[0];
        const last = { positions: 30, priced, data_type, vega: 1 };
        return m.headline({ verdict, defects, interval_s: 5, not_ready_because: because, recorder,
          ticker: { last }, storage: { breaker }, gateway: { state: "connected" } }, 2);
        """,
        told,
    )
    assert found == {"mood": mood, "word": word, "line": line}
