// The answers: one key and one button each. Skipping asks why.

import { make } from "./dom.js";

/** On an upright phone the images stand one above the other, and the words follow. */
const CHOICES = [
  { choice: "left", text: "Left", narrow: "Upper", label: "←", keys: ["ArrowLeft", "1"], main: true },
  { choice: "tie", text: "Tie", label: "↓", keys: ["ArrowDown", "2", "t"], main: true },
  { choice: "right", text: "Right", narrow: "Lower", label: "→", keys: ["ArrowRight", "3"], main: true },
  { choice: "both_bad", text: "Both bad", label: "B", keys: ["b"] },
  {
    choice: "reject",
    text: "Mixed styles",
    narrow: "Mixed",
    label: "R",
    keys: ["r"],
    why: "One is a photo, the other is stylised: they cannot be compared",
  },
  { choice: "skip", text: "Skip", label: "S", keys: ["s"], menu: true },
];

/** What a choice is called on the page, wide or narrow. */
export function choiceName(choice) {
  const { text, narrow } = CHOICES.find((known) => known.choice === choice) ?? { text: choice };
  return [make("span", { class: "pe-wide", text }), make("span", { class: "pe-narrow", text: narrow ?? text })];
}

/** Events: `answer` (detail: {choice, reason}), `undo`. */
export class Answers extends EventTarget {
  #shown = new Set();
  #reasons = [];
  #buttons = new Map();

  constructor() {
    super();
    const row = (name) => make("div", { class: `pe-row ${name}` });
    const [main, minor, back] = [row("pe-judge"), row("pe-minor"), row("pe-back")];
    for (const known of CHOICES) {
      const button = make(
        "button",
        {
          type: "button",
          class: `pe-choice${known.main ? " pe-main" : ""}`,
          "data-choice": known.choice,
          title: known.why,
          "aria-haspopup": known.menu ? "dialog" : null,
          on: { click: () => this.choose(known.choice) },
        },
        ...choiceName(known.choice),
        make("kbd", { text: known.label }),
      );
      this.#buttons.set(known.choice, button);
      (known.main ? main : minor).append(button);
    }
    this.undoButton = make(
      "button",
      {
        type: "button",
        class: "pe-choice",
        "data-choice": "undo",
        on: { click: () => this.dispatchEvent(new Event("undo")) },
      },
      make("span", { text: "Undo" }),
      make("kbd", { text: "U" }),
    );
    back.append(this.undoButton);
    this.menu = make("dialog", { class: "pe-dialog", "aria-labelledby": "pe-skip-title" });
    this.menu.addEventListener("keydown", (event) => this.#menuKey(event));
    this.element = make("div", { class: "pe-answers" }, main, minor, back, this.menu);
  }

  /** @param {string[]} choices of the question @param {string[]} reasons to skip */
  show(choices, reasons) {
    this.#shown = new Set(choices);
    this.#reasons = reasons;
    for (const [choice, button] of this.#buttons) button.hidden = !this.#shown.has(choice);
  }

  /** @returns {boolean} whether a key stands for an answer that can be given now */
  key(key) {
    const found = CHOICES.find((known) => known.keys.includes(key) && this.#shown.has(known.choice));
    if (found) this.choose(found.choice);
    return Boolean(found);
  }

  choose(choice) {
    if (choice === "skip" && this.#reasons.length > 0) this.#ask();
    else this.#tell(choice, null);
  }

  #tell(choice, reason) {
    const button = this.#buttons.get(choice);
    button.classList.add("pe-pressed");
    setTimeout(() => button.classList.remove("pe-pressed"), 150);
    this.dispatchEvent(new CustomEvent("answer", { detail: { choice, reason } }));
  }

  #ask() {
    const options = this.#reasons.map((reason, i) =>
      make(
        "button",
        {
          type: "button",
          class: "pe-choice",
          on: { click: () => this.#skip(reason) },
        },
        make("span", { text: reason }),
        i < 9 ? make("kbd", { text: String(i + 1) }) : null,
      ),
    );
    this.menu.replaceChildren(
      make("h2", { id: "pe-skip-title", text: "Why skip this pair?" }),
      make("div", { class: "pe-list" }, ...options),
      make("button", {
        type: "button",
        class: "pe-choice",
        text: "Back (Esc)",
        on: { click: () => this.menu.close() },
      }),
    );
    this.menu.showModal();
  }

  #skip(reason) {
    this.menu.close();
    this.#tell("skip", reason);
  }

  #menuKey(event) {
    const reason = this.#reasons[Number(event.key) - 1];
    if (!reason || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.#skip(reason);
  }
}
