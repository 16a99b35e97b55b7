// Where the two images are looked at: one place and one scale for both, and an offset of each. Pure arithmetic.
//
// Places are shares of width and height in [0, 1], so that images of different sizes show the same thing. `zoom` is in
// CSS pixels per pixel of the image; 100 % is one pixel of the screen per pixel of the image.

const SIDES = ["left", "right"];
const LADDER = [0.05, 0.1, 0.25, 0.33, 0.5, 0.67, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32];
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

export class Camera {
  frame = { width: 1, height: 1 };
  sizes = { left: { width: 1, height: 1 }, right: { width: 1, height: 1 } };
  centre = { x: 0.5, y: 0.5 };
  offsets = { left: { x: 0, y: 0 }, right: { x: 0, y: 0 } };
  zoom = 1;
  /** Screen pixels per CSS pixel. */
  ratio = 1;
  /** What a new pair starts with: `pixels` (100 %, smaller when it does not fit) or `fit`. */
  home = "pixels";
  /** Dragging moves both images; otherwise one of them, which changes its offset. */
  locked = true;
  /** In one frame the images are drawn at one size, in two each at its own. */
  overlaid = false;
  #atHome = true;

  /** CSS pixels per image pixel of `side`. */
  scale(side) {
    const widest = Math.max(this.sizes.left.width, this.sizes.right.width);
    return this.overlaid ? (this.zoom * widest) / this.sizes[side].width : this.zoom;
  }

  /** Scale in which 1 is 100 %. */
  percent(side) {
    return this.scale(side) * this.ratio;
  }

  /** Size of an image on the page, in CSS pixels. */
  shown(side) {
    const { width, height } = this.sizes[side];
    return { width: width * this.scale(side), height: height * this.scale(side) };
  }

  /** Upper left corner of an image in its frame, in CSS pixels. */
  origin(side) {
    const { width, height } = this.shown(side);
    const { x, y } = this.offsets[side];
    return {
      x: this.frame.width / 2 - (this.centre.x + x) * width,
      y: this.frame.height / 2 - (this.centre.y + y) * height,
    };
  }

  /** The place of an image under a point of its frame; outside of [0, 1] beside the image. */
  place(side, x, y) {
    const { width, height } = this.shown(side);
    const origin = this.origin(side);
    return { x: (x - origin.x) / width, y: (y - origin.y) / height };
  }

  /** The largest scale at which both images are seen whole. */
  get fitting() {
    const rooms = SIDES.map((side) => {
      const { width, height } = this.sizes[side];
      const own = this.scale(side) / this.zoom;
      return Math.min(this.frame.width / (width * own), this.frame.height / (height * own));
    });
    return Math.min(...rooms);
  }

  get #homeZoom() {
    const pixels = 1 / this.ratio;
    if (this.home === "pixels") return Math.min(pixels, this.fitting);
    const factor = this.fitting * this.ratio;
    return (factor >= 2 ? Math.floor(factor) : factor) / this.ratio;
  }

  get atHome() {
    return this.#atHome;
  }

  /** The whole of both images at the scale of `home`, without offsets. */
  goHome() {
    this.offsets = { left: { x: 0, y: 0 }, right: { x: 0, y: 0 } };
    this.centre = { x: 0.5, y: 0.5 };
    this.zoom = this.#homeZoom;
    this.#atHome = true;
  }

  /** After a change of the frame, the images or the home: as before, or home again if it was there. */
  refit() {
    if (this.#atHome) this.goHome();
    else this.#set(this.zoom);
  }

  /** Changes the scale by `factor` and keeps the place under a point of the frame of `side` where it is. */
  zoomAt(side, x, y, factor) {
    const held = this.place(side, x, y);
    const low = Math.min(this.#homeZoom, 1 / this.ratio, this.fitting);
    this.zoom = clamp(this.zoom * factor, low, Math.max(32 / this.ratio, this.#homeZoom));
    const { width, height } = this.shown(side);
    const offset = this.offsets[side];
    this.centre.x = held.x - offset.x - (x - this.frame.width / 2) / width;
    this.centre.y = held.y - offset.y - (y - this.frame.height / 2) / height;
    this.#set(this.zoom);
  }

  /** One step of the scale up (`+1`) or down (`-1`), around a point of the frame. */
  step(direction, side = "left", x = this.frame.width / 2, y = this.frame.height / 2) {
    const now = this.percent(side);
    const next =
      direction > 0 ? LADDER.find((rung) => rung > now * 1.01) : LADDER.findLast((rung) => rung < now / 1.01);
    if (next) this.zoomAt(side, x, y, next / now);
  }

  /** Home, or three times as large as there around a point of the frame. */
  toggle(side, x, y) {
    if (!this.#atHome) this.goHome();
    else this.zoomAt(side, x, y, 3);
  }

  /** Moves by CSS pixels what is seen: both images, or `side` alone when not locked. */
  pan(side, dx, dy) {
    const { width, height } = this.shown(side);
    if (this.locked) {
      this.centre.x -= dx / width;
      this.centre.y -= dy / height;
    } else {
      const offset = this.offsets[side];
      offset.x = clamp(offset.x - dx / width, -1, 1);
      offset.y = clamp(offset.y - dy / height, -1, 1);
    }
    this.#set(this.zoom);
  }

  get hasOffset() {
    return SIDES.some((side) => this.offsets[side].x !== 0 || this.offsets[side].y !== 0);
  }

  /** Keeps a part of the images in the middle of the frame; at home or smaller, they stand there as a whole. */
  #set(zoom) {
    this.zoom = zoom;
    const whole = zoom <= this.#homeZoom * 1.001;
    for (const axis of ["x", "y"]) this.centre[axis] = whole ? 0.5 : clamp(this.centre[axis], 0, 1);
    this.#atHome = whole && !this.hasOffset && zoom >= this.#homeZoom * 0.999;
  }
}
