// What comes from the bridge: history on request, everything else as a stream.

import { facts } from "./facts.js";

const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 15_000;

/** The answer of /api/rows. Throws an Error whose message is fit for a person. */
export async function fetchRows(start, end, points) {
  const query = new URLSearchParams({ from: start.toFixed(3), to: end.toFixed(3), points });
  return fetchJson(`/api/rows?${query}`);
}

/** The last rows that became safe, oldest first: the database may not have all of them yet. */
export async function fetchRecent() {
  return fetchJson("/api/recent");
}

export async function fetchEvents(limit) {
  return fetchJson(`/api/events?limit=${limit}`);
}

async function fetchJson(url) {
  const answer = await fetch(url, { signal: AbortSignal.timeout(facts.patience_s * 1000) });
  if (answer.status === 401) location.reload(); // the token has changed: the server asks for it
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error ?? `HTTP ${answer.status}`);
  return found;
}

/**
 * The live stream. `on` has status, recent, row and event, each called with its message, and
 * opened(again) when a stream begins. That it ends is not said: only messages prove anything, since
 * a network that is cut and a bridge that hangs leave a stream open. A browser holds six connections
 * to one server, for all its tabs and for the pages that "back" leads to: a hidden page must not hold
 * one.
 */
export class Live {
  constructor(on) {
    this.on = on;
    this.source = null;
    this.opened = false;
    this.pause = FIRST_PAUSE_MS;
    this.timer = 0;
  }

  /** Whether it was closed. */
  open() {
    if (this.source !== null) return false;
    clearTimeout(this.timer);
    this.source = new EventSource("/events");
    this.source.onopen = () => {
      this.pause = FIRST_PAUSE_MS;
      this.on.opened(this.opened);
      this.opened = true;
    };
    for (const kind of ["status", "recent", "row", "event"]) {
      this.source.addEventListener(kind, (message) => this.on[kind](JSON.parse(message.data)));
    }
    this.source.onerror = () => {
      // The browser tries again by itself, except after an answer that is not a stream.
      if (this.source?.readyState !== EventSource.CLOSED) return;
      this.close();
      this.timer = setTimeout(() => this.open(), this.pause);
      this.pause = Math.min(2 * this.pause, LONGEST_PAUSE_MS);
    };
    return true;
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }
}
