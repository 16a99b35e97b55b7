// One annotator's work in one project: what the server said last, what it has not been told yet, and one request at a
// time between the two.

import { Outbox } from "./outbox.js";

const FIRST_RETRY_MS = 1000;
const LAST_RETRY_MS = 30_000;

/**
 * @typedef {{assignment: string, revision: number, question: string, prompt: string|null, checks: string[],
 *   left: {key: string, width: number, height: number}, right: {key: string, width: number, height: number}}} Item
 */

/**
 * Events: `change` (state, outbox or connection), `feedback` (detail: {correct, expected, why}), `notice` (detail:
 * text for the annotator), `signin` (the session ended; call `resume` after signing in).
 */
export class Session extends EventTarget {
  #server;
  #path;
  #retry = null;
  #retryMs = FIRST_RETRY_MS;
  #flushing = null;
  #asked = 0;

  /** The latest STATE of the contract, or null before the first. */
  state = null;
  /** Whether the last request found no server. */
  offline = false;
  /** False in a tab that another one took over from: it sends nothing. */
  active = true;

  constructor(server, annotator, project) {
    super();
    this.#server = server;
    this.#path = `project/${encodeURIComponent(project)}`;
    this.outbox = new Outbox(annotator, project);
    window.addEventListener("online", () => this.resume());
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** @returns {Item[]} what waits for an answer, the pair to show first */
  get queue() {
    return (this.state?.queue ?? []).filter((item) => !this.outbox.has(item));
  }

  /** @returns {{done: number, total: number, batch: {done: number, size: number}}} answers on their way included */
  get progress() {
    const { done = 0, total = 0, batch = null } = this.state ?? {};
    const waiting = (this.state?.queue ?? []).length - this.queue.length;
    const size = batch?.size ?? total;
    return {
      done: Math.min(total, done + waiting),
      total,
      batch: { done: (batch?.done ?? done) + waiting, size },
    };
  }

  get canUndo() {
    return Boolean(this.state?.last) || this.outbox.entries().length > 0;
  }

  /** @returns {string[]} assignments whose notes may be needed again */
  get remembered() {
    const near = [...(this.state?.queue ?? []), ...this.outbox.entries().map((entry) => entry.answer)];
    return [...near, this.state?.last].filter(Boolean).map((item) => item.assignment);
  }

  /** Keeps an answer and sends it. */
  answer(answer) {
    this.outbox.add(answer);
    this.#tell("change");
    return this.flush();
  }

  /** Asks for the state, then sends what waits. */
  async refresh() {
    if (!this.active) return;
    await this.#ask(() => this.#server.get(`${this.#path}/next`));
    await this.flush();
  }

  /** The introduction has been read. */
  begin() {
    return this.#ask(() => this.#server.post(`${this.#path}/begin`));
  }

  /** After a sign-in, or when the network is back. */
  resume() {
    clearTimeout(this.#retry);
    this.#retryMs = FIRST_RETRY_MS;
    return this.refresh();
  }

  /** Takes the latest answer back: here when it was not sent, otherwise on the server. */
  async undo() {
    const latest = this.outbox.entries().at(-1);
    if (latest && !latest.tried) {
      this.outbox.remove(latest);
      this.#tell("change");
      return true;
    }
    await this.flush();
    if (this.outbox.entries().length > 0 || this.offline) {
      this.#tell("notice", "Your last answer is still on its way; it can be taken back when the connection returns.");
      return false;
    }
    const { last } = this.state;
    return last ? this.#ask(() => this.#server.post(`${this.#path}/undo`, last)) : false;
  }

  /** A request whose reply is a STATE; true when it came. */
  async #ask(request) {
    const asked = (this.#asked += 1);
    try {
      const reply = await request();
      // A reply that was overtaken by a newer one would put answered pairs back.
      if (asked === this.#asked) this.#take(reply);
      return true;
    } catch (error) {
      await this.#fail(error);
      return false;
    }
  }

  #take({ stored, feedback, ...state }) {
    this.state = state;
    this.offline = false;
    this.#retryMs = FIRST_RETRY_MS;
    if (feedback) this.#tell("feedback", feedback);
    this.#tell("change");
  }

  /** Sends what waits, oldest first. Calls while it runs join the one that runs. */
  flush() {
    this.#flushing ??= this.#send().finally(() => {
      this.#flushing = null;
    });
    return this.#flushing;
  }

  async #send() {
    for (let entry; this.active && (entry = this.outbox.entries()[0]);) {
      this.outbox.tried(entry);
      const asked = (this.#asked += 1);
      try {
        const reply = await this.#server.post(`${this.#path}/vote`, entry.answer);
        this.outbox.remove(entry);
        if (asked === this.#asked) this.#take(reply);
        else this.#tell("change");
      } catch (error) {
        if (error.passing || error.status === 401 || error.status === undefined) {
          this.#fail(error);
          return;
        }
        if (!(await this.#reject(entry, error))) return;
      }
    }
  }

  /** An answer that the server does not take; true when sending can go on. */
  async #reject(entry, error) {
    const told = await this.#ask(() => this.#server.get(`${this.#path}/next`));
    // While a study is paused it takes no answers; this one waits until it goes on.
    if (!told || this.state.phase === "paused") return false;
    this.outbox.remove(entry);
    const lost = error.status === 409 || error.status === 404;
    this.#tell("notice", lost ? `One answer is not needed any more: ${error.message}` : error.message);
    this.#tell("change");
    return true;
  }

  #fail(error) {
    if (error.status === undefined) throw error; // a mistake in this program, not an answer
    if (error.status === 401) {
      this.#tell("signin");
      return;
    }
    if (!error.passing) {
      this.#tell("notice", error.message);
      this.#tell("change");
      return;
    }
    this.offline = error.status !== 429;
    clearTimeout(this.#retry);
    const wait = (error.retryAfter ?? 0) * 1000 || this.#retryMs * (0.75 + Math.random() / 2);
    this.#retry = setTimeout(() => this.refresh(), wait);
    this.#retryMs = Math.min(LAST_RETRY_MS, this.#retryMs * 2);
    this.#tell("change");
  }
}
