// Puts the page together: which time is shown, and who is told when something comes.

import { Charts } from "./charts.js";
import { time } from "./format.js";
import { fetchEvents, fetchRows, follow } from "./live.js";
import { addEvent, showCoverage, showEvents, showReadout, showState, showVerdict, Tip } from "./panel.js";
import { Rows } from "./rows.js";
import * as words from "./words.js";

const RANGES = {
  quarter: { span: 900, words: "the last 15 minutes", again: 60 },
  day: { span: 86_400, words: "the last 24 hours", again: 300 },
  month: { span: 30 * 86_400, words: "the last 30 days", again: 1_800 },
};
const EVENTS = 50;
const TICK_MS = 1_000;
const RETRY_S = 5;
const CONTACT_LOST_S = 3; // A short interruption is not worth a word.

const now = () => Date.now() / 1000;

const page = {
  range: RANGES[location.hash.slice(1)] ? location.hash.slice(1) : "quarter",
  rows: null,
  gaps: [],
  status: null,
  trouble: "", // why there is no history
  fetchAt: 0,
  asked: 0, // the number of the latest question: a late answer to an earlier one is not wanted
  heard: null, // when the bridge last said something
  lostAt: null,
  safeAt: null, // when the last row became safe
  pointed: null,
  dirty: false,
};

const charts = new Charts(document.getElementById("plots"), (point) => {
  page.pointed = point;
  showPoint();
});
const tip = new Tip(document.querySelector(".charts"));
const scrub = document.getElementById("scrub");

async function load() {
  const asked = ++page.asked;
  const { span, again } = RANGES[page.range];
  const end = now();
  page.fetchAt = end + again;
  const points = Math.max(200, Math.min(900, Math.round(document.getElementById("plots").clientWidth)));
  try {
    const told = await fetchRows(end - span, end, points);
    if (asked !== page.asked) return;
    const rows = new Rows(told);
    rows.events = page.rows?.events ?? [];
    page.rows = rows;
    page.trouble = "";
    if (told.t.length) page.safeAt ??= told.t[told.t.length - 1];
  } catch (error) {
    if (asked !== page.asked) return;
    page.trouble = `The history can't be read now: ${error.message}`;
    page.fetchAt = now() + RETRY_S;
  }
  page.dirty = true;
  render();
  performance.mark("trio-bridge-drawn");
}

function render() {
  if (!page.dirty || !page.rows || document.hidden) {
    if (page.trouble) showReadout(page.trouble);
    return;
  }
  page.dirty = false;
  const { span, words: name } = RANGES[page.range];
  const end = Math.max(now(), page.rows.last ?? 0);
  page.rows.trim(end - span);
  page.gaps = page.rows.gapsUntil(end);
  charts.draw(page.rows, page.gaps, end - span, end);
  scrub.max = Math.max(0, page.rows.t.length - 1);
  if (document.activeElement !== scrub) scrub.value = scrub.max;
  scrub.disabled = page.rows.t.length === 0;
  showCoverage(page.rows.coverage, page.gaps, name, silentBecause());
  if (page.pointed) showPoint();
  else restReadout();
}

function silentBecause() {
  return page.status?.not_ready_because ?? "";
}

function restReadout() {
  if (page.trouble) showReadout(page.trouble);
  else if (page.rows && !page.rows.t.length) showReadout(`No rows in ${RANGES[page.range].words}.`);
  else showReadout("");
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
  tip.show(gap ? words.gap(gap, silentBecause()) : null, left + plotsLeft());
  const i = nearest(page.rows.t, at);
  if (i === null) return;
  charts.showValues(i);
  const nameless = page.rows.series.delta.last[i] === null ? ": not one option was priced" : "";
  showReadout(time(page.rows.t[i]) + nameless);
  scrub.value = i;
  scrub.setAttribute("aria-valuetext", `${time(page.rows.t[i])}${nameless}: ${spoken(i)}`);
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
  const silent = page.lostAt !== null && now() - page.lostAt > CONTACT_LOST_S;
  if (silent || page.status === null) {
    if (silent) showVerdict(words.silence(page.heard, now()));
    return;
  }
  showVerdict(words.verdict(page.status, page.safeAt === null ? null : Math.max(0, now() - page.safeAt)));
}

function tick() {
  showNow();
  if (document.hidden) return;
  if (now() >= page.fetchAt) load();
  page.dirty ||= page.rows !== null && now() - (page.rows.last ?? 0) > 2 * page.rows.interval;
  render();
}

function chooseRange(range) {
  page.range = range;
  history.replaceState(null, "", `#${range}`);
  document.querySelector(`#ranges input[value="${range}"]`).checked = true;
  page.pointed = null;
  load();
}

document.getElementById("ranges").addEventListener("change", (event) => chooseRange(event.target.value));
addEventListener("hashchange", () => {
  const wanted = location.hash.slice(1);
  if (RANGES[wanted] && wanted !== page.range) chooseRange(wanted);
});
scrub.addEventListener("input", () => charts.pointAt(page.rows.t[Number(scrub.value)]));
scrub.addEventListener("blur", () => {
  page.pointed = null;
  showPoint();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) tick();
});

follow({
  status(status) {
    page.heard = now();
    page.status = status;
    showState(status);
    showNow();
  },
  row(row) {
    page.heard = page.safeAt = now();
    page.rows?.add(row);
    page.dirty = true;
    requestAnimationFrame(render);
    showNow();
  },
  event(event) {
    page.heard = now();
    page.rows?.addEvent(event);
    addEvent(event);
  },
  opened(again) {
    page.heard = now();
    page.lostAt = null;
    if (again) load(); // what was said meanwhile is in the history
    showLatest();
  },
  lost() {
    page.lostAt ??= now();
  },
});

async function showLatest() {
  try {
    showEvents((await fetchEvents(EVENTS)).events);
  } catch {
    // The next stream asks again; what happens meanwhile is told live.
  }
}

chooseRange(page.range);
setInterval(tick, TICK_MS);
