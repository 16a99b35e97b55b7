// The small panel beside a mark: what kind of flaw, how bad, or away with it.

import { make } from "./dom.js";

export class MarkEditor {
  #marks;
  #index = null;
  #home;

  /**
   * @param {Marks} marks
   * @param {HTMLElement} home takes the keys when the panel closes
   * @param {HTMLElement} around where a press beside the panel closes it
   */
  constructor(marks, home, around) {
    this.#home = home;
    this.#marks = marks;
    this.element = make("div", {
      class: "pe-editor",
      role: "dialog",
      "aria-label": "Flaw",
      "data-own-keys": true,
      hidden: true,
    });
    this.element.addEventListener("keydown", (event) => this.#key(event));
    around.append(this.element);
    around.addEventListener(
      "pointerdown",
      (event) => {
        if (this.#index !== null && !this.element.contains(event.target)) this.close();
      },
      true,
    );
    marks.addEventListener("open", ({ detail }) => this.open(detail));
  }

  get isOpen() {
    return this.#index !== null;
  }

  open(index) {
    this.#index = index;
    this.#build();
    this.element.hidden = false;
    this.#stand();
    this.element.querySelector("[aria-checked=true]").focus({ preventScroll: true });
  }

  close() {
    if (!this.isOpen) return;
    this.#index = null;
    this.element.hidden = true;
    this.#home.focus({ preventScroll: true });
  }

  /** Follows its mark when the images move. */
  follow() {
    if (this.isOpen) this.#stand();
  }

  #build() {
    const mark = this.#marks.list[this.#index];
    const radio = (text, key, chosen, choose) =>
      make(
        "button",
        {
          type: "button",
          role: "radio",
          "aria-checked": String(chosen),
          class: "pe-option",
          on: { click: choose },
        },
        make("span", { text }),
        make("kbd", { text: key }),
      );
    const categories = this.#marks.categories.map(({ id, title }, i) =>
      radio(title, String(i + 1), id === mark.category, () => this.#choose({ category: id }, true)),
    );
    const severities = [
      ["minor", "N"],
      ["major", "J"],
    ].map(([severity, key]) =>
      radio(severity === "minor" ? "Minor" : "Major", key, severity === mark.severity, () =>
        this.#choose({ severity }),
      ),
    );
    this.element.replaceChildren(
      make("div", { class: "pe-options", role: "radiogroup", "aria-label": "Severity" }, ...severities),
      make("div", { class: "pe-options pe-kinds", role: "radiogroup", "aria-label": "Kind of flaw" }, ...categories),
      make(
        "div",
        { class: "pe-options pe-ends" },
        make(
          "button",
          { type: "button", class: "pe-option", on: { click: () => this.#remove() } },
          make("span", { text: "Delete" }),
          make("kbd", { text: "Del" }),
        ),
        make(
          "button",
          { type: "button", class: "pe-option pe-done", on: { click: () => this.close() } },
          make("span", { text: "Done" }),
          make("kbd", { text: "⏎" }),
        ),
      ),
    );
  }

  #choose(what, done = false) {
    this.#marks.edit(this.#index, what);
    if (done) {
      this.close();
      return;
    }
    this.#build();
    this.element.querySelector("[aria-checked=true]").focus({ preventScroll: true });
  }

  #remove() {
    const index = this.#index;
    this.close();
    this.#marks.remove(index);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const category = this.#marks.categories[Number(event.key) - 1];
    const key = event.key.toLowerCase();
    if (category) this.#choose({ category: category.id }, true);
    else if (key === "n") this.#choose({ severity: "minor" });
    else if (key === "j") this.#choose({ severity: "major" });
    else if (key === "delete" || key === "backspace") this.#remove();
    else if (key === "escape" || (key === "enter" && event.target.getAttribute("role") === "radio")) this.close();
    else if (key.startsWith("arrow")) this.#step(key === "arrowdown" || key === "arrowright" ? 1 : -1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #step(by) {
    const buttons = [...this.element.querySelectorAll("button")];
    const next = (buttons.indexOf(document.activeElement) + by + buttons.length) % buttons.length;
    buttons[next].focus();
  }

  /** Beside the mark where there is room, and always within the window. */
  #stand() {
    const mark = this.#marks.node(this.#index)?.getBoundingClientRect();
    if (!mark) {
      this.close();
      return;
    }
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const gap = 12;
    const right = mark.right + gap + width <= window.innerWidth;
    const x = right ? mark.right + gap : mark.left - gap - width;
    const within = (value, size, room) => Math.min(Math.max(8, value), Math.max(8, room - size - 8));
    this.element.style.left = `${within(x, width, window.innerWidth)}px`;
    // Where neither side has room (a phone), below or above the mark instead of over it.
    const beside = right || x >= 8;
    const below = mark.bottom + gap + height <= window.innerHeight ? mark.bottom + gap : mark.top - gap - height;
    this.element.style.top = `${within(beside ? mark.top - 8 : below, height, window.innerHeight)}px`;
  }
}
