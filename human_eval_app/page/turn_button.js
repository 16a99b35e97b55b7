// In flicker mode: press to see the other image, or hold for a glance at it.

import { make } from "./dom.js";

const GLANCE_MS = 250;

export class TurnButton {
  #downAt = null;

  /** @param {() => void} turn shows the other image */
  constructor(turn) {
    this.#turn = turn;
    this.element = make("button", {
      type: "button",
      class: "pe-choice pe-turn",
      title: "Press to change, hold for a glance (Space)",
      hidden: true,
      on: {
        pointerdown: () => this.press(),
        pointerup: () => this.release(),
        pointercancel: () => this.release(),
        // A click by keyboard or by an aid comes without a pointer.
        click: (event) => {
          if (event.detail === 0) turn();
          else this.element.blur();
        },
      },
    });
  }

  #turn;

  press() {
    this.#downAt = performance.now();
    this.#turn();
  }

  /** The end of a press; after a long one, the first image is back. */
  release() {
    if (this.#downAt === null) return;
    if (performance.now() - this.#downAt > GLANCE_MS) this.#turn();
    this.#downAt = null;
  }

  /** @param {boolean} on @param {string} front the image that is seen */
  show(on, front) {
    if (!on) this.#downAt = null;
    this.element.hidden = !on;
    const [wide, narrow] = front === "left" ? ["Show right", "Show lower"] : ["Show left", "Show upper"];
    if (this.element.dataset.front === front) return;
    this.element.dataset.front = front;
    this.element.replaceChildren(
      make("span", { class: "pe-wide", text: wide }),
      make("span", { class: "pe-narrow", text: narrow }),
    );
  }
}
