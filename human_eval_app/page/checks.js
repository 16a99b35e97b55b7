// The yes/no questions about a text, answered for each image: a row for each, mirrored as the images are.

import { make } from "./dom.js";
import { SIDES } from "./viewer.js";

const REPLIES = [
  ["yes", "Yes", "y"],
  ["no", "No", "n"],
  ["unsure", "?", "u"],
];

/** Events: `change`. */
export class Checks extends EventTarget {
  #questions = [];
  #replies = new Map(); // "row/side" -> reply
  element = make("section", { class: "pe-checks", "aria-label": "Yes/no questions about each image", hidden: true });

  /** @param {string[]} questions @param {{question: string, left: string, right: string}[]} answered before */
  show(questions, answered) {
    this.#questions = questions;
    this.#replies = new Map();
    questions.forEach((question, row) => {
      const known = answered.find((answer) => answer.question === question);
      for (const side of SIDES) if (known?.[side]) this.#replies.set(`${row}/${side}`, known[side]);
    });
    this.element.hidden = questions.length === 0;
    const name = (wide, narrow) =>
      make(
        "span",
        {},
        make("span", { class: "pe-wide", text: wide }),
        make("span", { class: "pe-narrow", text: narrow }),
      );
    const head = make(
      "div",
      { class: "pe-check pe-check-head", "aria-hidden": "true" },
      name("Left", "Upper"),
      name("Right", "Lower"),
    );
    this.element.replaceChildren(
      head,
      ...questions.map((question, row) =>
        make(
          "div",
          { class: "pe-check" },
          this.#group(row, "left"),
          make("span", { class: "pe-question", text: question }),
          this.#group(row, "right"),
        ),
      ),
    );
  }

  #group(row, side) {
    const chosen = this.#replies.get(`${row}/${side}`);
    const inputs = REPLIES.map(([reply, text, key], i) =>
      make("button", {
        type: "button",
        role: "radio",
        class: "pe-reply",
        "data-reply": reply,
        "aria-checked": String(reply === chosen),
        tabindex: (chosen ? reply === chosen : i === 0) ? "0" : "-1",
        "aria-label": { yes: "Yes", no: "No", unsure: "Cannot tell" }[reply],
        title: `${{ yes: "Yes", no: "No", unsure: "Cannot tell" }[reply]} (${key.toUpperCase()})`,
        text,
        on: { click: () => this.#reply(row, side, reply) },
      }),
    );
    const group = make(
      "div",
      {
        class: "pe-replies",
        role: "radiogroup",
        "data-own-keys": true,
        "data-group": `${row}/${side}`,
        "aria-label": `${this.#questions[row]} ${side === "left" ? "Left" : "Right"} image`,
        on: { keydown: (event) => this.#key(event, row, side) },
      },
      ...inputs,
    );
    return group;
  }

  #inputs(row, side) {
    return [...this.element.querySelectorAll(`[data-group="${row}/${side}"] button`)];
  }

  #reply(row, side, reply) {
    this.#replies.set(`${row}/${side}`, reply);
    for (const input of this.#inputs(row, side)) {
      const chosen = input.dataset.reply === reply;
      input.setAttribute("aria-checked", String(chosen));
      input.tabIndex = chosen ? 0 : -1;
    }
    this.dispatchEvent(new CustomEvent("change"));
  }

  /** Y, N and U answer and go on to the next; after the last, the keys belong to the page again. */
  #key(event, row, side) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const found = REPLIES.find(([, , key]) => key === event.key.toLowerCase());
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (found) {
      this.#reply(row, side, found[0]);
      if (!this.focus()) document.activeElement?.blur?.();
    } else if (step) {
      const inputs = this.#inputs(row, side);
      const next = inputs[(inputs.indexOf(document.activeElement) + step + inputs.length) % inputs.length];
      this.#reply(row, side, next.dataset.reply);
      next.focus();
    } else if (event.key === "Escape") document.activeElement?.blur?.();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Moves the keys to the first question without an answer; false when there is none left. */
  focus() {
    for (let row = 0; row < this.#questions.length; row += 1) {
      for (const side of SIDES) {
        if (this.#replies.has(`${row}/${side}`)) continue;
        const [first] = this.#inputs(row, side);
        first.focus();
        first.scrollIntoView({ block: "nearest" });
        return true;
      }
    }
    return false;
  }

  get complete() {
    return this.#replies.size === 2 * this.#questions.length;
  }

  /** @returns {{question: string, left: string, right: string}[]} the rows answered so far; a side may be missing */
  get answers() {
    return this.#questions.flatMap((question, row) => {
      const [left, right] = SIDES.map((side) => this.#replies.get(`${row}/${side}`));
      return left || right ? [{ question, left, right }] : [];
    });
  }
}
