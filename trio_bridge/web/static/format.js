// How numbers, times and durations are written, the same everywhere on the page; times in the zone
// that is chosen (zone.js).

import * as zone from "./zone.js";

const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
const DAY_AND_CLOCK = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" };
const whole = new Intl.NumberFormat("en");

const DAY_S = 86_400;
const MOST_DECIMALS = 12;

/** A thousands-separated number with as many decimals as make sense for its size; "–" for none. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const decimals = size >= 1 ? 2 : size === 0 ? 0 : 4;
  const digits = size > 0 && size < 0.001 // four decimals would make nothing of something
    ? { maximumSignificantDigits: 2 }
    : { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  return written(value, digits);
}

/** The same, with what it may be wrong by where that is more than 1 % of it: "8.15 ± 1.30". */
export function uncertain(value, error) {
  const text = number(value);
  return text !== "–" && error > Math.abs(value) / 100 ? `${text} ± ${number(error)}` : text;
}

/** The same for an axis whose marks are `step` apart: with the decimals that a step of 2.5 needs. */
export function mark(value, step) {
  let decimals = 0;
  while (decimals < MOST_DECIMALS && !isWhole(step * 10 ** decimals)) decimals += 1;
  return written(value, { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

const isWhole = (value) => Math.abs(value / Math.round(value) - 1) < 1e-9;

function written(value, digits) {
  return new Intl.NumberFormat("en", digits).format(value + 0).replace("-", "−"); // -0 + 0 is 0
}

export function count(value) {
  return whole.format(value);
}

/** "1 row", "2,345 rows". */
export function many(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}

/** A time of day, with the day when it is not the last 24 hours'. `at` and `now`: seconds. */
export function clock(at, now = Date.now() / 1000) {
  const parts = now - at < DAY_S ? CLOCK : DAY_AND_CLOCK;
  return new Intl.DateTimeFormat("en-GB", { ...parts, timeZone: zone.iana() }).format(at * 1000);
}

/** The same with its time zone. */
export function time(at, now) {
  return `${clock(at, now)} ${zone.abbreviation(at)}`;
}

/** "8 s", "3 min", "2.5 h", "4 days". */
export function duration(seconds) {
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 2 * DAY_S) return `${Math.round(seconds / 360) / 10} h`;
  return `${Math.round(seconds / DAY_S)} days`;
}

/** "0 bytes", "12 KB", "3.4 MB". */
export function bytes(value) {
  if (value < 1000) return many(value, "byte");
  if (value < 1e6) return `${Math.round(value / 1000)} KB`;
  return `${(value / 1e6).toFixed(1)} MB`;
}

/** Never rounded up to 100 %: that is only said when nothing is missing. */
export function percent(part, all) {
  if (part >= all) return "100 %";
  return `${(Math.floor((part * 10_000) / all) / 100).toFixed(2)} %`;
}
