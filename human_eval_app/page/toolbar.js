// How the images are looked at: the mode, the scale, together or alone, and the marking tool.

import { icon, make } from "./dom.js";
import { keep, recall, shelfKey } from "./shelf.js";
import { MODES } from "./viewer.js";

const NAMES = {
  pair: ["Side by side", "Side by side (V)"],
  slider: ["Slider", "Slider: one over the other with a divider (W)"],
  flicker: ["Flicker", "Flicker: one at a time at the same place (F); Space changes"],
};
const LOCKED = "Both images move together; press to move one alone (L)";
const ALONE = "One image moves alone; press to move both together (L)";
const HOME_KEY = shelfKey("home");

/** Events: `mark` when the marking tool is switched. */
export class Toolbar extends EventTarget {
  #viewer;
  #modes;

  /** @param {Viewer} viewer */
  constructor(viewer) {
    super();
    this.#viewer = viewer;
    // No label beside the title: where the text is shown it is the name, where it is hidden the title is.
    const tool = (name, text, title, act) =>
      make(
        "button",
        {
          type: "button",
          class: "pe-tool",
          title,
          on: { click: act },
        },
        name ? icon(name) : null,
        text ? make("span", { class: "pe-tool-text", text }) : null,
      );
    this.#modes = Object.fromEntries(MODES.map((mode) => [mode, tool(mode, ...NAMES[mode], () => this.setMode(mode))]));
    this.percent = tool(null, "100 %", "100 % or the whole image (0)", () => this.toggleHome());
    this.percent.classList.add("pe-zoom");
    this.lock = tool("linked", "Together", LOCKED, () => this.toggleLock());
    this.mark = tool("mark", "Mark flaws", "Mark flaws: click for a point, drag for a box (M)", () =>
      this.dispatchEvent(new Event("mark")),
    );
    const change = (what) => () => viewer.change(what);
    const group = (label, ...tools) => make("div", { class: "pe-group", role: "group", "aria-label": label }, ...tools);
    this.element = make(
      "div",
      { class: "pe-toolbar" },
      group("View", ...Object.values(this.#modes)),
      group(
        "Zoom",
        tool(
          "minus",
          "",
          "Zoom out (−)",
          change((camera) => camera.step(-1, viewer.side)),
        ),
        this.percent,
        tool(
          "plus",
          "",
          "Zoom in (+)",
          change((camera) => camera.step(1, viewer.side)),
        ),
      ),
      this.lock,
      this.mark,
    );
    viewer.camera.home = recall(HOME_KEY) === "fit" ? "fit" : "pixels";
    viewer.addEventListener("view", () => this.#draw());
    this.#draw();
  }

  setMode(mode) {
    this.#viewer.setMode(mode);
  }

  /** This mode, or back to two frames when it is on. */
  toggleMode(mode) {
    this.setMode(this.#viewer.mode === mode ? "pair" : mode);
  }

  /** First back to where a pair starts; from there, between 100 % and the whole image. The choice is kept. */
  toggleHome() {
    this.#viewer.change((camera) => {
      if (camera.atHome) {
        camera.home = camera.home === "pixels" ? "fit" : "pixels";
        keep(HOME_KEY, camera.home);
      }
      camera.goHome();
    });
  }

  toggleLock() {
    this.#viewer.change((camera) => {
      camera.locked = !camera.locked;
    });
  }

  /** @param {boolean} possible whether the question takes marks @param {boolean} armed @param {number} count */
  showMarks(possible, armed, count) {
    this.mark.hidden = !possible;
    this.mark.setAttribute("aria-pressed", String(armed));
    this.mark.querySelector(".pe-tool-text").textContent = count > 0 ? `Mark flaws (${count})` : "Mark flaws";
  }

  #draw() {
    const { camera, mode, side } = this.#viewer;
    for (const name of MODES) this.#modes[name].setAttribute("aria-pressed", String(name === mode));
    const other = side === "left" ? "right" : "left";
    const same = Math.round(camera.percent("left") * 100) === Math.round(camera.percent("right") * 100);
    const text = `${Math.round(camera.percent(side) * 100)} %`;
    this.percent.querySelector(".pe-tool-text").textContent = same
      ? text
      : `${text} / ${Math.round(camera.percent(other) * 100)} %`;
    const title = camera.locked ? LOCKED : ALONE;
    if (this.lock.title !== title) this.lock.firstChild.replaceWith(icon(camera.locked ? "linked" : "unlinked"));
    this.lock.title = title;
    // Its text says the state, so it is no toggle with a pressed state as well.
    this.lock.classList.toggle("pe-on", !camera.locked);
    const offset = camera.hasOffset ? "Together, shifted" : "Together";
    this.lock.querySelector(".pe-tool-text").textContent = camera.locked ? offset : "One alone";
  }
}
