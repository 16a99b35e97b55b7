// The REST API, as promises. Addresses are relative to the page, so the app works under a path of a reverse proxy.

const TIMEOUT_MS = 20_000;

/** An answer that is no success. `status` 0: no answer at all. */
export class Refused extends Error {
  /** @param {number} status @param {string} detail fit for people @param {number|null} retryAfter in seconds */
  constructor(status, detail, retryAfter = null) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may succeed later. */
  get passing() {
    return this.status === 0 || this.status >= 500 || this.status === 429;
  }
}

export class Server {
  #csrf = "";
  #name = null;

  /** Address of an image. */
  image(key) {
    return `api/image/${encodeURIComponent(key)}`;
  }

  /** @returns {Promise<{name: string, role: string, projects: {id: string, title: string}[]}>} who is signed in */
  async me() {
    return this.#remember(await this.get("me"));
  }

  async join(token, name, password) {
    return this.#remember(await this.#send("join", { token, name, ...(password ? { password } : {}) }));
  }

  async login(name, password) {
    return this.#remember(await this.#send("login", { name, password }));
  }

  #remember(me) {
    this.#csrf = me.csrf;
    this.#name = me.name;
    return me;
  }

  get(path) {
    return this.#call(path, { cache: "no-store" });
  }

  async post(path, body = {}) {
    try {
      return await this.#send(path, body);
    } catch (error) {
      if (error.status !== 403 || this.#name === null) throw error;
      await this.#renew();
      return this.#send(path, body);
    }
  }

  #send(path, body) {
    const headers = { "Content-Type": "application/json", "X-CSRF-Token": this.#csrf };
    return this.#call(path, { method: "POST", headers, body: JSON.stringify(body) });
  }

  /** Signing in again in another tab changed the token that every POST carries. */
  async #renew() {
    const { name, csrf } = await this.get("me");
    // Somebody else signed in in this browser: what waits here is not theirs to send.
    if (name !== this.#name) throw new Refused(401, "Somebody else signed in in this browser.");
    this.#csrf = csrf;
  }

  async #call(path, options) {
    let response;
    try {
      response = await fetch(`api/${path}`, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
    } catch {
      throw new Refused(0, "The server cannot be reached.");
    }
    if (response.ok)
      return response.json().catch(() => {
        throw new Refused(0, "The answer was cut short.");
      });
    const wait = Number(response.headers.get("Retry-After"));
    const reply = await response.json().catch(() => null);
    const detail = typeof reply?.detail === "string" ? reply.detail : `The server refused (${response.status}).`;
    throw new Refused(response.status, detail.slice(0, 300), wait > 0 ? wait : null);
  }
}
