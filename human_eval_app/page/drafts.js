// Marks, words and yes/no answers of pairs that are being looked at: kept over a reload, and given back by an undo.

import { forget, keep, keysOf, recall, shelfKey } from "./shelf.js";

/** @typedef {{marks: Object[], words: number[], checks: Object[]}} Draft */

export class Drafts {
  #prefix;

  constructor(annotator, project) {
    this.#prefix = `${shelfKey("draft", annotator, project)}|`;
  }

  /** @returns {Draft} what was noted for this assignment, empty at first */
  of(assignment) {
    return { marks: [], words: [], checks: [], ...recall(this.#prefix + encodeURIComponent(assignment)) };
  }

  /** @param {string} assignment @param {Draft} draft */
  save(assignment, draft) {
    keep(this.#prefix + encodeURIComponent(assignment), draft);
  }

  /** Forgets all but these assignments. */
  prune(assignments) {
    const wanted = new Set(assignments.map((id) => this.#prefix + encodeURIComponent(id)));
    for (const key of keysOf(this.#prefix)) if (!wanted.has(key)) forget(key);
  }
}
