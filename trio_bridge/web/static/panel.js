// Everything on the page that is text.

import { folded } from "./events.js";
import { clock, count, many, time } from "./format.js";
import * as words from "./words.js";
import * as zone from "./zone.js";

const MOST_EVENTS = 60;
const MOST_GAPS = 50;
const FEW_DEFECTS = 3; // they are shown without being asked for
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

/** `contact`: "there", "sought" or "lost"; `heard`: when the last message came, seconds or null. */
export function showContact(contact, heard) {
  document.body.dataset.contact = contact;
  const old = contact !== "there" && heard !== null;
  put($("state-title"), old ? `State at ${time(heard)}, not current` : "State");
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
  showDefects(status.defects);
}

function showDefects(defects) {
  const few = defects.length <= FEW_DEFECTS;
  if ($("defects-summary").hidden !== few) $("defects").open = few;
  $("defects").hidden = defects.length === 0;
  $("defects-summary").hidden = few;
  put($("defects-summary"), `${many(defects.length, "position")} with a problem`);
  const texts = defects.map(words.defect);
  const shown = [...$("defects-list").children].map((one) => one.textContent);
  if (texts.join("\n") === shown.join("\n")) return; // what is marked stays marked
  $("defects-list").replaceChildren(...texts.map((text) => line("", text, "li")));
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
  put($("events-zone"), zone.title());
  const runs = folded(events).slice(-MOST_EVENTS).reverse();
  $("events").replaceChildren(...runs.map(eventItem));
  if (!runs.length) $("events").append(line("detail", "None yet."));
}

function eventItem(run) {
  const { event, count: times, last } = run;
  const item = document.createElement("li");
  item.dataset.status = event.status;
  const at = line("", clock(last), "time");
  at.dateTime = event.timestamp;
  at.title = time(last);
  const text = line("text");
  text.append(line("kind", KINDS[event.status] ?? ""), event.message);
  if (times > 1) text.append(line("detail", words.run(run)));
  item.append(at, text);
  return item;
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
