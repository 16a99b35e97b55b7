// The text behind a pair. Where it is judged, its words are switches: on for a word that is missing or wrong.

import { make } from "./dom.js";

// White space as Python's str.split() knows it, by whose places words are stored.
const GAPS = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;

/** Events: `change`. */
export class Prompt extends EventTarget {
  #words = [];
  element = make("blockquote", { class: "pe-prompt" });

  /**
   * @param {string|null} text or null where the question hides it
   * @param {boolean} marking whether words can be marked
   * @param {number[]} marked places in the text split at white space
   */
  show(text, marking, marked) {
    this.element.hidden = text === null;
    this.#words = [];
    this.element.classList.toggle("pe-words", marking);
    if (marking) this.element.dataset.ownKeys = "";
    else delete this.element.dataset.ownKeys;
    if (text === null) {
      this.element.replaceChildren();
      return;
    }
    const label = make("span", { class: "pe-label", text: "Text" });
    if (!marking) {
      this.element.replaceChildren(label, make("span", { class: "pe-text", text }));
      return;
    }
    this.#words = text
      .split(GAPS)
      .filter(Boolean)
      .map((word, i) =>
        make("button", {
          type: "button",
          class: "pe-word",
          text: word,
          tabindex: i === 0 ? "0" : "-1",
          "aria-pressed": String(marked.includes(i)),
          on: { click: () => this.#toggle(i), keydown: (event) => this.#key(event, i) },
        }),
      );
    const group = make("span", { class: "pe-text", role: "group", "aria-label": "Words that are missing or wrong" });
    this.#words.forEach((word) => group.append(word, " "));
    this.element.replaceChildren(
      label,
      group,
      make("span", { class: "pe-aside", text: "Click words that are missing or wrong (P)" }),
    );
  }

  /** @returns {number[]} places of the marked words */
  get words() {
    return this.#words.flatMap((word, i) => (word.getAttribute("aria-pressed") === "true" ? [i] : []));
  }

  /** Moves the keys to the words; false where there are none. */
  focus() {
    const word = this.#words.find((node) => node.tabIndex === 0);
    word?.focus();
    return Boolean(word);
  }

  #toggle(i) {
    const word = this.#words[i];
    word.setAttribute("aria-pressed", String(word.getAttribute("aria-pressed") !== "true"));
    this.#words.forEach((node) => {
      node.tabIndex = node === word ? 0 : -1;
    });
    this.dispatchEvent(new CustomEvent("change"));
  }

  #key(event, i) {
    const to = {
      ArrowLeft: i - 1,
      ArrowUp: i - 1,
      ArrowRight: i + 1,
      ArrowDown: i + 1,
      Home: 0,
      End: this.#words.length - 1,
    };
    if (event.key === "Escape") document.activeElement.blur();
    else if (event.key in to) {
      const next = this.#words[Math.min(this.#words.length - 1, Math.max(0, to[event.key]))];
      this.#words.forEach((node) => {
        node.tabIndex = node === next ? 0 : -1;
      });
      next.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
