// Everything on the page that is text.

import { facts } from "./facts.js";
import { count, many, time } from "./format.js";
import * as words from "./words.js";

const MOST_EVENTS = 60;
const MOST_GAPS = 50;
const KINDS = { info: "", warning: "Warning: ", error: "Error: " };

const $ = (id) => document.getElementById(id);

/** Set a text only when it changes: screen readers read what is set. */
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function showVerdict({ mood, word, line }) {
  $("verdict").dataset.mood = mood;
  put($("headline"), word);
  put($("subline"), line);
  document.title = `${word} · trio_bridge`;
}

export function showState(status) {
  for (const name of ["gateway", "database", "spool", "rows"]) {
    const { mood, word, detail } = words[name](status);
    const place = $(name);
    if (!place.firstElementChild) place.replaceChildren(line("word"), line("detail"));
    place.dataset.mood = mood;
    put(place.children[0], word);
    put(place.children[1], detail);
  }
}

/** Of `span` (in words), which begins at `start`. `gaps`: each in words, oldest first. */
export function showCoverage(coverage, span, start, gaps) {
  put($("coverage"), words.coverage(coverage, span, start));
  $("gaps").hidden = gaps.length === 0;
  const more = gaps.length > MOST_GAPS ? `, the last ${count(MOST_GAPS)}` : "";
  put($("gaps-summary"), `${many(gaps.length, "gap")}${more}`);
  $("gaps-list").replaceChildren(
    ...gaps.slice(-MOST_GAPS).reverse().map(({ heading, lines }) => {
      const item = document.createElement("li");
      item.append(line("word", heading), ...lines.map((text) => line("detail", text)));
      return item;
    }),
  );
}

/** The latest events, newest first; `events` oldest first. */
export function showEvents(events) {
  const list = $("events");
  list.replaceChildren();
  for (const event of events) addEvent(event);
  if (!events.length) list.append(line("detail", "None yet."));
}

/** One more; a run of attempts to connect is one line, with their number. */
export function addEvent(event) {
  const list = $("events");
  if (list.firstElementChild?.tagName !== "LI") list.replaceChildren();
  const before = list.firstElementChild;
  let times = 1;
  if (before?.dataset.kind === event.kind && facts.folded.includes(event.kind)) {
    times += Number(before.dataset.times);
    before.remove();
  }
  const item = document.createElement("li");
  item.dataset.status = event.status;
  item.dataset.kind = event.kind;
  item.dataset.times = times;
  const at = document.createElement("time");
  at.dateTime = event.timestamp;
  at.textContent = time(Date.parse(event.timestamp) / 1000);
  const text = line("text");
  const often = times > 1 ? ` (${count(times)} times)` : "";
  text.append(line("kind", KINDS[event.status] ?? ""), event.message + often);
  item.append(at, text);
  list.prepend(item);
  while (list.children.length > MOST_EVENTS) list.lastElementChild.remove();
}

/** The line above the charts. */
export function showReadout(text) {
  put($("readout"), text);
}

/** The box at the cursor; `text` (a heading and lines) is null to hide it. */
export class Tip {
  constructor(room) {
    this.room = room;
    this.box = document.createElement("div");
    this.box.className = "tip";
    this.box.hidden = true;
    room.append(this.box);
  }

  show(text, left) {
    this.box.hidden = text === null;
    if (text === null) return;
    const heading = document.createElement("strong");
    heading.textContent = text.heading;
    this.box.replaceChildren(heading, ...text.lines.map((one) => line("", one, "div")));
    // On the side of the cursor with more room, so that it hides the least.
    const width = this.box.offsetWidth;
    const place = left > this.room.clientWidth / 2 ? left - width - 14 : left + 14;
    this.box.style.left = `${Math.max(8, Math.min(place, this.room.clientWidth - width - 8))}px`;
  }
}

function line(className, text = "", tag = "span") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
