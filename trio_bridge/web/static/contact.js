// Whether the page knows anything of now, judged by the age of the last message alone: a network that
// is cut and a bridge that hangs leave the stream open.

import { facts } from "./facts.js";

export class Contact {
  #heard = null;
  #listening = clocks();
  /** When the last message came, by the bridge's clock; null before the first. */
  at = null;

  /** From now on messages are expected; those of before are old. */
  listen() {
    this.#listening = clocks();
  }

  hear(at) {
    this.#heard = clocks();
    this.at = at;
  }

  /** "there"; "lost" after a silence that is too long; "sought" from `listen` to the first message. */
  get state() {
    const listened = since(this.#listening);
    const silent = this.#heard === null ? Infinity : since(this.#heard);
    if (Math.min(silent, listened) > facts.blind_s) return "lost";
    return silent <= listened ? "there" : "sought";
  }

  /** Until when a row that has not come is a row that is missing; `now` by the bridge's clock. */
  knownUntil(now) {
    return Math.min(now, this.at ?? now);
  }
}

function clocks() {
  return [Date.now() / 1000, performance.now() / 1000];
}

/** Seconds: one of the clocks can be set back, the other may stand still while the machine sleeps. */
function since(then) {
  return Math.max(...clocks().map((clock, i) => clock - then[i]));
}
