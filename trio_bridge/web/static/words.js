// The status in words. Pure functions of what /api/status says; a mood is "good", "warn" or "bad".

import { bytes, clock, count, duration, many, percent, time } from "./format.js";

const FIRST_DEFECTS = 3; // for the line under the headline: the list has them all
const FIRST_ROW_S = 30; // A window that begins so near to the first row ever begins with it.

const seconds = (text) => Date.parse(text) / 1000;
const since = (text) => (text ? ` since ${time(seconds(text))}` : "");

/** The whole in one word and one line. `sinceRow`: seconds since the last safe row, or null. */
export function headline(status, sinceRow) {
  const { verdict, defects, storage, ticker: { last } } = status;
  const age = sinceRow === null ? "" : `, the last one ${duration(sinceRow)} ago`;
  const every = `A row every ${status.interval_s} s${age}.${dataType(last)}${beside(status)}`;
  const spooling = storage.breaker === "CLOSED" ? "" : " The database is down: rows go into the spool.";
  switch (verdict) {
    case "complete": {
      const line = `Complete. ${every}${spooling}`;
      const word = `Recording ${covered(last)}`;
      return spooling ? { mood: "warn", word: `${word} into the spool`, line } : { mood: "good", word, line };
    }
    case "stale":
      return { mood: "warn", word: `Stale: ${old(status)}`, line: `${first(defects)}${every}${spooling}` };
    case "partial":
      return { mood: "warn", word: `Partial${lacking(last)}`, line: `${first(defects)}${every}${spooling}` };
    case "standby":
      return { mood: "good", word: "Standing by", line: status.recorder.other ? `${status.recorder.other} records.` : "It takes over if nobody records." };
    default: // blind
      if (status.gateway.state === "holding") {
        return { mood: "warn", word: "Holding", line: `The gateway's nightly reset: no rows until it is over.` };
      }
      return { mood: "bad", word: "Not recording", line: sentence(status.not_ready_because ?? "no rows") };
  }
}

/** What is to be known of another recorder. */
function beside({ recorder: { standby, other } }) {
  if (other) return ` ${other} records, too.`;
  return standby ? " This is the standby: no other records." : "";
}

/** "17 of 30 positions". */
function priced({ priced: found, positions }) {
  return `${count(found)} of ${many(positions, "position")}`;
}

function old({ defects, ticker: { last } }) {
  if (!defects.length) return "old data"; // the status that names them comes within seconds
  return `old data of ${count(defects.length)} of ${many(last.positions, "position")}`;
}

/** What a partial row has, or lacks when an exchange rate is missing: then delta and gamma are whole. */
function lacking(last) {
  if (last.priced < last.positions) return `: ${priced(last)}`;
  return last.vega === null ? ": vega and theta unknown" : "";
}

function covered({ positions }) {
  return positions > 1 ? `all ${many(positions, "position")}` : many(positions, "position");
}

/** What is not live is said. */
function dataType(last) {
  return last?.data_type && last.data_type !== "live" ? ` Market data: ${last.data_type}.` : "";
}

/** One that keeps the rows from being complete. */
export function defect({ contract, state, reason }) {
  return `${contract} (${reason ? `${state}: ${reason}` : state})`;
}

/** The first ones, those that have a reason in common together, and how many more there are. */
function first(defects) {
  if (!defects.length) return "";
  const runs = [];
  for (const one of defects.slice(0, FIRST_DEFECTS)) {
    const run = runs.at(-1);
    if (run?.state === one.state && run.reason === one.reason) run.contract += `, ${one.contract}`;
    else runs.push({ ...one });
  }
  const others = defects.length - FIRST_DEFECTS;
  const more = others > 0 ? ` and ${count(others)} more` : "";
  return `${runs.map(defect).join(", ")}${more}. `;
}

/** What is said of a row, or a stretch of them, that is not complete: with the time, at the cursor. */
export function doubt(verdict, isStretch) {
  if (verdict === "complete") return "";
  return isStretch ? `, ${verdict} for some of it` : `, ${verdict}`;
}

const STROKES = {
  partial: "Dotted: partial, some position is not in the sums.",
  stale: "Dashed: stale, some data in the sums are old.",
};

/** The legend: how the charts draw what is not complete; `verdicts`: of what they show. */
export function legend(verdicts) {
  return Object.entries(STROKES).filter(([one]) => verdicts.includes(one)).map(([, text]) => text).join(" ");
}

/** While there is no message yet, of a page or since it is looked at again. */
export function waiting(heard, now) {
  return { mood: "unknown", word: "Connecting …", line: lastMessage(heard, now) };
}

/** The page knows nothing of now, and is as loud as about an outage. `heard`: of the last message. */
export function blind(heard, now) {
  const line = `${lastMessage(heard, now)} Nothing here is current.`;
  return { mood: "bad", word: "No contact with the bridge", line };
}

function lastMessage(heard, now) {
  if (heard === null) return "The bridge has not answered yet.";
  return `The last message came at ${time(heard, now)}, ${duration(now - heard)} ago.`;
}

export function gateway(status) {
  const { state, reason, endpoint, heartbeat_s: beat, reconnects } = status.gateway;
  const lost = reconnects ? ` Lost and restored ${reconnects === 1 ? "once" : `${count(reconnects)} times`}.` : "";
  const because = reason ? ` ${sentence(reason)}` : "";
  switch (state) {
    case "connected": {
      const answers = beat === null ? "" : ` It answers within ${Math.max(1, Math.round(beat * 1000))} ms.`;
      const silent = status.ticker.silent_because;
      return silent === null
        ? { mood: "good", word: "Connected", detail: `${endpoint}${since(status.gateway.since)}.${answers}${lost}` }
        : { mood: "bad", word: "Connected, no rows", detail: `${sentence(silent)} ${endpoint}.${lost}` };
    }
    case "connecting":
      return { mood: "warn", word: "Connecting", detail: `${endpoint}.${because}` };
    case "holding":
      return { mood: "warn", word: "Holding for the reset window", detail: `${endpoint}.${because}` };
    case "backing off":
      return { mood: "bad", word: "Waiting to try again", detail: `${endpoint}.${because}` };
    default:
      return { mood: "bad", word: "Disconnected", detail: `${endpoint}.${because}` };
  }
}

export function database(status) {
  const { breaker, database: place, waiting } = status.storage;
  switch (breaker) {
    case "CLOSED":
      return { mood: "good", word: "Takes every row", detail: `${place}. Circuit closed.` };
    case "HALF_OPEN":
      return { mood: "warn", word: "Catching up", detail: `${place}. Circuit half open: the spool is being replayed.` };
    default:
      return {
        mood: "bad",
        word: "Down",
        detail: `${place}. Circuit open: rows wait in the spool` + (waiting > 1 ? `, ${count(waiting)} in memory.` : "."),
      };
  }
}

export function spool(status) {
  const { spool_bytes: size, quarantined, dropped } = status.storage;
  const rows = status.spool_rows === null ? "Rows" : many(status.spool_rows, "row");
  const trouble = [
    dropped ? `${many(dropped, "row")} lost: neither database nor disk took them.` : "",
    quarantined ? `${many(quarantined, "row")} set aside: the database will never take them.` : "",
  ].filter(Boolean).join(" ");
  const mood = dropped ? "bad" : quarantined || size ? "warn" : "good";
  const word = size ? `${rows} waiting (${bytes(size)})` : "Empty";
  return { mood, word, detail: trouble || (size ? "Safe on disk, in order." : "Nothing waits.") };
}

export function rows(status) {
  const { verdict, ticker: { last, rows: taken, skipped } } = status;
  if (last === null) return { mood: "warn", word: "None yet", detail: "" };
  if (verdict === "blind" || verdict === "standby") {
    return {
      mood: "unknown",
      word: `Last at ${time(seconds(last.timestamp))}`,
      detail: `${priced(last)} ${last.positions === 1 ? "was" : "were"} priced. ${many(taken, "row")} since the start.`,
    };
  }
  const age = last.greeks_age_s ? ` The oldest datum is ${duration(last.greeks_age_s)} old.` : "";
  const missed = skipped ? ` ${many(skipped, "slot")} skipped.` : "";
  return {
    mood: verdict === "complete" ? "good" : "warn",
    word: worth(status),
    detail: `${last.account?.replaceAll(",", ", ") ?? ""}. ${many(taken, "row")} since the start.${age}${dataType(last)}${missed}`,
  };
}

function worth(status) {
  const { verdict, ticker: { last } } = status;
  if (verdict === "stale") return `Stale: ${old(status)}`;
  if (verdict === "partial") return `Partial${lacking(last)}`;
  if (last.positions === 0) return "No positions held";
  return last.positions === 1 ? "1 of 1 position priced" : `All ${many(last.positions, "position")} priced`;
}

/** Above charts whose end is not now. */
export function lastRow(at, now) {
  return `The last row is of ${time(at, now)}, ${duration(now - at)} ago.`;
}

/** Of `span` (in words), which begins at `start`, or of the time since the very first row. */
export function coverage(found, span, start) {
  if (found === null) return `Not known for ${span}: the history can't be read.`;
  if (!found.slots) return `Nothing recorded in ${span}.`;
  const share = percent(found.rows, found.slots);
  const doubtful = found.complete < found.rows ? `, ${count(found.complete)} of them complete` : "";
  const slots = `${count(found.rows)} of ${many(found.slots, "slot")}${doubtful}`;
  if (found.since === null || found.since < start + FIRST_ROW_S) return `${share} of ${span}: ${slots}.`;
  return `${share} since the first row ${at(found.since)}: ${slots}.`;
}

function at(when) {
  const text = time(when);
  return text.includes(",") ? `on ${text}` : `at ${text}`;
}

/** One gap: a heading and what api_logs says. `spooled`: its rows may exist all the same. */
export function gap(one, now, silentBecause, spooled) {
  const length = duration(one.to - one.from);
  if (one.blind) {
    const heading = `No contact with the bridge since ${time(one.from, now)} (${length})`;
    return { heading, lines: ["It may have recorded rows all the same."] };
  }
  const heading = one.open
    ? `No rows since ${time(one.from, now)} (${length})`
    : `No rows from ${clock(one.from, now)} to ${time(one.to, now)} (${length})`;
  const lines = one.reasons.map((event) => `${clock(seconds(event.timestamp), now)} ${event.message}`);
  const known = one.reasons.some((event) => event.message === silentBecause);
  if (one.open && silentBecause && !known) lines.push(sentence(silentBecause));
  if (spooled) lines.push("Rows of this time may be waiting in the spool.");
  if (!lines.length) lines.push("No event gives a reason: the service was not running, or the machine was busy.");
  return { heading, lines };
}

/** Under the last event of a run (events.js), whose own time is beside it. */
export function run({ count: times, first }) {
  return `The last of ${count(times)} since ${time(first)}.`;
}

function sentence(text) {
  const clean = text.trim();
  return clean.charAt(0).toUpperCase() + clean.slice(1) + (/[.!?…]$/.test(clean) ? "" : ".");
}
