// One project on the page: which of its screens is shown, from the session's state.

import { Desk } from "./desk.js";
import { Drafts } from "./drafts.js";
import { make } from "./dom.js";
import { Header } from "./header.js";
import { Pictures } from "./pictures.js";
import {
  breakScreen,
  elsewhereScreen,
  finishedScreen,
  introductionScreen,
  pausedScreen,
  waitingScreen,
} from "./screens.js";
import { Session } from "./session.js";
import { Tabs } from "./tabs.js";

/** Events: `leave`, `signout`, `help` (from the header), `signin` (the session ended). */
export class Work extends EventTarget {
  #project;
  #session;
  #header;
  #desk;
  #pictures;
  #tabs;
  #screen = make("div", { class: "pe-body" });
  #what = null; // the screen that is shown
  #atBreak = false;
  #pending = null; // a practice answer whose feedback is awaited

  /**
   * @param {Server} server @param {{name: string, projects: Object[]}} me @param {Object} project of the contract
   */
  constructor(server, me, project) {
    super();
    this.#project = project;
    this.#session = new Session(server, me.name, project.id);
    this.#pictures = new Pictures(server);
    this.#desk = new Desk(project, this.#pictures, new Drafts(me.name, project.id));
    this.#header = new Header(me.name, me.projects.length > 1);
    this.#tabs = new Tabs(`${me.name}|${project.id}`, () => {
      this.#session.active = false;
      this.#render();
    });
    this.element = make("div", { class: "pe-work" }, this.#header.element, this.#header.banner, this.#screen);
    for (const type of ["help", "leave", "signout"])
      this.#header.addEventListener(type, () => this.dispatchEvent(new Event(type)));
    this.#session.addEventListener("change", () => this.#render());
    this.#session.addEventListener("notice", ({ detail }) => this.#desk.say(detail));
    this.#session.addEventListener("signin", () => this.dispatchEvent(new Event("signin")));
    this.#session.addEventListener("feedback", ({ detail }) => this.#teach(detail));
    this.#desk.addEventListener("answer", ({ detail }) => this.#answer(detail));
    this.#desk.addEventListener("undo", () => this.undo());
  }

  /** Takes over from other tabs and begins, or goes on after a sign-in. */
  start() {
    this.#session.active = true;
    this.#tabs.claim();
    this.#render();
    return this.#session.resume();
  }

  /** The page shows something else for good. */
  close() {
    this.#session.active = false;
    this.#tabs.close();
  }

  #answer(answer) {
    const { batch, done, total } = this.#session.progress;
    const practice = this.#session.state.phase === "training";
    this.#pending = practice ? answer : null;
    this.#atBreak = !practice && batch.size > 0 && (batch.done + 1) % batch.size === 0 && done + 1 < total;
    this.#session.answer(answer);
  }

  #teach(feedback) {
    if (!this.#pending) return;
    this.#pending = null;
    this.#desk.teach(feedback, () => this.#render());
  }

  async undo() {
    if (!this.#session.canUndo || this.#desk.teaching) return;
    this.#atBreak = false;
    if (await this.#session.undo()) this.#desk.say("Your last answer was taken back.");
    this.#render();
  }

  // ---- which screen --------------------------------------------------------------------------------------------

  #render() {
    const session = this.#session;
    this.#header.show(session);
    if (!session.active) {
      this.#put("elsewhere", () => elsewhereScreen(() => this.start()));
      return;
    }
    const { state } = session;
    if (!state) {
      const text = session.offline ? "No connection yet …" : "Loading …";
      this.#put(`waiting ${text}`, () => waitingScreen(text));
      return;
    }
    if (this.#desk.teaching) return;
    if (this.#pending && session.outbox.has(this.#pending)) return;
    this.#pending = null;
    const [item, ...later] = session.queue;
    const settled = session.outbox.entries().length === 0;
    if (state.phase === "introduction") {
      this.#put("introduction", () =>
        introductionScreen(this.#project, () => session.begin()),
      );
    } else if (state.phase === "paused") this.#put("paused", () => pausedScreen(() => session.refresh()));
    else if (this.#atBreak) this.#break();
    else if (item) this.#judge(item, later);
    else if (state.phase === "finished" && settled) this.#finished();
    else this.#judge(null, []);
  }

  #break() {
    const { done, total } = this.#session.progress;
    const facts = { done, total, secondsLeft: this.#session.state.seconds_left };
    this.#pictures.prefetch(this.#session.queue);
    this.#put("break", () =>
      breakScreen(
        facts,
        () => {
          this.#atBreak = false;
          this.#render();
        },
        () => this.undo(),
      ),
    );
  }

  #finished() {
    const { done } = this.#session.progress;
    this.#put(`finished ${done}`, () => finishedScreen({ done }, this.#session.canUndo ? () => this.undo() : null));
  }

  #judge(item, later) {
    this.#put("desk", () => this.#desk.element);
    this.#desk.setUndo(this.#session.canUndo);
    this.#desk.show(
      item,
      this.#session.remembered,
      this.#session.offline ? "Waiting for the connection …" : "Loading …",
    );
    this.#pictures.prefetch([...later, ...(item ? [item] : [])]);
  }

  /** Shows the screen `what`, made by `make` when another one is shown now. */
  #put(what, makeScreen) {
    if (this.#what === what) return;
    this.#what = what;
    if (what !== "desk") this.#desk.clear();
    this.#header.brief = what !== "desk";
    const element = makeScreen();
    this.#screen.replaceChildren(element);
    this.#header.element.hidden = what === "introduction" || what === "elsewhere";
    // The heading is read out; Enter presses the main button from there.
    if (what !== "desk") element.querySelector(".pe-title")?.focus({ preventScroll: true });
  }

  // ---- keys ----------------------------------------------------------------------------------------------------

  key(event, letters) {
    if (this.#what === "desk") return this.#desk.key(event, letters);
    const button = event.target instanceof HTMLButtonElement;
    if (event.key === "Enter" && !button && !event.repeat) {
      const go = this.#screen.querySelector(".pe-accent");
      go?.click();
      return Boolean(go);
    }
    if (letters && event.key.toLowerCase() === "u" && !event.repeat) {
      const undo = this.#screen.querySelector("[data-choice=undo]");
      undo?.click();
      return Boolean(undo);
    }
    return false;
  }

  keyUp(event) {
    if (this.#what === "desk") this.#desk.keyUp(event);
  }
}
