// Pointers and wheel over the images: drag moves, wheel and two fingers zoom around where they are, a double click
// looks closer. With the marking tool a click and a drag belong to the marks; there, the middle button or Shift moves.

const TAP_PX = 6;
const DOUBLE_MS = 320;
const DOUBLE_PX = 24;

/**
 * @typedef {Object} Marker takes clicks and drags over while it is `armed`
 * @property {boolean} armed
 * @property {(side: string, from: {x: number, y: number}, to: {x: number, y: number}) => void} draft shows a box
 * @property {(side: string, from: {x: number, y: number}, to: {x: number, y: number}|null) => void} finish `to` is null
 *     for a click
 * @property {() => void} cancel
 * @property {(index: number) => void} open a mark that was pressed
 */

export class Gestures {
  #viewer;
  #marker;
  #pointers = new Map(); // pointerId -> {x, y} of the page
  #side = null;
  #drag = null; // what one pointer does: {kind: "move"|"mark"|"pinch"|"divide", start, moved, from, mark}
  #lastTap = null;
  /** The point where the mouse was last, for keys that zoom: {side, x, y} of a frame, or null. */
  hover = null;

  /** @param {Viewer} viewer @param {Marker} marker */
  constructor(viewer, marker) {
    this.#viewer = viewer;
    this.#marker = marker;
    const stage = viewer.element;
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    stage.addEventListener("pointerup", (event) => this.#up(event));
    stage.addEventListener("pointercancel", (event) => this.#up(event, true));
    stage.addEventListener("pointerleave", () => {
      this.hover = null;
    });
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("contextmenu", (event) => {
      if (this.#pointers.size > 0) event.preventDefault();
    });
  }

  #wheel(event) {
    const side = this.#viewer.sideOf(event.target);
    if (!side) return;
    event.preventDefault();
    // A line or a page of a mouse wheel in pixels; a pinch on a touchpad arrives with ctrlKey and small steps.
    const pixels = event.deltaY * ({ 1: 30, 2: 300 }[event.deltaMode] ?? 1);
    const factor = Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.002));
    const { x, y } = this.#viewer.inFrame(side, event);
    this.#viewer.change((camera) => camera.zoomAt(side, x, y, Math.min(4, Math.max(0.25, factor))));
  }

  #down(event) {
    if (event.target === this.#viewer.handle) {
      this.#take(event, "divide");
      return;
    }
    const side = this.#viewer.sideOf(event.target);
    if (!side || event.target.closest("button:not(.pe-mark)") || event.button > 1) return;
    if (this.#pointers.size === 0) {
      this.#side = side;
      this.#viewer.choose(side);
      const marks = this.#marker.armed && event.button === 0 && !event.shiftKey;
      this.#take(event, marks ? "mark" : "move");
      // A mark may cover much of an image: pressing on it opens it, but dragging there is as everywhere.
      this.#drag.mark = event.target.closest(".pe-mark")?.dataset.mark;
    } else {
      if (this.#drag?.kind === "mark") this.#marker.cancel();
      this.#take(event, "pinch");
    }
    event.preventDefault();
  }

  #take(event, kind) {
    this.#viewer.element.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const from = this.#side && kind === "mark" ? this.#place(event) : null;
    this.#drag = { kind, start: { x: event.clientX, y: event.clientY }, moved: false, from };
    this.#viewer.element.classList.toggle("pe-dragging", kind === "move");
  }

  #place(event) {
    const { x, y } = this.#viewer.inFrame(this.#side, event);
    return this.#viewer.camera.place(this.#side, x, y);
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) {
      const side = this.#viewer.sideOf(event.target);
      this.hover = side && { side, ...this.#viewer.inFrame(side, event) };
      if (side && event.pointerType === "mouse" && this.#viewer.mode === "pair") this.#viewer.choose(side);
      return;
    }
    const now = { x: event.clientX, y: event.clientY };
    const drag = this.#drag;
    drag.moved ||= Math.hypot(now.x - drag.start.x, now.y - drag.start.y) > TAP_PX;
    if (drag.kind === "divide") this.#divide(event);
    else if (this.#pointers.size >= 2) this.#pinch(event.pointerId, before, now);
    else if (drag.kind === "mark") {
      if (drag.moved) this.#marker.draft(this.#side, drag.from, this.#place(event));
    } else if (drag.moved || event.pointerType === "mouse") {
      this.#viewer.change((camera) => camera.pan(this.#side, now.x - before.x, now.y - before.y));
    }
    this.#pointers.set(event.pointerId, now);
  }

  #divide(event) {
    const box = this.#viewer.element.getBoundingClientRect();
    this.#viewer.setDivider((event.clientX - box.left) / box.width);
  }

  #pinch(moved, before, now) {
    const [still] = [...this.#pointers].filter(([id]) => id !== moved).map(([, point]) => point);
    const length = (point) => Math.max(20, Math.hypot(point.x - still.x, point.y - still.y));
    const middle = { clientX: (now.x + still.x) / 2, clientY: (now.y + still.y) / 2 };
    const { x, y } = this.#viewer.inFrame(this.#side, middle);
    this.#viewer.change((camera) => {
      camera.pan(this.#side, (now.x - before.x) / 2, (now.y - before.y) / 2);
      camera.zoomAt(this.#side, x, y, length(now) / length(before));
    });
  }

  #up(event, cancelled = false) {
    if (!this.#pointers.delete(event.pointerId)) return;
    const drag = this.#drag;
    if (this.#pointers.size > 0) {
      // One finger left of two: it moves on from where it is.
      this.#drag = { kind: "move", start: [...this.#pointers.values()][0], moved: true, from: null };
      return;
    }
    this.#drag = null;
    this.#viewer.element.classList.remove("pe-dragging");
    if (drag.mark !== undefined && !drag.moved && !cancelled) this.#marker.open(Number(drag.mark));
    else if (drag.kind === "mark") {
      if (cancelled) this.#marker.cancel();
      else this.#marker.finish(this.#side, drag.from, drag.moved ? this.#place(event) : null);
    } else if (drag.kind === "move" && !drag.moved && !cancelled) this.#tap(event);
  }

  #tap(event) {
    const last = this.#lastTap;
    const now = { at: event.timeStamp, x: event.clientX, y: event.clientY };
    const near = last && now.at - last.at < DOUBLE_MS && Math.hypot(now.x - last.x, now.y - last.y) < DOUBLE_PX;
    this.#lastTap = near ? null : now;
    const side = this.#side;
    if (near) {
      const { x, y } = this.#viewer.inFrame(side, event);
      this.#viewer.change((camera) => camera.toggle(side, x, y));
    }
  }
}
