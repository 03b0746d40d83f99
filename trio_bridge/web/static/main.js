// Puts the page together: which time is shown, and what is redrawn when something comes.

import { Charts } from "./charts.js";
import { Contact } from "./contact.js";
import { identity } from "./events.js";
import { facts } from "./facts.js";
import { time } from "./format.js";
import { fetchEvents, fetchRecent, fetchRows, Live } from "./live.js";
import { showContact, showCoverage, showEvents, showReadout, showState, showVerdict, Tip } from "./panel.js";
import { Rows, unread, verdictOf } from "./rows.js";
import * as words from "./words.js";
import * as zone from "./zone.js";

const RANGES = {
  quarter: { span: 900, words: "the last 15 minutes", again: 60 },
  day: { span: 86_400, words: "the last 24 hours", again: 300 },
  month: { span: 30 * 86_400, words: "the last 30 days", again: 1_800 },
};
const EVENTS_KEPT = 300;
const TICK_MS = 1_000;
const RETRY_S = 5;
const INATTENTION_MS = 20_000;
const CLOCK_ERROR_S = 1.5; // A phone's clock may be minutes off: the bridge's counts.

/** The bridge's time, in seconds. */
const now = () => Date.now() / 1000 + page.skew;

const page = {
  range: RANGES[location.hash.slice(1)] ? location.hash.slice(1) : "quarter",
  rows: null,
  shown: null, // the range that `rows` is of: not the chosen one until its rows have come
  gaps: [],
  recent: [], // rows streamed since the question that `rows` answers: it may lack them
  events: [],
  streamed: [], // events that came since the latest ones were asked for
  status: null,
  trouble: "", // why there is no history
  fetchAt: 0,
  asked: 0, // the number of the latest question: a late answer to an earlier one is not wanted
  safeAt: null, // when the last row became safe
  pointed: null,
  dirty: false,
  skew: 0, // what our clock lacks
};

const contact = new Contact();

const underWay = ask(); // The database works while the charts are built.

const charts = new Charts(
  document.getElementById("plots"),
  [now() - RANGES[page.range].span, now()],
  (point) => {
    page.pointed = point;
    showPoint();
  },
);
const tip = new Tip(document.querySelector(".charts"));
const scrub = document.getElementById("scrub");

/** Ask for the rows of the time shown. */
function ask() {
  const end = now();
  const points = Math.max(200, Math.min(900, Math.round(innerWidth * 0.7)));
  page.recent = [];
  const answer = fetchRows(end - RANGES[page.range].span, end, points);
  answer.catch(() => {}); // the code that awaits it handles its failure
  return answer;
}

async function load(answer = ask()) {
  const asked = ++page.asked;
  const { range } = page;
  page.fetchAt = now() + RANGES[range].again;
  let found = null;
  let trouble = "";
  try {
    found = await answer;
  } catch (error) {
    trouble = `The history can't be read now: ${error.message}`;
    page.fetchAt = now() + RETRY_S;
  }
  const waiting = trouble || found.spooled ? await recentOrNone() : [];
  if (asked !== page.asked) return;
  page.trouble = trouble;
  if (page.shown !== range) found ??= unread(page.status?.interval_s ?? facts.interval_s, now() - RANGES[range].span);
  if (found !== null) {
    page.rows = new Rows(found, page.events);
    page.shown = range;
  }
  for (const row of [...waiting, ...page.recent]) page.rows?.add(row);
  if (page.rows?.last) page.safeAt ??= page.rows.last;
  page.dirty = true;
  render();
  performance.mark("trio-bridge-drawn");
}

async function recentOrNone() {
  try {
    return await fetchRecent();
  } catch {
    return [];
  }
}

function render() {
  if (!page.dirty || !page.rows || document.hidden) {
    if (page.trouble) showReadout(page.trouble);
    return;
  }
  page.dirty = false;
  const { span, words: name } = RANGES[page.shown];
  const end = Math.max(now(), page.rows.last ?? 0);
  page.rows.trim(end - span);
  const known = contact.knownUntil(end);
  const gaps = page.rows.gapsUntil(known);
  if (contact.state === "there" && gaps.at(-1)?.open) gaps.at(-1).to = end;
  page.gaps = contact.state === "lost" ? [...gaps, blindness(end)] : gaps;
  charts.draw(page.rows, page.gaps, end - span, end, isLive() ? page.status.verdict : "blind");
  scrub.max = Math.max(0, page.rows.t.length - 1);
  if (document.activeElement !== scrub) scrub.value = scrub.max;
  scrub.disabled = page.rows.t.length === 0;
  showCoverage(page.rows.coverageUntil(known), name, end - span, gaps.map(explain));
  if (page.pointed) showPoint();
  else restReadout();
}

/** Whether the last row is current: none has been missed since, and the bridge is heard. */
function isLive() {
  const late = facts.intervals_allowed * page.rows.interval + facts.in_the_dark_s;
  const current = now() - (page.rows.last ?? 0) <= late;
  return current && contact.state === "there" && page.status !== null && page.status.verdict !== "blind";
}

/** The time since the last message, as a gap. */
function blindness(end) {
  return { from: contact.at ?? page.rows.start, to: end, open: true, blind: true, reasons: [] };
}

/** A gap in words. Behind the database's last row, rows may still be in the spool. */
function explain(gap) {
  const spooled = page.status?.storage.spool_bytes > 0 && gap.from === page.rows.storedTo;
  const silence = page.status?.verdict === "blind" ? page.status.not_ready_because : "";
  return words.gap(gap, now(), silence, spooled);
}

function restReadout() {
  if (page.trouble) showReadout(page.trouble);
  else if (!page.rows) showReadout("");
  else if (!page.rows.t.length) showReadout(`No rows in ${RANGES[page.shown].words}.`);
  else {
    const age = isLive() ? "" : words.lastRow(page.rows.last, now());
    showReadout(`${age} ${words.legend(page.rows.verdict)}`.trim());
  }
}

function showPoint() {
  if (!page.rows) return;
  if (!page.pointed) {
    tip.show(null);
    charts.showValues(null);
    restReadout();
    return;
  }
  const { at, left } = page.pointed;
  const gap = charts.gapAt(left);
  tip.show(gap ? explain(gap) : null, left + plotsLeft());
  const i = nearest(page.rows.t, at);
  if (i === null || (gap && at > gap.from && at < gap.to)) {
    charts.showValues(-1);
    showReadout(time(at));
    return;
  }
  charts.showValues(i);
  const nameless = page.rows.series.delta.last[i] === null ? ": not one option was priced" : "";
  const told = `${time(page.rows.t[i])}${words.doubt(page.rows.verdict[i], page.rows.isThinned)}${nameless}`;
  showReadout(told);
  scrub.value = i;
  scrub.setAttribute("aria-valuetext", `${told}: ${spoken(i)}`);
}

function spoken(i) {
  return Object.entries(page.rows.series)
    .map(([name, { last }]) => `${name.replace("_", " ")} ${last[i] === null ? "unknown" : last[i].toPrecision(6)}`)
    .join(", ");
}

function plotsLeft() {
  const over = document.querySelector(".u-over").getBoundingClientRect();
  return over.left - document.querySelector(".charts").getBoundingClientRect().left;
}

function nearest(times, at) {
  if (!times.length) return null;
  let low = 0;
  let high = times.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (times[middle] <= at) low = middle;
    else high = middle;
  }
  return at - times[low] <= times[high] - at ? low : high;
}

function showNow() {
  const { state, at } = contact;
  showContact(state, at);
  switch (state) {
    case "lost":
      return showVerdict(words.blind(at, now()));
    case "sought":
      return showVerdict(words.waiting(at, now()));
    default:
      if (page.status === null) return; // the first message is the status
      showVerdict(words.headline(page.status, page.safeAt === null ? null : Math.max(0, now() - page.safeAt)));
  }
}

function tick() {
  showNow();
  if (document.hidden) return;
  if (now() >= page.fetchAt) load();
  page.dirty ||= page.rows !== null && (!isLive() || now() - page.rows.last > 2 * page.rows.interval);
  render();
}

function chooseRange(range) {
  page.range = range;
  page.pointed = null;
  showRange();
  load();
}

function showRange() {
  history.replaceState(null, "", `#${page.range}`);
  document.querySelector(`#ranges input[value="${page.range}"]`).checked = true;
}

document.getElementById("ranges").addEventListener("change", (event) => chooseRange(event.target.value));
addEventListener("hashchange", () => {
  const wanted = location.hash.slice(1);
  if (RANGES[wanted] && wanted !== page.range) chooseRange(wanted);
});
const zones = document.getElementById("zone");
zones.replaceChildren(...Object.entries(zone.ZONES).map(([name, { title }]) => new Option(title, name)));
zones.value = zone.chosen();
zones.addEventListener("change", () => {
  zone.choose(zones.value);
  if (page.status) showState(page.status);
  showNow();
  showEvents(page.events);
  page.dirty = true;
  render();
});
scrub.addEventListener("input", () => charts.pointAt(page.rows.t[Number(scrub.value)]));
scrub.addEventListener("blur", () => {
  page.pointed = null;
  showPoint();
});
const live = new Live({
  status(status) {
    page.status = status;
    charts.errors = { gamma: status.ticker.last?.gamma_error };
    const skew = Date.parse(status.at) / 1000 - Date.now() / 1000;
    if (Math.abs(skew - page.skew) > CLOCK_ERROR_S) {
      page.skew = skew;
      load();
    }
    contact.hear(now());
    showState(status);
    showNow();
  },
  recent(rows) {
    addRows(rows);
  },
  row(row) {
    contact.hear(now());
    page.safeAt = now();
    if (page.status) showState(page.status = withRow(page.status, row));
    addRows([row]);
    showNow();
  },
  event(event) {
    contact.hear(now());
    page.streamed.push(event);
    remember([event]);
  },
  opened(again) {
    if (again) load(); // the history has what we missed
    showLatest();
  },
});

/** The status as a newer row makes it; that of the bridge follows within seconds. */
function withRow(status, row) {
  const { ticker, verdict: before } = status;
  if (Date.parse(row.timestamp) < Date.parse(ticker.last?.timestamp)) return status;
  const verdict = verdictOf(row);
  const defects = verdict === before ? status.defects : [];
  return { ...status, verdict, defects, ticker: { ...ticker, last: row, silent_because: null } };
}

function addRows(rows) {
  for (const row of rows) page.rows?.add(row);
  page.recent.push(...rows);
  page.dirty = true;
  requestAnimationFrame(render);
}

/** Events explain the gaps that open while we look. */
function remember(events) {
  page.events.push(...events);
  page.events.splice(0, page.events.length - EVENTS_KEPT);
  showEvents(page.events);
  page.dirty = true;
  requestAnimationFrame(render);
}

async function showLatest() {
  page.streamed = [];
  try {
    const { events } = await fetchEvents(EVENTS_KEPT);
    const known = new Set(events.map(identity));
    events.push(...page.streamed.filter((event) => !known.has(identity(event))));
    page.events.length = 0;
    remember(events);
  } catch {
    // The next stream asks again; until then events come live.
  }
}

/** Listen while the page is visible, and a little longer. */
let inattention = 0;
function attend() {
  clearTimeout(inattention);
  if (document.hidden) {
    inattention = setTimeout(() => {
      live.close();
      document.title = "trio_bridge";
    }, INATTENTION_MS);
    return;
  }
  if (live.open()) contact.listen();
  tick();
}
document.addEventListener("visibilitychange", attend);
addEventListener("pageshow", attend);
addEventListener("pagehide", () => live.close());

showRange();
load(underWay);
attend();
setInterval(tick, TICK_MS);
