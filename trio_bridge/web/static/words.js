// The status in words. Pure functions of what /api/status says; a mood is "good", "warn" or "bad".

import { bytes, clock, count, duration, many, percent, time } from "./format.js";

const FIRST_ROW_S = 30; // A window that begins so near to the first row ever begins with it.

const seconds = (text) => Date.parse(text) / 1000;
const since = (text) => (text ? ` since ${time(seconds(text))}` : "");

const NAMED = 3; // defects in the head; the others are listed below

/** The verdict in words, and one line. `sinceRow`: seconds since the last safe row, or null. */
export function verdict(status, sinceRow) {
  const age = sinceRow === null ? "" : `, the last one ${duration(sinceRow)} ago`;
  const spooled = status.storage.breaker === "CLOSED" ? "" : " The database is down: rows go into the spool.";
  const every = `A row every ${status.interval_s} s${age}.${spooled}${beside(status)}`;
  switch (status.verdict) {
    case "complete":
      if (spooled) return { mood: "warn", word: "Recording into the spool", line: `A row every ${status.interval_s} s${age}. The database is down.${beside(status)}` };
      return { mood: "good", word: "Recording", line: every };
    case "stale":
      return { mood: "warn", word: "Stale: old data in the sums", line: `${named(status)} ${every}` };
    case "partial":
      return { mood: "warn", word: `Partial: ${priced(status)}`, line: `${named(status)} ${every}` };
  }
  if (status.verdict === "standby") {
    return { mood: "good", word: "Standing by", line: status.recorder.other ? `${status.recorder.other} records.` : "It takes over if nobody records." };
  }
  if (status.gateway.state === "holding") {
    return { mood: "warn", word: "Holding", line: `The gateway's nightly reset: no rows until it is over.` };
  }
  return { mood: "bad", word: "Not recording", line: sentence(status.not_ready_because ?? "no row has come") };
}

function beside({ recorder: { standby, other } }) {
  if (other) return ` ${other} records, too.`;
  return standby ? " This is the standby: no other records." : "";
}

/** What is wrong with one position. */
export function defect({ contract, state, reason }) {
  return `${contract} (${[state, reason].filter(Boolean).join(": ")})`;
}

function named({ defects }) {
  const more = defects.length > NAMED ? ` and ${count(defects.length - NAMED)} more` : "";
  return defects.length ? sentence(defects.slice(0, NAMED).map(defect).join(", ") + more) : "";
}

function priced({ ticker: { last } }) {
  return `${count(last.priced)} of ${many(last.positions, "position")}`;
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
  const { last, rows: taken, skipped } = status.ticker;
  if (last === null) return { mood: "warn", word: "None yet", detail: "" };
  const held = many(last.positions, "position");
  if (status.verdict === "blind" || status.verdict === "standby") {
    return {
      mood: "unknown",
      word: `Last at ${time(seconds(last.timestamp))}`,
      detail: `${last.priced} of ${held} ${last.positions === 1 ? "was" : "were"} priced. ${many(taken, "row")} since the start.`,
    };
  }
  const age = last.greeks_age_s ? ` The oldest datum is ${duration(last.greeks_age_s)} old.` : "";
  const kind = last.data_type && last.data_type !== "live" ? ` Market data: ${last.data_type}.` : "";
  const missed = skipped ? ` ${many(skipped, "slot")} skipped.` : "";
  return {
    mood: status.verdict === "complete" ? "good" : "warn",
    word: last.positions === 0 ? "No positions held" : last.priced === last.positions && last.positions > 1 ? `All ${held} priced` : `${priced(status)} priced`,
    detail: `${last.account?.replaceAll(",", ", ") ?? ""}. ${many(taken, "row")} since the start.${age}${kind}${missed}`,
  };
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
  const slots = `${count(found.rows)} of ${many(found.slots, "slot")}`;
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
