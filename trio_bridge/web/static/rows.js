// The rows on the page: what /api/rows gave, and what has come since, in the same buckets.

import { identity } from "./events.js";
import { facts } from "./facts.js"; // What the server and this page must agree on: web/chart.py.

export const SERIES = facts.series.map((one) => one.name);

/** What a row is worth; rows of older versions have no verdict (risk/verdict.py, `verdict_of`). */
export function verdictOf({ verdict, delta, positions, priced }) {
  if (verdict) return verdict;
  return delta === null || (priced ?? positions) !== positions ? "partial" : "complete";
}

/** The worse of two verdicts. */
export function worse(one, other) {
  return facts.verdicts.indexOf(one) > facts.verdicts.indexOf(other) ? one : other;
}

/** Instead of the answer of /api/rows when there is none: no rows, and a coverage that is not known. */
export function unread(interval, start) {
  const series = Object.fromEntries(SERIES.map((name) => [name, { last: [] }]));
  return { from: start, interval_s: interval, bucket_s: interval, t: [], verdict: [], series, gaps: [], coverage: null };
}

export class Rows {
  /** `found`: the answer of /api/rows. `events`: what is known of api_logs, oldest first. */
  constructor(found, events) {
    this.events = events;
    this.interval = found.interval_s;
    this.bucket = found.bucket_s;
    this.t = found.t;
    this.verdict = found.verdict;
    this.series = found.series;
    for (const name of SERIES) {
      this.series[name].min ??= [...this.series[name].last];
      this.series[name].max ??= [...this.series[name].last];
    }
    this.gaps = found.gaps.filter((gap) => !gap.open);
    this.openGap = found.gaps.find((gap) => gap.open) ?? null;
    this.start = found.from;
    // Null: it can't be read. Without the open gap: it grows, see coverageUntil.
    this.coverage = found.coverage && { ...found.coverage, slots: found.coverage.slots - (this.openGap?.slots ?? 0) };
    this.storedTo = this.openGap?.from ?? this.last; // the database's last row
  }

  get last() {
    return this.t.length ? this.t[this.t.length - 1] : null;
  }

  /** Whether a bucket may hold several rows. */
  get isThinned() {
    return this.bucket > this.interval;
  }

  /** A row that has just become safe. */
  add(row) {
    const at = Date.parse(row.timestamp) / 1000;
    const last = this.last ?? this.openGap?.from ?? null;
    if (last !== null && at <= last) return; // known already
    if (last !== null && at - last > facts.missing * this.interval) this.#close(last, at);
    this.openGap = null;
    const verdict = verdictOf(row);
    if (this.coverage !== null) {
      this.coverage.since ??= at;
      this.coverage.slots += 1;
      this.coverage.rows += row.delta === null ? 0 : 1;
      this.coverage.complete += verdict === "complete" ? 1 : 0;
    }
    const sameBucket = this.t.length > 0 && this.#bucketOf(at) === this.#bucketOf(last);
    if (sameBucket) {
      this.t[this.t.length - 1] = at;
      this.verdict.push(worse(this.verdict.pop(), verdict));
    } else {
      this.t.push(at);
      this.verdict.push(verdict);
    }
    for (const name of SERIES) this.#put(this.series[name], row[name], sameBucket);
  }

  /** Forget what is older than `start`; the coverage then speaks of a little more than is shown. */
  trim(start) {
    let old = 0;
    while (old < this.t.length && this.t[old] < start) old += 1;
    if (old > 1) {
      this.t.splice(0, old - 1);
      this.verdict.splice(0, old - 1);
      for (const name of SERIES) {
        for (const column of Object.values(this.series[name])) column.splice(0, old - 1);
      }
    }
    this.gaps = this.gaps.filter((gap) => gap.to > start);
  }

  /** Every gap until `now`, the one that lasts included. */
  gapsUntil(now) {
    for (const gap of this.gaps) { // its event may come after the row that ended it
      if (gap.watched && !gap.reasons.length) gap.reasons = this.#reasons(gap.from, gap.to);
    }
    const from = this.last ?? this.openGap?.from ?? null;
    if (from === null || now - from <= facts.missing * this.interval + facts.in_the_dark_s) return this.gaps;
    return [...this.gaps, { from, to: now, open: true, reasons: this.#reasons(from, now) }];
  }

  /**
   * The coverage until `now`. A gap that still lasts counts too, without the slots whose row may be
   * on its way: the number is the same before and after a reload, and never shrinks.
   */
  coverageUntil(now) {
    const gap = this.gapsUntil(now).find((one) => one.open);
    if (!gap || this.coverage === null) return this.coverage;
    const known = now - facts.in_the_dark_s - (facts.missing - 1) * this.interval;
    const missing = Math.max(0, Math.floor((known - Math.max(gap.from, this.start)) / this.interval));
    return { ...this.coverage, slots: this.coverage.slots + missing };
  }

  /** Columns for a chart, broken where buckets without a row lie between: [t, max, min, last, verdict]. */
  columns(name) {
    const { last, min, max } = this.series[name];
    const columns = [[], [], [], [], []];
    const widest = facts.missing * Math.max(this.bucket, this.interval);
    let gap = 0; // the interval may have been longer: only a gap breaks a line
    for (let i = 0; i < this.t.length; i += 1) {
      while (gap < this.gaps.length && this.gaps[gap].to <= this.t[i - 1]) gap += 1;
      const inGap = gap < this.gaps.length && this.gaps[gap].from < this.t[i];
      if (i > 0 && inGap && this.t[i] - this.t[i - 1] > widest) {
        columns[0].push((this.t[i] + this.t[i - 1]) / 2);
        for (const column of columns.slice(1)) column.push(null);
      }
      columns[0].push(this.t[i]);
      columns[1].push(max[i]);
      columns[2].push(min[i]);
      columns[3].push(last[i]);
      columns[4].push(this.verdict[i]);
    }
    return columns;
  }

  #bucketOf(at) {
    return Math.floor(at / this.bucket);
  }

  #put(columns, value, sameBucket) {
    const i = columns.last.length - 1;
    if (!sameBucket) {
      for (const column of Object.values(columns)) column.push(value);
      return;
    }
    columns.last[i] = value;
    if (value === null) return;
    columns.min[i] = columns.min[i] === null ? value : Math.min(columns.min[i], value);
    columns.max[i] = columns.max[i] === null ? value : Math.max(columns.max[i], value);
  }

  #close(from, to) {
    this.gaps.push({ from, to, open: false, watched: true, reasons: this.#reasons(from, to) });
    const missing = from >= this.start
      ? Math.round((to - from) / this.interval) - 1 : Math.floor((to - this.start) / this.interval);
    if (this.coverage !== null) this.coverage.slots += missing;
  }

  /** As stores/reading/gaps.py chooses them: what stops rows comes first. */
  #reasons(from, to) {
    const told = this.openGap?.from === from ? [...this.openGap.reasons] : [];
    const known = new Set(told.map(identity));
    told.push(...this.events.filter((event) => {
      const at = Date.parse(event.timestamp) / 1000;
      return at > from && at <= to && !facts.no_reasons.includes(event.kind) && !known.has(identity(event));
    }));
    const rank = (event) => (facts.causes.includes(event.kind) ? 0 : 1);
    return told.sort((one, other) => rank(one) - rank(other)).slice(0, facts.reasons_per_gap);
  }
}
