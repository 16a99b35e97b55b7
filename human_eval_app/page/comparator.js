// The annotator's page: who is there, which study, and then pairs. Begun by `comparator(element)`.

import { make, ownsKeys } from "./dom.js";
import { Help } from "./help.js";
import { joinScreen, projectsScreen, signInScreen, waitingScreen } from "./screens.js";
import { Server } from "./server.js";
import { keep, recall, shelfKey } from "./shelf.js";
import { Work } from "./work.js";

const RETRY_MS = 3000;
const LEAD = "admin/";
const NAME_KEY = shelfKey("name");

/**
 * Builds the page within `root` and runs it until the window is closed.
 * @param {HTMLElement} root
 */
export function comparator(root) {
  new Page(root).start();
}

class Page {
  #server = new Server();
  #help = new Help();
  #page = make("div", { class: "pe-page" });
  #me = null;
  #work = null;
  #token = ofAddress("join");

  constructor(root) {
    root.replaceChildren(this.#page);
    document.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("keyup", (event) => this.#work?.keyUp(event));
    window.addEventListener("hashchange", () => this.#invited());
  }

  async start() {
    this.#put(waitingScreen("Loading …"));
    try {
      this.#me = await this.#server.me();
    } catch (error) {
      if (error.status !== 401) {
        this.#again(error, () => this.start());
        return;
      }
    }
    if (!this.#me) this.#signIn("");
    else if (this.#token)
      this.#put(
        joinScreen(
          this.#me.name,
          () => this.#join(this.#me.name, ""),
          () => this.#signOut(),
        ),
      );
    else this.#entered();
  }

  /** An invitation pasted into the address of an open page. */
  #invited() {
    const token = ofAddress("join");
    if (!token) return;
    this.#token = token;
    this.#leave();
    this.start();
  }

  #put(...elements) {
    this.#page.replaceChildren(...elements, this.#help.element);
    this.#page.querySelector(".pe-form input")?.focus();
  }

  #again(error, what) {
    this.#put(waitingScreen(error.passing ? "The server cannot be reached. Trying again …" : error.message));
    if (error.passing) setTimeout(what, (error.retryAfter ?? 0) * 1000 || RETRY_MS);
  }

  #signIn(reason) {
    const known = { token: this.#token, name: ofAddress("name") ?? recall(NAME_KEY) ?? "", reason };
    this.#put(
      signInScreen(known, async (given, password) => {
        if (this.#token) await this.#join(given, password);
        else {
          this.#me = await this.#server.login(given, password);
          this.#welcome();
        }
      }),
    );
  }

  async #join(name, password) {
    this.#me = await this.#server.join(this.#token, name, password);
    window.history.replaceState(null, "", window.location.pathname + window.location.search);
    this.#token = null;
    this.#welcome();
  }

  /** A lead who has just come in goes to the lead's page; everybody else to the pairs. */
  #welcome() {
    if (this.#me.role === "admin") window.location.assign(LEAD);
    else this.#entered();
  }

  #entered() {
    const { projects, name } = this.#me;
    keep(NAME_KEY, name);
    const known = recall(shelfKey("project", name));
    const chosen = projects.length === 1 ? projects[0] : projects.find(({ id }) => id === known);
    if (chosen && this.#me.role !== "admin") this.#open(chosen.id);
    else this.#choose();
  }

  #choose() {
    this.#leave();
    const { projects, name, role } = this.#me;
    this.#put(
      projectsScreen(projects, role === "admin" ? LEAD : null, (id) => {
        keep(shelfKey("project", name), id);
        this.#open(id);
      }),
    );
  }

  #leave() {
    this.#work?.close();
    this.#work = null;
  }

  async #open(id) {
    this.#leave();
    let project;
    try {
      project = await this.#server.get(`project/${encodeURIComponent(id)}`);
    } catch (error) {
      if (error.status === 401) this.#signIn("");
      else this.#again(error, () => this.#open(id));
      return;
    }
    const work = new Work(this.#server, this.#me, project);
    this.#work = work;
    work.addEventListener("help", () => this.#help.toggle());
    work.addEventListener("leave", () => this.#choose());
    work.addEventListener("signin", () => {
      this.#leave();
      this.#signIn("You were signed out. Your answers are kept; sign in to go on.");
    });
    work.addEventListener("signout", () => this.#signOut());
    this.#put(work.element);
    work.start();
  }

  async #signOut() {
    try {
      await this.#server.post("logout");
    } catch (error) {
      if (error.status !== 401) return;
    }
    this.#leave();
    this.#me = null;
    this.#signIn("");
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || event.isComposing) return;
    if (!this.#work || ownsKeys(event.target) || this.#page.querySelector("dialog[open]")) return;
    if (event.key === "?" && this.#help.letters) this.#help.toggle();
    else if (!this.#work.key(event, this.#help.letters)) return;
    event.preventDefault();
  }
}

/** What an invitation says behind the `#`, so that it reaches no server's log: its token `join`, and whose it is. */
function ofAddress(what) {
  return new URLSearchParams(window.location.hash.slice(1)).get(what);
}
