// Where a pair is judged: question, text, images, tools, yes/no questions and answers, and the keys of all these.

import { Answers, choiceName } from "./answers.js";
import { Checks } from "./checks.js";
import { Crosshair } from "./crosshair.js";
import { make } from "./dom.js";
import { Gestures } from "./gestures.js";
import { MarkEditor } from "./mark_editor.js";
import { Marks } from "./marks.js";
import { Prompt } from "./prompt.js";
import { Stopwatch } from "./stopwatch.js";
import { Toolbar } from "./toolbar.js";
import { SIDES, Viewer } from "./viewer.js";

const GUARD_MS = 250; // an answer sooner after the pair appears belongs to the pair before
const PAN_PX = 60;
const UNJUDGED = ["skip", "reject"];

const same = (a, b) => Boolean(a && b) && a.assignment === b.assignment && a.revision === b.revision;

/** Events: `answer` (detail: the body of a vote), `undo`. */
export class Desk extends EventTarget {
  #project;
  #pictures;
  #drafts;
  #item = null;
  #ready = false;
  #broken = false; // an image did not load, which may be the connection's fault: the next look tries again
  #stopwatch = new Stopwatch();
  #goOn = null; // what "continue" of the feedback does

  #viewer = new Viewer();
  #marks = new Marks(this.#viewer);
  #editor;
  #toolbar = new Toolbar(this.#viewer);
  #gestures = new Gestures(this.#viewer, this.#marks);
  #crosshair = new Crosshair(this.#viewer, this.#marks, (text) => this.say(text));
  #prompt = new Prompt();
  #checks = new Checks();
  #answers = new Answers();
  #title = make("h1", { class: "pe-title" });
  #hint = make("p", { class: "pe-hint" });
  #status = make("p", { class: "pe-status", role: "status" });
  #waiting = make("p", { class: "pe-waiting", role: "status", hidden: true });
  #feedback = make("section", { class: "pe-feedback", role: "alert", hidden: true });

  /** @param {Object} project of the contract @param {Pictures} pictures @param {Drafts} drafts */
  constructor(project, pictures, drafts) {
    super();
    this.#project = project;
    this.#pictures = pictures;
    this.#drafts = drafts;
    this.#marks.setCategories(project.mark_categories ?? []);
    for (const side of SIDES) {
      const [wide, narrow] = side === "left" ? ["Left", "Upper"] : ["Right", "Lower"];
      this.#viewer.frames[side].name.append(
        make("span", { class: "pe-wide", text: wide }),
        make("span", { class: "pe-narrow", text: narrow }),
      );
    }
    this.#viewer.element.tabIndex = -1;
    const ask = make(
      "section",
      { class: "pe-ask", "aria-live": "polite" },
      this.#title,
      this.#hint,
      this.#prompt.element,
    );
    this.element = make(
      "div",
      { class: "pe-desk" },
      ask,
      this.#viewer.element,
      this.#waiting,
      this.#toolbar.element,
      this.#checks.element,
      make("div", { class: "pe-foot" }, this.#answers.element, this.#feedback, this.#status),
    );
    this.#editor = new MarkEditor(this.#marks, this.#viewer.element, this.element);
    this.#listen();
  }

  #listen() {
    const note = () => this.#save();
    this.#prompt.addEventListener("change", note);
    this.#checks.addEventListener("change", note);
    this.#marks.addEventListener("change", () => {
      note();
      this.#drawTools();
    });
    this.#viewer.addEventListener("view", () => this.#editor.follow());
    this.#toolbar.addEventListener("mark", () => this.#arm(!this.#marks.armed, false));
    this.#answers.addEventListener("answer", ({ detail }) => this.#answer(detail));
    this.#answers.addEventListener("undo", () => this.dispatchEvent(new Event("undo")));
    this.#viewer.element.addEventListener("pointerdown", () => this.#crosshair.hide(), true);
    // A button that was clicked keeps no focus, or the next Space would press it again.
    for (const part of [this.#toolbar.element, this.#answers.element]) {
      part.addEventListener("click", (event) => {
        if (event.detail > 0) event.target.closest("button")?.blur();
      });
    }
  }

  /** Text for everyone, read out too. */
  say(text) {
    this.#status.textContent = text;
  }

  // ---- the pair ------------------------------------------------------------------------------------------------

  /** Whether the feedback of a practice pair is on the page. */
  get teaching() {
    return this.#goOn !== null;
  }

  /** Lets the same pair be shown anew, as after an undo. */
  clear() {
    this.#item = null;
    this.#ready = false;
    this.#editor.close();
  }

  setUndo(possible) {
    this.#answers.undoButton.disabled = !possible;
  }

  /**
   * Shows a pair once its images are decoded, at once when they were loaded ahead.
   * @param {Item|null} item null while the next is on its way
   * @param {string[]} remembered assignments whose notes must be kept
   */
  async show(item, remembered, waitingText = "Loading …") {
    if (item && same(item, this.#item) && !this.#broken) return;
    this.#item = item;
    this.#ready = false;
    this.#editor.close();
    if (!item) {
      this.#wait(waitingText);
      return;
    }
    const pictures = Object.fromEntries(SIDES.map((side) => [side, this.#pictures.load(side, item[side].key)]));
    if (SIDES.some((side) => pictures[side].fine === null)) {
      this.#wait("Loading …", 150);
      await Promise.all(SIDES.map((side) => pictures[side].settled));
      if (!same(item, this.#item)) return;
    }
    clearTimeout(this.#waitingTimer);
    this.#waiting.hidden = true;
    this.#broken = SIDES.some((side) => !pictures[side].fine);
    this.#drafts.prune([...remembered, item.assignment]);
    this.#fill(item);
    this.#viewer.element.hidden = false;
    this.#viewer.show(pictures, { left: item.left, right: item.right });
    this.#whenPainted(() => this.#begin(item));
  }

  #waitingTimer = null;

  #wait(text, afterMs = 0) {
    clearTimeout(this.#waitingTimer);
    this.#waitingTimer = setTimeout(() => {
      this.#waiting.textContent = text;
      this.#waiting.hidden = false;
      this.#viewer.element.hidden = true;
    }, afterMs);
  }

  #fill(item) {
    const question = this.#project.questions.find(({ id }) => id === item.question) ?? {
      id: item.question,
      title: item.question,
      hint: "",
      choices: ["left", "tie", "right", "skip"],
    };
    const draft = this.#drafts.of(item.assignment);
    this.element.dataset.question = item.question;
    if (this.#title.textContent !== question.title) this.#title.textContent = question.title;
    if (this.#hint.textContent !== question.hint) this.#hint.textContent = question.hint;
    this.#prompt.show(item.prompt, Boolean(question.words), draft.words);
    this.#checks.show(question.checks ? (item.checks ?? []) : [], draft.checks);
    this.#answers.show(question.choices, this.#project.skip_reasons ?? []);
    this.#answers.element.hidden = false;
    this.#feedback.hidden = true;
    if (this.#crosshair.active || !question.marks) this.#arm(false, false);
    this.#marks.possible = Boolean(question.marks);
    this.#marks.set(draft.marks);
    this.#drawTools();
  }

  /** Time and the guard count from the frame in which both images are there. */
  #begin(item) {
    if (!same(item, this.#item)) return;
    this.#ready = true;
    this.#stopwatch.start();
    this.element.dataset.shown = `${item.assignment}/${item.revision}`;
    if (performance.getEntriesByName("pixeval:answer").length > 0) {
      performance.measure("pixeval:next-pair", "pixeval:answer");
      performance.clearMarks("pixeval:answer");
    }
  }

  /** After the next frame has been drawn: a message from within it is handled once it is done. */
  #whenPainted(then) {
    const channel = new MessageChannel();
    channel.port1.onmessage = then;
    requestAnimationFrame(() => channel.port2.postMessage(null));
  }

  #save() {
    if (!this.#item) return;
    const notes = { marks: this.#marks.list, words: this.#prompt.words, checks: this.#checks.answers };
    this.#drafts.save(this.#item.assignment, notes);
  }

  // ---- answers -------------------------------------------------------------------------------------------------

  #answer({ choice, reason }) {
    const elapsed = this.#stopwatch.read();
    if (!this.#item || !this.#ready || this.teaching || elapsed < GUARD_MS) return;
    if (!UNJUDGED.includes(choice) && !this.#checks.complete) {
      this.say("Please answer the yes/no questions first: Y, N, or U when it cannot be told.");
      this.#checks.focus();
      return;
    }
    this.#ready = false;
    this.#editor.close();
    this.say("");
    performance.clearMarks("pixeval:answer");
    performance.mark("pixeval:answer");
    const { assignment, revision } = this.#item;
    const answer = {
      assignment,
      revision,
      choice,
      seconds: Math.round(elapsed) / 1000,
      marks: this.#marks.list,
      words: this.#prompt.words,
      checks: this.#checks.answers.filter(({ left, right }) => left && right),
    };
    if (reason) answer.reason = reason;
    this.dispatchEvent(new CustomEvent("answer", { detail: answer }));
  }

  /** Shows what was expected of a practice pair, under the pair; `goOn` is called when it has been read. */
  teach({ correct, expected, why }, goOn) {
    const button = make("button", {
      type: "button",
      class: "pe-choice pe-accent",
      text: "Go on (Enter)",
      on: { click: () => this.#learnt() },
    });
    const verdict = correct ? ["That is the expected answer."] : ["Expected: ", ...choiceName(expected), "."];
    this.#feedback.replaceChildren(
      make("p", {}, make("strong", { class: correct ? "pe-right" : "pe-wrong" }, ...verdict), ` ${why ?? ""}`),
      button,
    );
    performance.clearMarks("pixeval:answer"); // reading is no waiting
    this.#feedback.hidden = false;
    this.#answers.element.hidden = true;
    this.#goOn = goOn;
    button.focus();
  }

  #learnt() {
    const goOn = this.#goOn;
    this.#goOn = null;
    this.#feedback.hidden = true;
    this.#answers.element.hidden = false;
    goOn?.();
  }

  // ---- marking -------------------------------------------------------------------------------------------------

  /** Takes the marking tool, or puts it away; `byKey` shows the cross. */
  #arm(armed, byKey) {
    this.#marks.armed = armed;
    if (armed && byKey) {
      this.#viewer.element.focus({ preventScroll: true });
      this.#crosshair.show();
    } else {
      this.#crosshair.hide();
      this.say(armed ? "Click a flaw for a point, or drag a box around it." : "");
    }
    this.#viewer.element.classList.toggle("pe-marking", armed);
    this.#drawTools();
  }

  #drawTools() {
    this.#toolbar.showMarks(Boolean(this.#marks.possible), this.#marks.armed, this.#marks.list.length);
  }

  // ---- keys ----------------------------------------------------------------------------------------------------

  /** @param {boolean} letters whether single letters and signs are keys @returns {boolean} whether the key was used */
  key(event, letters) {
    if (this.teaching) return this.#teachingKey(event);
    if (this.#crosshair.active && this.#crosshair.key(event)) return true;
    const arrow = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (arrow && event.shiftKey) {
      this.#pan(arrow);
      return true;
    }
    if (event.repeat && !["+", "=", "-", ",", "."].includes(event.key)) return Boolean(arrow);
    if (event.key === "Escape") {
      if (!this.#marks.armed) return false;
      this.#arm(false, false);
      return true;
    }
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key.length === 1 && key !== " " && !letters) return false;
    return this.#lookKey(key, event) || (!event.shiftKey && this.#answers.key(key));
  }

  #teachingKey(event) {
    if (event.repeat || (event.key !== "Enter" && event.key !== " ")) return false;
    this.#learnt();
    return true;
  }

  #pan([x, y]) {
    this.#viewer.change((camera) => camera.pan(this.#viewer.side, PAN_PX * x, PAN_PX * y));
  }

  #lookKey(key, event) {
    const viewer = this.#viewer;
    const at = this.#gestures.hover ?? {
      side: viewer.side,
      x: viewer.camera.frame.width / 2,
      y: viewer.camera.frame.height / 2,
    };
    const zoom = (direction) => viewer.change((camera) => camera.step(direction, at.side, at.x, at.y));
    const actions = {
      "+": () => zoom(1),
      "=": () => zoom(1),
      "-": () => zoom(-1),
      _: () => zoom(-1),
      z: () => viewer.change((camera) => camera.toggle(at.side, at.x, at.y)),
      0: () => this.#toolbar.toggleHome(),
      v: () => this.#toolbar.setMode("pair"),
      w: () => this.#toolbar.toggleMode("slider"),
      f: () => this.#toolbar.toggleMode("flicker"),
      l: () => this.#toolbar.toggleLock(),
      o: () => this.#otherSide(),
      p: () => this.#prompt.focus(),
      q: () => this.#checks.focus(),
      u: () => this.dispatchEvent(new Event("undo")),
    };
    if (viewer.mode === "slider") {
      actions[","] = () => viewer.setDivider(viewer.divider - 0.05);
      actions["."] = () => viewer.setDivider(viewer.divider + 0.05);
    }
    if (viewer.mode === "flicker" && !(event.target instanceof HTMLButtonElement)) {
      actions[" "] = () => viewer.turn.press();
    }
    if (this.#marks.possible) actions.m = () => this.#arm(!this.#marks.armed, true);
    if (!Object.hasOwn(actions, key)) return false;
    actions[key]();
    return true;
  }

  #otherSide() {
    const side = this.#viewer.side === "left" ? "right" : "left";
    this.#viewer.choose(side);
    this.say(`${side === "left" ? "Left" : "Right"} image chosen.`);
  }

  /** The end of a glance at the other image. */
  keyUp(event) {
    if (event.key === " " && this.#viewer.mode === "flicker") this.#viewer.turn.release();
  }
}
