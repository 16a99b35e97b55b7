// Answers that the server has not confirmed yet. Each lies under a key of its own in localStorage, so that two tabs
// never overwrite one another's, and stays there until the server has it: a reload, a closed laptop or a lost
// connection loses none. The server stores each (assignment, revision) once, so sending twice does no harm.

import { forget, keep, keysOf, recall, shelfKey } from "./shelf.js";

/** @typedef {{assignment: string, revision: number, choice: string, seconds: number}} Answer */

export class Outbox {
  #prefix;

  constructor(annotator, project) {
    this.#prefix = `${shelfKey("outbox", annotator, project)}|`;
  }

  #key(answer) {
    return `${this.#prefix}${encodeURIComponent(answer.assignment)}|${answer.revision}`;
  }

  /** @returns {{answer: Answer, order: number, tried: boolean}[]} in the order they were given */
  entries() {
    const found = keysOf(this.#prefix)
      .map(recall)
      .filter((entry) => entry?.answer);
    return found.sort((a, b) => a.order - b.order);
  }

  /** Whether an answer to this assignment, at this revision, waits here. */
  has({ assignment, revision }) {
    return recall(this.#key({ assignment, revision })) !== null;
  }

  /** @param {Answer} answer */
  add(answer) {
    const last = this.entries().at(-1)?.order ?? 0;
    keep(this.#key(answer), { answer, order: Math.max(Date.now(), last + 1), tried: false });
  }

  /** The server may have this answer now: it can no longer be taken back without asking it. */
  tried(entry) {
    keep(this.#key(entry.answer), { ...entry, tried: true });
  }

  remove(entry) {
    forget(this.#key(entry.answer));
  }
}
