// What comes from the bridge: history on request, everything else by itself.

const PATIENCE_MS = 20_000;
const LONGEST_PAUSE_MS = 15_000;

/** The answer of /api/rows. Throws an Error whose message is fit for a person. */
export async function fetchRows(start, end, points) {
  const query = new URLSearchParams({ from: start.toFixed(3), to: end.toFixed(3), points });
  return fetchJson(`/api/rows?${query}`);
}

export async function fetchStatus() {
  return fetchJson("/api/status");
}

/** The last rows that became safe, oldest first: the database may not have all of them yet. */
export async function fetchRecent() {
  return fetchJson("/api/recent");
}

export async function fetchEvents(limit) {
  return fetchJson(`/api/events?limit=${limit}`);
}

async function fetchJson(url) {
  const answer = await fetch(url, { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (answer.status === 401) location.reload(); // the token has changed: the server asks for it
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error ?? `HTTP ${answer.status}`);
  return told;
}

/**
 * Follow the bridge for ever. `on` has status, row and event, each called with what was told,
 * opened(again) when a stream begins, and lost() when it ends.
 */
export function follow(on) {
  let opened = 0;
  let pause = 1_000;
  const connect = () => {
    const source = new EventSource("/events");
    source.onopen = () => {
      pause = 1_000;
      opened += 1;
      on.opened(opened > 1);
    };
    for (const kind of ["status", "row", "event"]) {
      source.addEventListener(kind, (message) => on[kind](JSON.parse(message.data)));
    }
    source.onerror = () => {
      on.lost();
      // The browser tries again by itself, except after an answer that was no stream.
      if (source.readyState === EventSource.CLOSED) {
        setTimeout(connect, pause);
        pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
      }
    };
  };
  connect();
}
