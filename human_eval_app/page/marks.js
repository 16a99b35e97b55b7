// Flaws marked on the images: a list of marks, drawn over the images so that they stay in place while zooming.

import { make } from "./dom.js";
import { SIDES } from "./viewer.js";

const SMALLEST_BOX = 0.004; // of width and height; less is a click with a shaky hand

const MOST = 100; // that one answer may hold

/**
 * @typedef {{side: string, category: string, severity: "minor"|"major", x: number, y: number, width: number,
 *   height: number}} Mark coordinates are shares of the image; a point has neither width nor height
 */

const clamp = (x) => Math.min(1, Math.max(0, x));
const rounded = (x) => Math.round(x * 1e5) / 1e5;

/** Events: `change` after every edit; `open` (detail: index) when a mark wants to be edited. */
export class Marks extends EventTarget {
  #viewer;
  #box = make("div", { class: "pe-mark pe-draft" });
  #titles = new Map();
  /** @type {Mark[]} */
  list = [];
  /** Whether clicks and drags on the images set marks. */
  armed = false;
  /** Whether the question asks for marks. */
  possible = false;
  /** What the next mark is set as: the choice of the last one. */
  usual = { category: "artifact", severity: "minor" };

  constructor(viewer) {
    super();
    this.#viewer = viewer;
  }

  /** @param {{id: string, title: string}[]} categories of the project */
  setCategories(categories) {
    this.categories = categories;
    this.#titles = new Map(categories.map(({ id, title }) => [id, title]));
    if (categories.length && !this.#titles.has(this.usual.category)) this.usual.category = categories[0].id;
  }

  /** Shows these marks, of another pair. */
  set(list) {
    this.list = list.map((mark) => ({ ...mark }));
    this.draw();
  }

  /** @param {string} side @param {{x: number, y: number}} from @param {{x: number, y: number}} to */
  draft(side, from, to) {
    const { x, y, width, height } = boxOf(from, to);
    this.#place(this.#box, { x, y, width, height });
    this.#viewer.frames[side].overlay.append(this.#box);
  }

  cancel() {
    this.#box.remove();
  }

  /** Sets a mark: a box between two places, or a point when `to` is null. Clicks beside the image set none. */
  finish(side, from, to) {
    this.#box.remove();
    const box = to ? boxOf(from, to) : null;
    const point = !box || (box.width < SMALLEST_BOX && box.height < SMALLEST_BOX);
    const inside = from.x >= 0 && from.x <= 1 && from.y >= 0 && from.y <= 1;
    if (point ? !inside : box.width <= 0 || box.height <= 0) return;
    if (this.list.length >= MOST) return;
    const place = point ? { x: from.x, y: from.y, width: 0, height: 0 } : box;
    const [x, y] = [rounded(place.x), rounded(place.y)];
    const [width, height] = [rounded(place.x + place.width) - x, rounded(place.y + place.height) - y].map(rounded);
    this.list.push({ side, ...this.usual, x, y, width, height });
    this.#changed();
    this.open(this.list.length - 1);
  }

  /** Asks for the panel of a mark. */
  open(index) {
    this.dispatchEvent(new CustomEvent("open", { detail: index }));
  }

  /** @param {number} index @param {Partial<Mark>} what */
  edit(index, what) {
    Object.assign(this.list[index], what);
    const { category, severity } = this.list[index];
    this.usual = { category, severity };
    this.#changed();
  }

  remove(index) {
    this.list.splice(index, 1);
    this.#changed();
  }

  #changed() {
    this.draw();
    this.dispatchEvent(new CustomEvent("change"));
  }

  #place(node, { x, y, width, height }) {
    Object.assign(node.style, {
      left: `${100 * x}%`,
      top: `${100 * y}%`,
      width: `${100 * width}%`,
      height: `${100 * height}%`,
    });
  }

  /** @returns {HTMLElement|null} the drawn mark */
  node(index) {
    return this.#viewer.element.querySelector(`[data-mark="${index}"]`);
  }

  draw() {
    for (const side of SIDES) {
      const nodes = this.list.flatMap((mark, index) => (mark.side === side ? [this.#make(mark, index)] : []));
      this.#viewer.frames[side].overlay.replaceChildren(...nodes);
    }
  }

  #make(mark, index) {
    const point = mark.width === 0 && mark.height === 0;
    const title = this.#titles.get(mark.category) ?? mark.category;
    const node = make(
      "button",
      {
        type: "button",
        class: `pe-mark pe-${mark.severity}${point ? " pe-point" : ""}`,
        "data-mark": String(index),
        "aria-label": `${mark.severity} flaw, ${title}, on the ${mark.side} image`,
        on: {
          click: () => this.open(index),
          keydown: (event) => {
            if (event.key !== "Delete" && event.key !== "Backspace") return;
            event.preventDefault();
            event.stopPropagation();
            this.remove(index);
          },
        },
      },
      make("span", { class: "pe-tag", text: title }),
    );
    this.#place(node, mark);
    return node;
  }
}

function boxOf(from, to) {
  const [left, right] = [from.x, to.x].map(clamp).sort((a, b) => a - b);
  const [top, bottom] = [from.y, to.y].map(clamp).sort((a, b) => a - b);
  return { x: left, y: top, width: right - left, height: bottom - top };
}
