// Marking without a pointer: a cross on one image that arrows move. Enter sets a point, X begins a box.

import { make } from "./dom.js";

export class Crosshair {
  #viewer;
  #marks;
  #node = make("div", { class: "pe-cross", "aria-hidden": "true" });
  #say;
  #at = { x: 0.5, y: 0.5 };
  #corner = null;
  /** Whether the cross is shown and takes arrows. */
  active = false;

  /** @param {Viewer} viewer @param {Marks} marks @param {(text: string) => void} say tells a screen reader */
  constructor(viewer, marks, say) {
    this.#viewer = viewer;
    this.#marks = marks;
    this.#say = say;
  }

  show() {
    this.active = true;
    this.#corner = null;
    this.#at = { x: 0.5, y: 0.5 };
    this.#draw();
    this.#say(
      `Marking on the ${this.#viewer.side} image. Arrows move the cross, Enter marks a point, X begins a box, ` +
        "O goes to the other image, Escape goes back to answering.",
    );
  }

  hide() {
    this.active = false;
    this.#corner = null;
    this.#marks.cancel();
    this.#node.remove();
  }

  /** @returns {boolean} whether the key was meant for the cross */
  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const key = event.key.toLowerCase();
    if (step && !event.shiftKey) this.#move(step);
    else if (event.repeat) return false;
    else if (key === "enter" || event.key === " ") this.#set();
    else if (key === "x") this.#begin();
    else if (key === "o") this.#other();
    else return false;
    return true;
  }

  /** A step is 8 pixels of the page, so that zooming in makes it finer. */
  #move([x, y]) {
    const { width, height } = this.#viewer.camera.shown(this.#viewer.side);
    const clamp = (share) => Math.min(1, Math.max(0, share));
    this.#at = { x: clamp(this.#at.x + (8 * x) / width), y: clamp(this.#at.y + (8 * y) / height) };
    this.#draw();
    this.#say(`${Math.round(100 * this.#at.x)} % across, ${Math.round(100 * this.#at.y)} % down`);
  }

  #begin() {
    this.#corner = { ...this.#at };
    this.#say("Box begun. Arrows move the other corner, Enter ends it.");
  }

  #set() {
    const corner = this.#corner;
    this.#corner = null;
    this.#marks.finish(this.#viewer.side, corner ?? this.#at, corner ? this.#at : null);
    this.#draw();
  }

  #other() {
    const side = this.#viewer.side === "left" ? "right" : "left";
    this.#corner = null;
    this.#marks.cancel();
    if (this.#viewer.mode === "flicker") this.#viewer.setFront(side);
    this.#viewer.choose(side);
    this.#draw();
    this.#say(`${side} image`);
  }

  #draw() {
    const { overlay } = this.#viewer.frames[this.#viewer.side];
    // Beside the marks and not among them, which are drawn anew at every change.
    overlay.parentElement.append(this.#node);
    Object.assign(this.#node.style, { left: `${100 * this.#at.x}%`, top: `${100 * this.#at.y}%` });
    if (this.#corner) this.#marks.draft(this.#viewer.side, this.#corner, this.#at);
  }
}
