"""The page in a real Chromium, on a real service: what a person sees, and that it is true."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import psycopg
import pytest
import trio

from tests.support.database import count_rows, fetch, store, wait_for_rows
from tests.support.rows import snapshot
from tests.support.still import hold_still
from tests.web.browser import ARTIFACTS
from tests.web.support import (
    PATIENCE_S,
    Watched,
    record_the_quarter_before,
    watched_service,
)
from tests.web.test_contact import CLOCK, SILENCE_S, pass_in_silence
from trio_bridge.stores.reading.buckets import Window
from trio_bridge.stores.reading.gaps import MISSING
from trio_bridge.stores.reading.history import History
from trio_bridge.stores.record import record_of
from trio_bridge.web.chart import chart_json

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tests.web.browser import Browser

pytestmark = pytest.mark.xdist_group("chromium")

SERIES = ("delta", "gamma", "vega", "theta", "underlying_price")
HEADLINE = "document.querySelector('#headline').innerText"
GAPS = "return document.querySelector('#gaps-list').textContent"
TOLD_GAP = r"No rows from ([\d:]+) to ([\d:]+) UTC"
LAST_GAP = "(document.querySelector('#gaps-list li')?.textContent ?? '')"

OUTAGE_ROWS = 6

LONG_OUTAGE_ROWS = 40
"""Eight seconds of rows: a page without them would miss more than may be on their way."""

# The service's own count.
ROWS_TAKEN = r"""
    return Number(/([\d,]+) rows? since/.exec(document.querySelector('#rows').innerText)[1]
      .replaceAll(',', ''))"""

SPOKEN = "return document.querySelector('#scrub').getAttribute('aria-valuetext')"

# How many pixels of a chart have the colour of its line.
INKED = """
    const canvas = document.querySelector(`.plot[data-series="${arguments[0]}"] canvas`);
    const probe = document.createElement('canvas').getContext('2d');
    const style = getComputedStyle(document.documentElement);
    probe.fillStyle = style.getPropertyValue(`--${arguments[1] ?? arguments[0]}`);
    probe.fillRect(0, 0, 1, 1);
    const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let found = 0;
    for (let i = 0; i < data.length; i += 4) {
      found += data[i + 3] > 200 && Math.abs(data[i] - r) + Math.abs(data[i + 1] - g)
        + Math.abs(data[i + 2] - b) < 30;
    }
    return found;
"""


def shown(value: float) -> str:
    """As the page writes it: a browser rounds the digits that it would show, half away from zero
    (1.005 is a little less in binary, and becomes 1.01)."""
    decimals = 2 if abs(value) >= 1 else 4
    rounded = Decimal(repr(value)).quantize(Decimal(10) ** -decimals, ROUND_HALF_UP)
    return f"{rounded:,f}".replace("-", "−")


async def missing_slots(browser: Browser) -> int:
    """By what the page says of the coverage."""
    numbers = await browser.until(
        r"return /([\d,]+) of ([\d,]+) slots?/.exec(document.querySelector('#coverage').innerText)"
    )
    rows, slots = (int(number.replace(",", "")) for number in numbers[1:])
    return slots - rows


async def skipped_slots(url: str) -> int:
    """Those that the machine was too busy for, as the service counts them; elsewhere none."""
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        skipped = (await http.get(f"{url}api/status")).json()["ticker"]["skipped"]
    assert isinstance(skipped, int)
    return skipped


async def test_draws_what_is_recorded_and_follows_it(
    browser: Browser, here: Watched, own_postgres: PostgresServer
) -> None:
    await browser.reset()
    await wait_for_rows(own_postgres.conninfo, 4)
    await browser.open(here.url)
    await browser.drawn()
    await browser.until_text("#headline", "Recording")

    for name in SERIES:
        await browser.until(INKED.replace("return found", "return found > 20"), name)
    before = await browser.text("#rows")
    await browser.until("return document.querySelector('#rows').innerText !== arguments[0]", before)

    # What is shown as current is in the database, to the last digit that is shown.
    await hold_still(here.gateway.book, here.gateway, own_postgres.conninfo)
    (row,) = fetch(
        own_postgres.conninfo,
        "SELECT delta, gamma, vega, theta, underlying_price FROM portfolio_greeks"
        " ORDER BY id DESC LIMIT 1",
    )
    for name, value in zip(SERIES, row, strict=True):
        await browser.until(
            "return document.querySelector(arguments[0]).innerText === arguments[1]",
            f'[data-series="{name}"] .value',
            shown(value),
        )

    for part, word in (
        *(("#rows", "All 33 positions priced"), ("#gateway", "127.0.0.1")),
        *(("#database", "Takes every row"), ("#spool", "Empty")),
    ):
        await browser.until_text(part, word)
    assert await missing_slots(browser) <= await skipped_slots(here.url)
    await browser.until_text("#events", "connected to 127.0.0.1")
    assert await browser.complaints() == []
    asked = await browser.do(
        "return performance.getEntriesByType('resource').map((e) => new URL(e.name).origin)"
    )
    assert set(asked) == {here.url.rstrip("/")}
    await browser.keep_screenshot("page-light")


async def test_an_outage_is_a_gap_with_its_reason_and_no_old_value_looks_current(
    browser: Browser, here: Watched
) -> None:
    await browser.reset(scheme="dark")
    await browser.open(here.url)
    await browser.drawn()
    here.gateway.lose_upstream()
    await browser.until_text("#headline", "Not recording")
    assert await browser.text("#subline") == (
        "No rows: the gateway has lost its link to Interactive Brokers."
    )
    await browser.until_text('[data-series="delta"] .unit', "last ")
    for name in SERIES:
        assert await browser.text(f'[data-series="{name}"] .value') == "–"
    await browser.until(f"return {LAST_GAP}.includes('No rows since')")
    await browser.until_text("#gateway", "Connected, no rows")
    # What it has cost so far is counted already, live and after a reload.
    while (lived := await missing_slots(browser)) <= await skipped_slots(here.url):
        await trio.sleep(0.1)
    await browser.open(here.url)
    await browser.drawn()
    assert lived <= await missing_slots(browser)
    await browser.keep_screenshot("page-outage-dark")

    here.gateway.restore_upstream()
    await browser.until_text("#headline", "Recording")
    await browser.until(f"return {LAST_GAP}.includes('No rows from')")
    # The pointer over the gap tells the reason, live and after a reload.
    for _ in range(2):
        tip = await point_at_gap(browser)
        assert tip.startswith("No rows from")
        assert "the gateway lost its link to Interactive Brokers (1100)" in tip
        assert await browser.text('[data-series="vega"] .value') == "–"
        await browser.open(here.url)
        await browser.drawn()
    coverage = await browser.until(
        "const t = document.querySelector('#coverage').innerText; return t.includes('slots') && t"
    )
    assert not coverage.startswith("100 %")
    assert await browser.complaints() == []


async def point_at_gap(browser: Browser) -> str:
    """Move the mouse into the only gap; what the box at the cursor says."""
    await browser.do("document.querySelector('#gaps').open = true")
    for _ in range(20):
        # Gaps are hatched: the leftmost and rightmost pixel of that colour in the first chart.
        place = await browser.do("""
            const canvas = document.querySelector('.plot canvas');
            const box = canvas.getBoundingClientRect();
            const scale = canvas.width / box.width;
            const y = Math.round(canvas.height * 0.3);
            const data = canvas.getContext('2d').getImageData(0, y, canvas.width, 12).data;
            const probe = document.createElement('canvas').getContext('2d');
            probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--gap');
            probe.fillRect(0, 0, 1, 1);
            const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
            const xs = [];
            for (let i = 0; i < data.length; i += 4) {
              if (data[i + 3] > 150 && Math.abs(data[i] - r) + Math.abs(data[i + 1] - g)
                  + Math.abs(data[i + 2] - b) < 40) xs.push((i / 4) % canvas.width);
            }
            const middle = (Math.min(...xs) + Math.max(...xs)) / 2;
            return xs.length ? [box.left + middle / scale, box.top + y / scale] : null;
        """)
        if place is not None:
            await browser.point(place[0] - 1, place[1])
            await browser.point(*place)
            if told := await browser.text(".tip"):
                return told
        await trio.sleep(0.25)
    raise AssertionError("no gap is drawn")


async def test_a_database_that_is_away_leaves_no_gap(
    browser: Browser, here: Watched, own_postgres: PostgresServer
) -> None:
    await trio.to_thread.run_sync(record_the_quarter_before, own_postgres.conninfo, 0.5)
    await browser.reset()
    await browser.open(here.url)
    await browser.drawn()
    await trio.to_thread.run_sync(own_postgres.stop)
    await browser.until_text("#headline", "Recording all 33 positions into the spool")
    taken = await browser.until(ROWS_TAKEN)
    await browser.until(f"{ROWS_TAKEN} >= arguments[0]", taken + OUTAGE_ROWS)
    await browser.until_text("#database", "Down")  # but for the moments of a new attempt
    await browser.look_well("database-away")
    await browser.become()
    assert await missing_slots(browser) <= await skipped_slots(here.url)
    # After a reload the latest rows are known, though not stored yet, but not how many of all.
    await browser.choose("#zone", "utc")
    told_gaps: set[tuple[str, str]] = set()
    for _ in range(2):
        await browser.open(here.url)
        await browser.drawn()
        await browser.until(INKED.replace("return found", "return found > 20"), "delta")
        await browser.until("return !document.body.textContent.includes('No rows since')")
        told_gaps |= set(re.findall(TOLD_GAP, await browser.do(GAPS)))
        told = await browser.until_text("#coverage", "Not known for the last 15 minutes")
        assert "%" not in told
    await browser.until_text("#readout", "can't be read now")
    await browser.keep_screenshot("page-database-away-reloaded")
    await browser.do("document.querySelector('input[value=month]').click()")
    told = await browser.until_text("#coverage", "Not known for the last 30 days")
    assert "%" not in told
    await browser.do("document.querySelector('input[value=quarter]').click()")
    await trio.to_thread.run_sync(own_postgres.start)
    await browser.until_text("#database", "Takes every row")
    await browser.until(f"return {HEADLINE} === 'Recording all 33 positions'")
    assert await missing_slots(browser) <= await skipped_slots(here.url)
    assert told_gaps <= recorded_gaps(own_postgres.conninfo, 0.5)


def recorded_gaps(conninfo: str, interval_s: float) -> set[tuple[str, str]]:
    """When each begins and ends: a busy machine skips slots, and no page may hide that."""
    times = [at for (at,) in fetch(conninfo, "SELECT timestamp FROM portfolio_greeks ORDER BY 1")]
    return {
        (f"{before:%H:%M:%S}", f"{after:%H:%M:%S}")
        for before, after in pairwise(at.astimezone(UTC) for at in times)
        if after - before > timedelta(seconds=MISSING * interval_s)
    }


async def test_rows_that_still_wait_in_the_spool_leave_no_gap_on_a_new_page(
    browser: Browser, tmp_path: Path, own_postgres: PostgresServer
) -> None:
    """The database answers again, but has not got them yet."""
    await browser.reset()
    async with (
        watched_service(tmp_path, own_postgres.url, BRIDGE_FLUSH_INTERVAL=3_600) as here,
        here.client() as http,
    ):
        await here.wait_ready()
        await trio.to_thread.run_sync(own_postgres.stop)
        with trio.fail_after(PATIENCE_S):
            while (await http.get("/api/status")).json()["storage"]["spooled"] < LONG_OUTAGE_ROWS:
                await trio.sleep(0.1)
        await trio.to_thread.run_sync(own_postgres.start)
        assert (await http.get("/api/rows")).json()["spooled"] is True
        async with browser.before_each_page(f"const lateMs = 3_600_000; {LATE_STREAM}"):
            await browser.open(here.url)
            await browser.drawn()
            assert await missing_slots(browser) <= await skipped_slots(here.url)
        assert (await http.get("/api/rows")).json()["spooled"] is True


async def test_a_bridge_that_is_gone_is_said_and_found_again(
    browser: Browser, tmp_path: Path, fresh_database: str
) -> None:
    await browser.reset()
    async with (
        browser.before_each_page(CLOCK),
        watched_service(tmp_path, fresh_database) as here,
    ):
        await here.wait_ready()
        await browser.open(here.url)
        await browser.drawn()
        await browser.until_text("#headline", "Recording")
    await pass_in_silence(browser, SILENCE_S)
    await browser.until_text("#headline", "No contact with the bridge")
    assert await browser.text('[data-series="delta"] .value') == "–"
    rows = count_rows(fresh_database)
    async with watched_service(tmp_path, fresh_database, BRIDGE_STATUS_PORT=here.port):
        await wait_for_rows(fresh_database, rows + 2)
        await browser.until_text("#headline", "Recording")
        await browser.until(f"return {LAST_GAP}.includes('No rows from')")
        # It was killed: there was no last word. Rows and events are told by two answers.
        await browser.until(f"return {LAST_GAP}.includes('has started')")


async def test_a_month_is_seen_at_once_and_its_spikes_too(
    browser: Browser, here: Watched, own_postgres: PostgresServer
) -> None:
    await trio.to_thread.run_sync(record_a_month, own_postgres.conninfo)
    asked_s = await time_to_read_a_month(own_postgres.conninfo)
    await browser.reset()
    await browser.open(f"{here.url}#month")
    await browser.drawn()
    await browser.until_text("#coverage", "of the last 30 days")
    figures = await browser.do(
        "return Object.fromEntries([...performance.getEntriesByType('paint'),"
        "...performance.getEntriesByType('mark')].map((e) => [e.name, Math.round(e.startTime)]))"
    )
    # On an idle machine 0.1 s, and 0.35 s, of which the database takes 0.2 s: to read it twice is
    # the measure of how busy the machine is.
    asked_s += await time_to_read_a_month(own_postgres.conninfo)
    ARTIFACTS.mkdir(exist_ok=True)
    told = f"{figures}, read twice within {asked_s * 1000:.0f} ms\n"
    (ARTIFACTS / "page-month-ms.txt").write_text(told)
    assert figures["first-contentful-paint"] < 3_000
    assert figures["trio-bridge-drawn"] < 20_000 * asked_s
    label = await browser.do(
        "return document.querySelector('[data-series=delta] .canvas').ariaLabel"
    )
    assert "highest 9,999.00" in label
    gaps = await browser.text("#gaps-summary")
    assert int(gaps.split()[0]) >= 29
    await browser.keep_screenshot("page-month")
    for choice in ("day", "quarter"):
        await browser.do(f"document.querySelector('input[value={choice}]').click()")
        await browser.until_text("#coverage", {"day": "24 hours", "quarter": "15 min"}[choice])
        assert await browser.do("return location.hash") == f"#{choice}"
    assert await browser.complaints() == []


async def time_to_read_a_month(conninfo: str) -> float:
    history = History(conninfo)
    await history.events(1)  # connected
    now = datetime.now(UTC)
    began_s = trio.current_time()
    await history.chart(Window(now - timedelta(days=30), now, 3_000, 5))
    history.close()
    return trio.current_time() - began_s


def record_a_month(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(MONTH)
        connection.execute(NIGHTS)
        connection.execute("ANALYZE portfolio_greeks")


MONTH = """
    INSERT INTO portfolio_greeks
        (timestamp, delta, gamma, vega, theta, underlying_price, positions, priced)
    SELECT at, CASE n WHEN 300000 THEN 9999 ELSE 3500 + 400 * sin(n / 3e4) + 9 * random() END,
           11 + 2 * sin(n / 5e4), 1200 - 300 * cos(n / 9e4), -12700 + 300 * sin(n / 7e3),
           5290 + 200 * sin(n / 2e5), 33, 33
    FROM (SELECT n, date_bin('5 s', now(), 'epoch') - n * interval '5 s' AS at
          FROM generate_series(12, 518400) AS n) AS slot
    WHERE n % 17280 NOT BETWEEN 4000 AND 4290
"""
NIGHTS = """
    INSERT INTO api_logs (timestamp, api_mode, message, status, event_id)
    SELECT now() - (17280 * night + 4289) * interval '5 s', 'SOCKET',
           'holding until 00:05 ET: reset window', 'info', gen_random_uuid()
    FROM generate_series(0, 29) AS night
"""


async def test_everybody_can_read_it(
    browser: Browser, here: Watched, own_postgres: PostgresServer
) -> None:
    """Contrast, labels, order of headings and more, as axe sees them; in good times and bad."""
    await trio.to_thread.run_sync(record_the_quarter_before, own_postgres.conninfo, 0.5)
    await browser.reset()
    await browser.open(here.url)
    await browser.drawn()
    for verdict in ("Not recording", "Recording"):
        if verdict == "Not recording":
            here.gateway.lose_upstream()
        else:
            here.gateway.restore_upstream()
        await browser.until_text("#headline", verdict)
        says_no_rows = "no rows" in await browser.text("#gateway")
        assert says_no_rows is (verdict == "Not recording")
        await browser.until("return !document.querySelector('#gaps').hidden")
        await browser.do("document.querySelector('#gaps').open = true")
        await browser.look_well(verdict.lower().replace(" ", "-"))


async def test_in_forced_colours_the_lamp_and_the_choice_are_seen(
    browser: Browser, calm: str
) -> None:
    """As in Windows' high contrast, which takes away backgrounds."""
    await browser.reset()
    await browser.open(calm)
    await browser.drawn()
    for scheme in ("light", "dark"):
        await browser.become(forced=True, scheme=scheme)
        assert await browser.do("return matchMedia('(forced-colors: active)').matches")
        for mood in ("good", "warn", "bad", "unknown"):
            await browser.do("document.querySelector('#verdict').dataset.mood = arguments[0]", mood)
            lamp, page = await colours_of(browser, ".lamp", "body")
            assert lamp != page, (scheme, mood)
        await browser.until_text("#headline", "Recording")
        chosen, other = await colours_of(
            browser, "input[value=quarter] + span", "input[value=day] + span"
        )
        assert chosen != other
        for name in SERIES:
            await browser.until(INKED.replace("return found", "return found > 20"), name)


async def colours_of(browser: Browser, *selectors: str) -> list[set[str]]:
    """What each is mostly made of in a picture of the page."""
    boxes = await browser.do(
        "return [...arguments].map((one) => {"
        " const box = document.querySelector(one).getBoundingClientRect();"
        " return [box.left, box.top, Math.min(box.width, 40), Math.min(box.height, 40)] })",
        *selectors,
    )
    return [await browser.colours(*box) for box in boxes]


async def test_everything_fits_one_screen_on_a_desk(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    await browser.drawn()
    for width, height in ((1440, 900), (1280, 720), (1920, 1080)):
        await browser.become(width, height)
        size = await browser.do(
            "const e = document.documentElement; return [e.scrollWidth, e.scrollHeight]"
        )
        assert size == [width, height]
        heights = await browser.do(
            "return [...document.querySelectorAll('.u-over')].map((e) => e.clientHeight)"
        )
        assert min(heights) > 40


async def test_the_keyboard_reaches_and_reads_everything(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    await browser.drawn()
    await browser.until("return Number(document.querySelector('#scrub').max) >= 3")
    reached = []
    for _ in range(5):
        await browser.press("Tab")
        reached.append(
            await browser.do("return document.activeElement.id || document.activeElement.value")
        )
        if reached[-1] == "scrub":
            await browser.press("Home")
            first = await browser.do(SPOKEN)
            await browser.press("ArrowRight")
            second = await browser.do(SPOKEN)
            assert "delta" in first
            assert "theta" in first
            assert first != second
            assert await browser.text("#readout")
    assert reached[:3] == ["quarter", "zone", "scrub"]
    assert "events" in reached


async def test_a_phone_whose_clock_is_wrong_shows_the_bridges_time(
    browser: Browser, calm: str
) -> None:
    await browser.reset()
    async with browser.before_each_page("const real = Date.now; Date.now = () => real() - 600000;"):
        await browser.open(calm)
        await browser.drawn()
        await browser.until_text("#headline", "Recording")
        await browser.until_text('[data-series="delta"] .value', ",")
        await browser.until(
            "const t = document.querySelector('#subline').innerText; return / [0-3] s ago/.test(t)"
        )
        assert await missing_slots(browser) <= await skipped_slots(calm)


async def test_rows_that_come_between_history_and_stream_are_not_missed(
    browser: Browser, here: Watched
) -> None:
    """As on a slow network: the stream begins when some rows have come since the history."""
    await browser.reset()
    async with browser.before_each_page(f"const lateMs = 4000; {LATE_STREAM}"):
        await browser.open(here.url)
        await browser.drawn()
        covered = await browser.text("#coverage")
        await browser.until_text("#headline", "Recording")
        await browser.until(
            "return document.querySelector('#coverage').innerText !== arguments[0]", covered
        )
        assert await missing_slots(browser) <= await skipped_slots(here.url)


# Passes on what the real one is told.
LATE_STREAM = """
    const Real = window.EventSource;
    window.EventSource = class extends EventTarget {
      constructor(url) {
        super();
        setTimeout(() => {
          const real = new Real(url);
          real.onopen = () => this.onopen();
          real.onerror = () => this.onerror();
          for (const kind of ["status", "recent", "row", "event"]) {
            real.addEventListener(kind, ({ data }) => {
              this.dispatchEvent(new MessageEvent(kind, { data }));
            });
          }
        }, lateMs);
      }
      close() {}
    };
"""


async def test_an_event_that_comes_while_the_latest_are_asked_for_stays(
    browser: Browser, here: Watched
) -> None:
    await browser.reset()
    async with browser.before_each_page(LATE_EVENTS):
        await browser.open(here.url)
        await browser.until_text("#headline", "Recording")
        here.gateway.lose_upstream()
        await browser.until_text("#events", "no rows: ")
        await browser.until_text("#events", "connected to 127.0.0.1")
        told = await browser.text("#events")
        assert told.count("no rows: ") == 1


LATE_EVENTS = """
    const real = window.fetch;
    window.fetch = async (url, options) => {
      const answer = await real(url, options);
      if (url.startsWith("/api/events")) await new Promise((done) => setTimeout(done, 4000));
      return answer;
    };
"""


async def test_what_is_missing_is_the_same_live_and_after_a_reload(
    browser: Browser, calm: str, fresh_database: str
) -> None:
    """Every half second of an outage, as a page that watches it counts, a new one, and the server;
    then as it has ended."""
    began = datetime(2026, 1, 2, 14, tzinfo=UTC)
    taken = [0, 5.02, 10.4, 15.1]  # seconds; one of them late
    back = 62.3
    rows = [snapshot(n, began + timedelta(seconds=at)) for n, at in enumerate([*taken, back])]
    await store(fresh_database, rows[:-1])
    history = History(fresh_database)

    async def ask(seconds: float) -> Any:
        now = began + timedelta(seconds=seconds)
        return chart_json(await history.chart(Window(began, now, 5, 5, now)))

    await browser.reset()
    await browser.open(calm)
    watched = await ask(15.2)
    nows = [15.5 + 0.5 * n for n in range(93)]
    counts = await browser.import_and_do(
        "rows.js",
        """
        const live = new m.Rows(a[0], []);
        const missing = ({ rows, slots }) => slots - rows;
        const counts = a[1].map(([now, told]) => [missing(live.coverageUntil(now)),
          missing(new m.Rows(told, []).coverageUntil(now)), missing(told.coverage)]);
        live.add(a[2]);
        counts.push(missing(live.coverageUntil(a[3])));
        return counts;
        """,
        watched,
        [[began.timestamp() + now, await ask(now)] for now in nows],
        orjson.loads(record_of(rows[-1]).row),
        began.timestamp() + back,
    )
    *during, after = counts
    await store(fresh_database, rows[-1:])
    ended = (await ask(back + 0.1))["coverage"]
    history.close()

    assert all(len(set(three)) == 1 for three in during), during
    grown = [count for count, *_ in during]
    assert grown == sorted(grown)
    assert grown[0] == 0
    assert grown[-1] <= after == 8 == ended["slots"] - ended["rows"]


async def test_numbers_are_not_rounded_to_something_else(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    found = await browser.import_and_do(
        "format.js",
        "return [...a[0].map(m.number), ...a[1].map((all) => m.percent(...all))];",
        [12_345.67, 5_295.6, -0.0, 0.25, 0, 0.00003, -0.000045],
        [[57, 100], [2, 3], [99_999, 100_000], [5, 5]],
    )
    numbers = ["12,345.67", "5,295.60", "0", "0.2500", "0", "0.00003", "−0.000045"]
    assert found == [*numbers, "57.00 %", "66.66 %", "99.99 %", "100 %"]


async def test_a_coarse_gamma_shows_by_how_much_it_may_be_wrong(
    browser: Browser, calm: str
) -> None:
    """PORTAL mode gets rounded texts; this service does not: its status is changed on the way."""
    coarse = """
        const parse = JSON.parse;
        JSON.parse = (...all) => {
            const found = parse(...all);
            const row = found?.ticker?.last;
            if (row) row.gamma_error = Math.abs(row.gamma) * SHARE;
            return found;
        };
    """
    value = "return document.querySelector('[data-series=gamma] .value').innerText"
    for share, shown in ((0.2, "true"), (0.005, "false")):
        await browser.reset()
        async with browser.before_each_page(coarse.replace("SHARE", str(share))):
            await browser.open(calm)
            await browser.drawn()
            await browser.until(f"{value} !== '–'")
            await browser.until(f"{value}.includes('±') === {shown}")
    assert await browser.complaints() == []


async def test_a_gap_counts_once_while_it_lasts_and_when_it_has_ended(
    browser: Browser, calm: str
) -> None:
    """One row, nothing for 65 s, and the next: that is 2 of 14 slots. At 60 s the row of the last
    slot may be on its way, and that of the one before may have been late."""
    await browser.reset()
    await browser.open(calm)
    found = await browser.import_and_do(
        "rows.js",
        """
        const gap = { from: 100, to: 150, open: true, slots: 8, reasons: [] };
        const series = Object.fromEntries(m.SERIES.map((name) => [name, { last: [1] }]));
        const coverage = { since: 100, rows: 1, slots: 9 };
        const grid = { from: 0, interval_s: 5, bucket_s: 5 };
        const told = { ...grid, t: [100], verdict: ["complete"], gaps: [gap], series, coverage };
        const rows = new m.Rows(told, []);
        const during = rows.coverageUntil(160);
        rows.add({ timestamp: new Date(165000).toISOString(), delta: 1 });
        const after = rows.coverageUntil(166);
        return [during.rows, during.slots, after.rows, after.slots];
        """,
    )
    assert found == [1, 11, 2, 14]


async def test_an_event_explains_a_gap_also_when_it_is_told_after_the_row_that_ended_it(
    browser: Browser, calm: str
) -> None:
    """The rows of a stream that begins anew come before the events that are asked for then."""
    await browser.reset()
    await browser.open(calm)
    found = await browser.import_and_do(
        "rows.js",
        """
        const series = Object.fromEntries(m.SERIES.map((name) => [name, { last: [1] }]));
        const coverage = { since: 100, rows: 1, slots: 1 };
        const grid = { from: 0, interval_s: 5, bucket_s: 5 };
        const events = [];
        const told = { t: [100], verdict: ["complete"], gaps: [] };
        const rows = new m.Rows({ ...grid, ...told, series, coverage }, events);
        rows.add({ timestamp: new Date(165000).toISOString(), delta: 1 });
        const before = rows.gapsUntil(166)[0].reasons.length;
        const timestamp = new Date(164000).toISOString();
        events.push({ timestamp, message: "no reason", kind: "gateway.connected" });
        events.push({ timestamp, message: "it has started", kind: "service.started" });
        return [before, rows.gapsUntil(166)[0].reasons.map((event) => event.message)];
        """,
    )
    assert found == [0, ["it has started"]]


async def test_the_cause_of_a_gap_comes_before_what_else_happened_live_too(
    browser: Browser, calm: str
) -> None:
    await browser.reset()
    await browser.open(calm)
    found = await browser.import_and_do(
        "rows.js",
        """
        const series = Object.fromEntries(m.SERIES.map((name) => [name, { last: [1] }]));
        const said = (message, second, kind) =>
          ({ message, kind, timestamp: new Date(1000 * second).toISOString() });
        const remarks = [0, 1, 2, 3].map((n) => said(`remark ${n}`, 101 + n, "gateway.remark"));
        const gap = { from: 100, to: 150, open: true, slots: 8, reasons: remarks.slice(0, 3) };
        const coverage = { since: 100, rows: 1, slots: 9 };
        const grid = { from: 0, interval_s: 5, bucket_s: 5 };
        const events = [...remarks, said("no rows: cut off", 140, "rows.missed")];
        const told = { t: [100], verdict: ["complete"], gaps: [gap], series, coverage };
        const rows = new m.Rows({ ...grid, ...told }, events);
        const during = rows.gapsUntil(160)[0].reasons;
        rows.add({ timestamp: new Date(165000).toISOString(), delta: 1 });
        const after = rows.gapsUntil(166)[0].reasons;
        return [during, after].map((reasons) => reasons.map((event) => event.message));
        """,
    )
    assert found == [["no rows: cut off", "remark 0", "remark 1"]] * 2


async def test_the_coverage_is_said_in_percent_and_slots(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    for complete, more in ((9, ""), (7, ", 7 of them complete"), (0, ", 0 of them complete")):
        text = await browser.import_and_do(
            "words.js",
            "return m.coverage({ rows: 9, complete: a[0], slots: 10, since: 0 }, 'a day', 0)",
            complete,
        )
        assert text == f"90.00 % of a day: 9 of 10 slots{more}."


async def test_what_there_is_one_of_or_none_is_told_so(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    for positions, priced, verdict, told in (
        (3, 3, "complete", "All 3 positions priced"),
        (3, 1, "partial", "Partial: 1 of 3 positions"),
        (3, 3, "stale", "Stale: old data of 1 of 3 positions"),
        (1, 1, "stale", "Stale: old data of 1 of 1 position"),
        (1, 1, "complete", "1 of 1 position priced"),
        (0, 0, "complete", "No positions held"),
        (1, 1, "blind", "1 of 1 position was priced. 1 row since the start."),
        (2, 1, "blind", "1 of 2 positions were priced. 1 row since the start."),
    ):
        word, detail = await browser.import_and_do(
            "words.js",
            """
            const last = { timestamp: "2026-01-02T14:00:05Z", positions: a[0], priced: a[1] };
            const ticker = { last, rows: 1, skipped: 1 };
            const { word, detail } = m.rows({ ticker, verdict: a[2], defects: [{}] });
            return [word, detail];
            """,
            *(positions, priced, verdict),
        )
        assert told in (word, detail)
    text = await browser.import_and_do(
        "words.js", "return m.coverage({ rows: 1, complete: 1, slots: 1, since: 0 }, 'a day', 0, 5)"
    )
    assert text == "100 % of a day: 1 of 1 slot."


async def test_a_gap_says_each_reason_once(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    event = {"timestamp": "2026-01-02T14:00:05Z", "message": "no rows: cut off"}
    for reasons, because, told in (
        ([event], "no rows: cut off", ["no rows: cut off"]),
        ([event], "no rows: silent", ["no rows: cut off", "No rows: silent."]),
        ([], "no rows: cut off", ["No rows: cut off."]),
        (
            [],
            "",
            ["No event gives a reason: the service was not running, or the machine was busy."],
        ),
    ):
        lines = await browser.import_and_do(
            "words.js",
            "return m.gap({ from: 0, open: true, reasons: a[0] }, 9, a[1], false).lines",
            *(reasons, because),
        )
        assert [re.sub(r"^[\d:]+ ", "", line) for line in lines] == told


async def test_nothing_foreign_runs_on_the_page(browser: Browser, calm: str) -> None:
    await browser.reset()
    await browser.open(calm)
    await browser.drawn()
    await browser.do("""
        const script = document.createElement('script');
        try { script.text = 'window.intruder = 1'; document.body.append(script); } catch {}
        const image = document.createElement('img');
        image.src = 'https://evil.invalid/x.png';
        document.body.append(image);
        const style = document.createElement('style');
        style.textContent = 'body { background: rgb(1, 2, 3) }';
        document.head.append(style);
    """)
    assert await browser.do("return window.intruder") is None
    background = await browser.do("return getComputedStyle(document.body).backgroundColor")
    assert background != "rgb(1, 2, 3)"
    complaints = " ".join(await browser.complaints())
    assert "violates the following Content Security Policy" in complaints


async def test_pages_that_nobody_looks_at_hold_no_connection(browser: Browser, calm: str) -> None:
    """A browser has six for one server: with a seventh page in its history it would hang."""
    await browser.reset()
    with trio.fail_after(PATIENCE_S):
        for number in range(9):
            await browser.open(f"{calm}?{number}")
            await browser.drawn()
    async with httpx.AsyncClient(trust_env=False) as http:
        metrics = (await http.get(f"{calm}metrics")).text
    assert "trio_bridge_http_event_streams 1.0" in metrics


async def test_the_token_is_asked_for_once(
    browser: Browser, tmp_path: Path, fresh_database: str
) -> None:
    token = "a-token-that-nobody-guesses"
    await browser.reset()
    async with watched_service(tmp_path, fresh_database, BRIDGE_STATUS_TOKEN=token) as here:
        await here.wait_ready(authorization=f"Bearer {token}")
        await browser.open(here.url)
        assert await browser.violations() == []
        left, right = await browser.do(
            "const box = document.querySelector('form').getBoundingClientRect();"
            "return [box.left, innerWidth - box.right]"
        )
        assert abs(left - right) <= 1
        await browser.keep_screenshot("page-token")
        for attempt in ("wrong", token):
            await browser.do(
                "const field = document.querySelector('#token'); field.value = arguments[0];"
                "field.form.requestSubmit()",
                attempt,
            )
            if attempt == "wrong":
                await browser.until("return location.pathname === '/login'")
        await browser.drawn()
        await browser.until_text("#headline", "Recording")
        assert await browser.do("return location.pathname + location.search") == "/"
        assert await browser.do("return document.cookie") == ""

        await browser.reset()
        await browser.open(f"{here.url}?token={token}")
        await browser.drawn()
        assert await browser.do("return location.href") == f"{here.url}#quarter"


async def test_first_paint_does_not_wait_for_the_history(
    browser: Browser, here: Watched, own_postgres: PostgresServer
) -> None:
    await browser.reset()
    await trio.to_thread.run_sync(own_postgres.freeze)
    try:
        began = time.monotonic()
        await browser.open(here.url)
        await browser.until_text("#headline", "Recording")
        assert time.monotonic() - began < PATIENCE_S
    finally:
        await trio.to_thread.run_sync(own_postgres.thaw)
