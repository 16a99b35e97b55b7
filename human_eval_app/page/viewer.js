// The two images on the page: side by side, or in one frame with a slider between them or one at a time.

import { Camera } from "./camera.js";
import { make } from "./dom.js";
import { TurnButton } from "./turn_button.js";

export const SIDES = ["left", "right"];

/** Ways to look: two frames, one with a divider, one with one image at a time. */
export const MODES = ["pair", "slider", "flicker"];

/** Events: `view` after every change of what is seen. */
export class Viewer extends EventTarget {
  camera = new Camera();
  mode = "pair";
  /** Share of the frame left of the divider. */
  divider = 0.5;
  /** The image seen in flicker mode. */
  front = "left";
  /** The side that was pointed at or chosen last. */
  side = "left";
  #scheduled = false;

  constructor() {
    super();
    this.handle = make("div", {
      class: "pe-handle",
      role: "slider",
      tabindex: "0",
      "data-own-keys": true,
      "aria-label": "Divider between the images",
      "aria-valuemin": "0",
      "aria-valuemax": "100",
    });
    this.handle.addEventListener("keydown", (event) => this.#handleKey(event));
    this.turn = new TurnButton(() => this.turnOver());
    this.frames = Object.fromEntries(SIDES.map((side) => [side, this.#makeFrame(side)]));
    this.element = make(
      "div",
      { class: "pe-stage", "data-mode": "pair" },
      this.frames.left.figure,
      this.frames.right.figure,
      this.handle,
      this.turn.element,
    );
    new ResizeObserver(() => this.#measure()).observe(this.element);
  }

  #makeFrame(side) {
    const overlay = make("div", { class: "pe-marks" });
    const layer = make("div", { class: "pe-layer" }, overlay);
    const name = make("span", { class: "pe-name" });
    const percent = make("span", { class: "pe-percent" });
    const broken = make("p", {
      class: "pe-broken",
      text: "This image cannot be shown. Please skip the pair.",
      hidden: true,
    });
    const badge = make("figcaption", { class: "pe-badge" }, name, percent);
    const figure = make("figure", { class: "pe-frame", "data-side": side }, layer, broken, badge);
    return { side, figure, layer, overlay, name, percent, broken, image: null };
  }

  /**
   * Puts a pair of loaded pictures in place.
   * @param {{left: Object, right: Object}} pictures of `Pictures.load`, settled
   * @param {{left: Object, right: Object}} sizes as the server told them, for a picture that is broken
   */
  show(pictures, sizes) {
    for (const side of SIDES) {
      const frame = this.frames[side];
      const { element, fine } = pictures[side];
      element.alt = side === "left" ? "Left image" : "Right image";
      frame.image?.remove();
      frame.image = element;
      if (fine) frame.layer.prepend(element);
      frame.layer.hidden = !fine;
      frame.broken.hidden = fine;
      this.camera.sizes[side] = fine
        ? { width: element.naturalWidth, height: element.naturalHeight }
        : { width: sizes[side].width || 1, height: sizes[side].height || 1 };
    }
    this.front = "left";
    this.divider = 0.5;
    this.camera.locked = true;
    this.camera.goHome();
    this.#measure();
    this.draw();
  }

  setMode(mode) {
    this.mode = mode;
    this.element.dataset.mode = mode;
    this.camera.overlaid = mode !== "pair";
    this.#measure();
    this.draw();
  }

  /** In flicker mode: which image is seen. */
  setFront(side) {
    this.front = side;
    this.side = side;
    this.draw();
  }

  /** In flicker mode: the other image. */
  turnOver() {
    this.setFront(this.front === "left" ? "right" : "left");
  }

  /** The image that keys and the scale in the toolbar speak of. */
  choose(side) {
    if (this.side === side) return;
    this.side = side;
    this.draw();
  }

  setDivider(share) {
    this.divider = Math.min(1, Math.max(0, share));
    this.draw();
  }

  #handleKey(event) {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02, ArrowDown: -0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1 };
    if (event.key in step) this.setDivider(this.divider + step[event.key] * (event.shiftKey ? 5 : 1));
    else if (event.key === "Home" || event.key === "End") this.setDivider(event.key === "Home" ? 0 : 1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #measure() {
    const { clientWidth: width, clientHeight: height } = this.frames.left.figure;
    if (!width || !height) return;
    const { frame } = this.camera;
    const ratio = window.devicePixelRatio || 1;
    if (frame.width === width && frame.height === height && this.camera.ratio === ratio && !this.camera.atHome) return;
    Object.assign(this.camera, { frame: { width, height }, ratio });
    this.camera.refit();
    this.draw();
  }

  /** Changes the camera and draws before the next frame. */
  change(what) {
    what(this.camera);
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.draw();
    });
  }

  draw() {
    const { camera } = this;
    for (const side of SIDES) {
      const { figure, layer, percent, image } = this.frames[side];
      const box = figure.getBoundingClientRect();
      const { width, height } = camera.shown(side);
      const origin = camera.origin(side);
      // On whole pixels of the screen, or the image would be smeared over two of them at 100 %.
      const snap = (offset, start) => Math.round((offset + start) * camera.ratio) / camera.ratio - offset;
      layer.style.width = `${width}px`;
      layer.style.height = `${height}px`;
      layer.style.transform =
        `translate(${snap(box.left + figure.clientLeft, origin.x)}px, ` +
        `${snap(box.top + figure.clientTop, origin.y)}px)`;
      if (image) image.style.imageRendering = camera.percent(side) > 1.001 ? "pixelated" : "auto";
      percent.textContent = `${Math.round(camera.percent(side) * 100)} %`;
    }
    this.#drawMode();
    this.dispatchEvent(new CustomEvent("view"));
  }

  #drawMode() {
    const { left, right } = this.frames;
    const share = `${this.divider * 100}%`;
    right.figure.style.clipPath = this.mode === "slider" ? `inset(0 0 0 ${share})` : "";
    for (const side of SIDES) {
      this.frames[side].figure.classList.toggle("pe-behind", this.mode === "flicker" && this.front !== side);
      this.frames[side].figure.classList.toggle("pe-chosen", this.mode === "pair" && this.side === side);
    }
    left.figure.style.clipPath = this.mode === "slider" ? `inset(0 ${100 - this.divider * 100}% 0 0)` : "";
    this.element.classList.toggle("pe-alone", !this.camera.locked);
    this.turn.show(this.mode === "flicker", this.front);
    this.handle.hidden = this.mode !== "slider";
    this.handle.style.left = share;
    this.handle.setAttribute("aria-valuenow", String(Math.round(this.divider * 100)));
    this.handle.setAttribute("aria-valuetext", `${Math.round(this.divider * 100)} % of the frame show the left image`);
  }

  /** A point of the page in the frame of `side`, in CSS pixels. */
  inFrame(side, event) {
    const { figure } = this.frames[side];
    const box = figure.getBoundingClientRect();
    return { x: event.clientX - box.left - figure.clientLeft, y: event.clientY - box.top - figure.clientTop };
  }

  /** The side whose frame holds `node`, or null. */
  sideOf(node) {
    return node instanceof Element ? (node.closest(".pe-frame")?.dataset.side ?? null) : null;
  }
}
