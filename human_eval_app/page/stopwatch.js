// Seconds a pair was looked at: time with the page hidden does not count.

export class Stopwatch {
  #passed = 0;
  #since = null;

  constructor() {
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#pause() : this.#resume()));
  }

  #running = false;

  #pause() {
    if (this.#since !== null) this.#passed += performance.now() - this.#since;
    this.#since = null;
  }

  #resume() {
    if (this.#running && this.#since === null) this.#since = performance.now();
  }

  start() {
    this.#passed = 0;
    this.#since = null;
    this.#running = true;
    if (!document.hidden) this.#resume();
  }

  /** @returns {number} milliseconds since `start` */
  read() {
    return this.#passed + (this.#since === null ? 0 : performance.now() - this.#since);
  }
}
