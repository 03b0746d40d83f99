// The latest events: what they are told apart by, and runs of them that are one line.

import { facts } from "./facts.js";

const PAUSE_S = 600; // After this long it is another run.

/** The same for an event that comes twice: live, and in an answer. */
export function identity(event) {
  return `${event.timestamp} ${event.message}`;
}

/**
 * Runs of attempts, in the order of their ends: {event: the last one, count, first, last}, times in
 * seconds. Attempts may alternate: the circuit opens and half opens; other events end every run.
 */
export function folded(events) {
  const runs = [];
  for (const event of events) {
    const at = Date.parse(event.timestamp) / 1000;
    let i = runs.length - 1;
    while (i >= 0 && repeats(runs[i].event) && runs[i].event.kind !== event.kind) i -= 1;
    if (repeats(event) && runs[i]?.event.kind === event.kind && at - runs[i].last <= PAUSE_S) {
      const [run] = runs.splice(i, 1);
      runs.push({ ...run, event, count: run.count + 1, last: at });
    } else {
      runs.push({ event, count: 1, first: at, last: at });
    }
  }
  return runs;
}

function repeats({ kind }) {
  return facts.folded.includes(kind);
}
