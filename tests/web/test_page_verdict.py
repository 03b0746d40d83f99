"""The page says the verdict: in the headline, beside the numbers, in the strokes, in a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.web.browser import LOOKS

if TYPE_CHECKING:
    from tests.web.browser import Browser
    from tests.web.support import Watched

pytestmark = pytest.mark.xdist_group("chromium")


async def verdict_of(browser: Browser, status: dict[str, Any]) -> tuple[str, str, str]:
    found = await browser.import_and_do(
        "words.js",
        "const { mood, word, line } = m.verdict(a[0], 1); return [mood, word, line]",
        status,
    )
    mood, word, line = found
    return mood, word, line


def a_status(verdict: str, defects: int = 0, **more: Any) -> dict[str, Any]:
    one = {"contract": "SPX 260116C05000000", "state": "refused", "reason": "not subscribed"}
    return {
        "verdict": verdict,
        "defects": [one] * defects,
        "interval_s": 5,
        "storage": {"breaker": "CLOSED"},
        "recorder": {"standby": False, "other": None},
        "gateway": {"state": "connected"},
        "ticker": {"last": {"priced": 17, "positions": 30}},
        "not_ready_because": None,
        **more,
    }


async def test_the_headline_is_the_verdict(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)

    assert (await verdict_of(browser, a_status("complete")))[:2] == ("good", "Recording")
    mood, word, line = await verdict_of(browser, a_status("partial", 13))
    assert (mood, word) == ("warn", "Partial: 17 of 30 positions")
    assert line.startswith("SPX 260116C05000000 (refused: not subscribed), SPX")
    assert " and 10 more. A row every 5 s" in line
    assert (await verdict_of(browser, a_status("stale", 1)))[:2] == (
        "warn",
        "Stale: old data in the sums",
    )
    blind = a_status("blind", not_ready_because="no rows: cut off")
    assert await verdict_of(browser, blind) == ("bad", "Not recording", "No rows: cut off.")


async def test_the_headline_says_who_records(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    other = "nas:12-ab34"
    resting = a_status("standby", recorder={"standby": True, "other": other})
    assert await verdict_of(browser, resting) == ("good", "Standing by", f"{other} records.")
    awake = a_status("complete", recorder={"standby": True, "other": None})
    mood, word, line = await verdict_of(browser, awake)
    assert (mood, word) == ("good", "Recording")
    assert line.endswith(" This is the standby: no other records.")
    two = a_status("complete", recorder={"standby": False, "other": other})
    assert (await verdict_of(browser, two))[2].endswith(f" {other} records, too.")


async def test_a_row_is_as_good_as_it_says_whatever_the_user_lets_pass(
    browser: Browser, calm: str
) -> None:
    """BRIDGE_READY=partial makes the service ready, not the row complete."""
    await browser.reset()
    await browser.open(calm)

    assert (await verdict_of(browser, a_status("partial", 1)))[0] == "warn"


async def test_strokes_are_as_good_as_the_worse_of_their_ends(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    found = await browser.import_and_do(
        "rows.js",
        """
        const t = [0, 5, 10, 15, 20];
        const verdict = ["complete", "complete", "partial", "stale", "stale"];
        const series = Object.fromEntries(m.SERIES.map((one) => [one, { last: [1, 2, 3, 4, 5] }]));
        const coverage = { since: 0, rows: 5, slots: 5 };
        const grid = { from: 0, interval_s: 5, bucket_s: 5 };
        const rows = new m.Rows({ ...grid, t, verdict, gaps: [], series, coverage }, []);
        const at = (second) => new Date(1000 * second).toISOString();
        rows.add({ timestamp: at(25), delta: 6, verdict: "complete" });
        rows.add({ timestamp: at(30), delta: 7, priced: 1, positions: 2 });
        return rows.columns("delta").slice(4);
        """,
    )
    complete, stale, partial = found
    assert complete == [1, 2, None, None, None, None, None]
    assert stale == [None, None, None, 4, 5, 6, None]
    assert partial == [None, 2, 3, 4, None, 6, 7]


async def test_the_worst_row_of_a_bucket_decides(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    found = await browser.import_and_do(
        "rows.js",
        """
        const series = Object.fromEntries(m.SERIES.map((one) => [one, { last: [] }]));
        const grid = { from: 0, interval_s: 5, bucket_s: 60 };
        const none = { t: [], verdict: [], gaps: [], coverage: null };
        const rows = new m.Rows({ ...grid, ...none, series }, []);
        const at = (second) => new Date(1000 * second).toISOString();
        for (const [second, verdict] of [[5, "stale"], [10, "complete"], [65, "complete"]]) {
          rows.add({ timestamp: at(second), delta: 1, verdict });
        }
        return rows.verdict;
        """,
    )
    assert found == ["stale", "complete"]


async def test_positions_left_out_are_seen_from_everywhere(browser: Browser, here: Watched) -> None:
    await browser.reset()
    await browser.open(here.url)
    await browser.drawn()
    await browser.until_text("#headline", "Recording")
    assert await browser.do("return document.querySelector('#defects').hidden")
    options = [one for one in here.gateway.book.positions() if one.contract.is_option]
    for held in options[:2]:
        here.gateway.book.market.override(held.contract.con_id, delta=-2.0)

    await browser.until_text("#headline", "Partial")
    await browser.until("return document.querySelectorAll('#defects-list li').length >= 2")
    await browser.until(
        "return document.querySelector('.plot .value').dataset.verdict === 'partial'"
    )
    assert (await browser.do("return document.title")).startswith("Partial")
    for name, look in LOOKS.items():
        await browser.become(**look)
        assert await browser.violations() == [], name
        width = await browser.do("return [document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]
        await browser.keep_screenshot(f"page-{name}-partial")
