// Charts one above the other that share time, cursor and gaps.

import { facts } from "./facts.js";
import { mark, number, uncertain } from "./format.js";
import { worse } from "./rows.js";
import { range } from "./scale.js";
import * as zone from "./zone.js";

const FONT = "12px system-ui, sans-serif";
const AXIS_WIDTH = 76;
const TIME_AXIS_HEIGHT = 42;
const ZONE_HEIGHT = 18;
const NARROWEST_GAP = 2; // CSS pixels: a gap of one row in a month is still seen.

// Told apart by shape alone, too. Dashes are in CSS pixels.
const LAST = 5; // a plot's series: time, the band's two sides, its two edges, all last values, strokes
const FIRST_STROKE = LAST + 1;
const STROKES = [
  { verdict: "complete", width: 1.5, stroke: (name) => colour(name) },
  { verdict: "stale", width: 1.5, dash: [9, 5], stroke: (name) => faint(name, 70) },
  { verdict: "partial", width: 2.5, dash: [2.5, 4], stroke: () => colour("warn") },
];

const TIME_MARKS = [
  [86_400 * 28, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [86_400, "{D} {MMM}", null, null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
];

export class Charts {
  /**
   * `time`: the first and the last second to show, until there are rows. `onPoint` gets the
   * position of the cursor ({at: seconds, left: pixels}), or null when it has left.
   */
  constructor(room, time, onPoint) {
    this.onPoint = onPoint;
    this.gaps = [];
    this.verdicts = []; // of the points drawn
    this.errors = {}; // by how much the last row's values may be wrong
    this.window = time;
    this.plots = facts.series.map((one, i) => this.#build(room, one, i === facts.series.length - 1));
    this.observer = new ResizeObserver(() => this.#fit());
    for (const { canvas } of this.plots) this.observer.observe(canvas);
    for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
      matchMedia(query).addEventListener("change", () => this.#repaint());
    }
    matchMedia("(resolution: 1dppx)").addEventListener("change", () => this.#fit());
  }

  /** Draw rows from `start` to `end`. `verdict`: on the values of now. */
  draw(rows, gaps, start, end, verdict) {
    this.rows = rows;
    this.verdict = verdict;
    this.gaps = gaps;
    this.window = [start, end];
    for (const { name, title, plot, canvas } of this.plots) {
      const [t, max, min, last, verdicts] = rows.columns(name);
      this.verdicts = verdicts; // the same for all
      const of = (verdict, values) => values.map((value, i) => (this.#touches(i, verdict, last) ? value : null));
      const edges = [max, min].map((values) => of("complete", values)); // solid lines, too
      plot.setData([t, max, min, ...edges, last, ...STROKES.map((one) => of(one.verdict, last))], true);
      canvas.setAttribute("aria-label", this.#summary(name, title));
    }
    this.showValues(null);
  }

  /**
   * The values at a row, by its number; for null those of now, and an old value is not one of them;
   * for -1 none: there was no row.
   */
  showValues(i) {
    const verdict = i === null ? this.verdict : this.rows.verdict[i];
    for (const { name, box, value, doubt, unit, unitPlace } of this.plots) {
      const column = this.rows.series[name].last;
      const error = i === null ? this.errors[name] : null;
      const text = uncertain(column[i ?? column.length - 1], error);
      const blind = verdict === "blind";
      value.textContent = blind ? "–" : text;
      doubt.textContent = isDoubtful(verdict) ? verdict : "";
      box.classList.toggle("doubtful", isDoubtful(verdict));
      unitPlace.textContent = blind && text !== "–" ? `last ${text}` : unit;
    }
  }

  /** Move the cursor to a time, as if pointed at. */
  pointAt(at) {
    const { plot } = this.plots[0];
    const left = plot.valToPos(at, "x");
    for (const one of this.plots) one.plot.setCursor({ left, top: one.plot.over.clientHeight / 2 });
  }

  #build(room, { name, title, unit, is_price: isPrice }, isLast) {
    const value = element("span", "value", "–");
    const doubt = element("span", "doubt");
    const unitPlace = element("span", "unit", unit);
    const zeroless = element("span", "zeroless", "0 is off the scale");
    zeroless.hidden = true;
    const head = element("div", "name");
    head.append(element("h3", "", title), value, " ", doubt, " ", unitPlace, zeroless);
    const canvas = element("div", "canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", title);
    const box = element("div", "plot");
    box.dataset.series = name;
    box.append(head, canvas);
    room.append(box);
    const options = this.#options(name, isPrice, isLast);
    options.hooks.setScale = [(plot) => (zeroless.hidden = isPrice || hasZero(plot))];
    const plot = new uPlot(options, options.series.map(() => []), canvas);
    return { name, title, unit, box, value, doubt, unitPlace, canvas, plot };
  }

  #options(name, isPrice, isLast) {
    const side = { stroke: "transparent", points: { show: false } };
    const edge = { ...side, stroke: () => faint(name, 56), width: 1 };
    return {
      width: 300,
      height: 90,
      padding: [10, 0, isLast ? 0 : 10, 22],
      legend: { show: false },
      tzDate: (at) => uPlot.tzDate(new Date(at * 1000), zone.iana()),
      cursor: {
        sync: { key: "rows" },
        y: false,
        drag: { x: false, y: false, setScale: false },
        points: {
          size: 7,
          fill: (_, i) => (i === LAST ? colour(name) : "transparent"),
          stroke: (_, i) => (i === LAST ? colour("card") : "transparent"),
          width: 2,
        },
      },
      scales: {
        x: { time: true, range: () => this.window },
        y: { range: (_, low, high) => range(low, high, isPrice) },
      },
      axes: [
        {
          size: isLast ? TIME_AXIS_HEIGHT : 0,
          space: 70,
          gap: 6,
          font: FONT,
          label: isLast ? zone.title : null,
          labelFont: FONT,
          labelSize: ZONE_HEIGHT,
          stroke: () => colour("soft"),
          grid: { show: true, stroke: () => colour("grid"), width: 1 },
          ticks: { show: false },
          values: isLast ? TIME_MARKS : (_, splits) => splits.map(() => ""),
        },
        {
          side: 1,
          size: AXIS_WIDTH,
          space: (plot, axis, low, high, height) => Math.min(26, height / 4), // two marks at least
          gap: 8,
          font: FONT,
          stroke: () => colour("soft"),
          grid: { stroke: () => colour("grid"), width: 1 },
          ticks: { show: false },
          values: (plot, splits, axis, space, step) =>
            splits.map((split) => (isEmpty(plot) ? "" : mark(split, step))),
        },
      ],
      series: [
        {},
        side,
        side,
        edge,
        edge,
        side,
        ...STROKES.map((one) => this.#stroke(name, one)),
      ],
      bands: [{ series: [1, 2], fill: () => faint(name, 22) }],
      hooks: {
        drawClear: [(plot) => this.#shade(plot)],
        drawAxes: [drawZero],
        setCursor: [(plot) => this.#pointed(plot)],
      },
    };
  }

  /** One of the series that share a line; each draws its own pieces of it. */
  #stroke(name, { verdict, width, stroke }) {
    return {
      width,
      stroke: () => stroke(name),
      gaps: (plot, series) => leftOut(
        plot, (i) => this.#reaches(i, verdict) && isKnown(plot.data[series], i), isDoubtful(verdict) ? devicePixelRatio : 0,
      ),
      points: {
        show: true,
        size: verdict === "complete" ? 4 : 6,
        fill: () => (verdict === "complete" ? colour(name) : colour("card")),
        filter: (plot, _, show) => (show ? lonely(plot.data[LAST]).filter((i) => this.verdicts[i] === verdict) : []),
      },
    };
  }

  /** Whether the stroke to point `i` has this verdict: it is as good as the worse of its ends. */
  #reaches(i, verdict) {
    return worse(this.verdicts[i - 1], this.verdicts[i]) === verdict;
  }

  /**
   * Whether point `i` is the end of a stroke of this verdict, or has no stroke and is of it. Only
   * these are drawn: two points within a pixel can't be told apart by `gaps`.
   */
  #touches(i, verdict, column) {
    if (isLonely(column, i)) return this.verdicts[i] === verdict;
    return this.#reaches(i, verdict) || (i + 1 < column.length && this.#reaches(i + 1, verdict));
  }

  #shade(plot) {
    STROKES.forEach(({ dash }, i) => { // uPlot's are in the screen's pixels, which zooming changes
      plot.series[FIRST_STROKE + i].dash = dash?.map((one) => one * devicePixelRatio);
    });
    const { ctx } = plot;
    const { left, top, width, height } = plot.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    ctx.fillStyle = hatch(ctx);
    for (const gap of this.gaps) {
      const [from, to] = this.#span(plot, gap, true);
      ctx.fillRect(from, top, to - from, height);
    }
    ctx.restore();
  }

  /** A gap's edges in pixels of the canvas, or of the page. */
  #span(plot, gap, onCanvas) {
    const least = NARROWEST_GAP * (onCanvas ? devicePixelRatio : 1);
    const from = plot.valToPos(Math.max(gap.from, this.window[0]), "x", onCanvas);
    const to = plot.valToPos(Math.min(gap.to, this.window[1]), "x", onCanvas);
    const widen = Math.max(0, least - (to - from)) / 2;
    return [from - widen, to + widen];
  }

  /** The gap under a place on the page, in its pixels from the left of the plots. */
  gapAt(left) {
    const { plot } = this.plots[0];
    return this.gaps.find((gap) => {
      const [from, to] = this.#span(plot, gap, false);
      return left >= from - 2 && left <= to + 2;
    });
  }

  #pointed(plot) {
    if (plot !== this.plots[0].plot) return; // the others follow it
    const { left } = plot.cursor;
    if (left === null || left === undefined || left < 0 || !this.rows) this.onPoint(null);
    else this.onPoint({ at: plot.posToVal(left, "x"), left });
  }

  #fit() {
    for (const { plot, canvas } of this.plots) {
      const { clientWidth: width, clientHeight: height } = canvas;
      if (width && height && (plot.width !== width || plot.height !== height)) {
        plot.setSize({ width, height });
      }
    }
  }

  #repaint() {
    patterns.clear();
    for (const { plot } of this.plots) plot.redraw(false, true);
  }

  #summary(name, title) {
    const { last, min, max } = this.rows.series[name];
    const lows = min.filter((value) => value !== null);
    if (!lows.length) return `${title}: no values in this time`;
    const low = lows.reduce((a, b) => Math.min(a, b));
    const high = max.reduce((a, b) => Math.max(a, b ?? -Infinity), -Infinity);
    const now = this.verdict === "blind" ? "unknown" : number(last[last.length - 1]);
    const doubt = isDoubtful(this.verdict) ? ` (${this.verdict})` : "";
    return `${title} over time: now ${now}${doubt}, `
      + `lowest ${number(low)}, highest ${number(high)}`;
  }
}

const patterns = new Map();

/** Diagonal lines: a gap must not look like a value, nor depend on colour alone. */
function hatch(ctx) {
  const key = `${colour("gap")} ${devicePixelRatio}`;
  if (!patterns.has(key)) {
    const size = 6 * devicePixelRatio;
    const tile = document.createElement("canvas");
    tile.width = tile.height = size;
    const pen = tile.getContext("2d");
    pen.fillStyle = faint("gap", 25);
    pen.fillRect(0, 0, size, size);
    pen.strokeStyle = colour("gap");
    pen.lineWidth = devicePixelRatio;
    pen.beginPath();
    for (const shift of [-size, 0, size]) {
      pen.moveTo(shift - 1, size + 1);
      pen.lineTo(shift + size + 1, -1);
    }
    pen.stroke();
    patterns.set(key, ctx.createPattern(tile, "repeat"));
  }
  return patterns.get(key);
}

function isEmpty(plot) {
  return plot.data[LAST].every((value) => value === null);
}

function hasZero({ scales: { y } }) {
  return y.min <= 0 && y.max >= 0;
}

/** Zero stands out from the other lines of the grid. */
function drawZero(plot) {
  if (isEmpty(plot) || !hasZero(plot)) return;
  const { ctx, bbox } = plot;
  ctx.fillStyle = colour("soft");
  ctx.fillRect(bbox.left, Math.round(plot.valToPos(0, "y", true)), bbox.width, devicePixelRatio);
}

function isDoubtful(verdict) {
  return verdict === "stale" || verdict === "partial";
}

/**
 * For uPlot's `gaps`: the pieces of a line that it does not draw, in pixels. `isDrawn(i)`: that from
 * i - 1. `more`: by how much each end of what is drawn is longer, lest it be too short to be seen.
 */
function leftOut(plot, isDrawn, more = 0) {
  const [t] = plot.data;
  const place = (i) => Math.round(plot.valToPos(t[i], "x", true));
  const spans = [];
  for (let i = 1, wasDrawn = true; i < t.length; i += 1) {
    const isLeftOut = !isDrawn(i);
    if (isLeftOut && wasDrawn) spans.push([place(i - 1), place(i)]);
    else if (isLeftOut) spans.at(-1)[1] = place(i);
    wasDrawn = !isLeftOut;
  }
  return spans.map(([from, to]) => [from + more, to - more]).filter(([from, to]) => from < to);
}

function isKnown(column, i) {
  return column[i - 1] !== null && column[i] !== null;
}

/** Points that no line reaches. */
function lonely(column) {
  return [...column.keys()].filter((i) => isLonely(column, i));
}

function isLonely(column, i) {
  return column[i] !== null && (column[i - 1] ?? null) === null && (column[i + 1] ?? null) === null;
}

/** Of page.css; a series without a colour of its own gets that of soft text. */
function colour(name) {
  const style = getComputedStyle(document.documentElement);
  return style.getPropertyValue(`--${name}`).trim() || style.getPropertyValue("--soft").trim();
}

function faint(name, percent) {
  return `color-mix(in srgb, ${colour(name)} ${percent}%, transparent)`;
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
