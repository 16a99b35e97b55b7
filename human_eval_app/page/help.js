// The keys, and the switch that turns single-letter keys off for people whose aids type them by accident.

import { make } from "./dom.js";
import { keep, recall, shelfKey } from "./shelf.js";

const LETTERS_KEY = shelfKey("letters");
const KEYS = [
  [
    "Answer",
    [
      ["← or 1", "left image"],
      ["↓, 2 or T", "tie"],
      ["→ or 3", "right image"],
      ["B", "both bad"],
      ["R", "mixed styles: a photo against a stylised image"],
      ["S", "skip, then the number of the reason"],
      ["U", "undo"],
    ],
  ],
  [
    "Look",
    [
      ["+ and −", "zoom in and out"],
      ["0", "back to the start; again: 100 % or the whole image"],
      ["Z", "closer, and back"],
      ["Shift + arrows", "move"],
      ["L", "move both together, or one alone"],
      ["O", "the other image (to move or to mark)"],
      ["W", "slider; , and . move it"],
      ["F", "flicker; tap Space to change, hold it for a glance"],
      ["V", "side by side"],
    ],
  ],
  [
    "Mark",
    [
      ["M", "marking tool; with it arrows move a cross"],
      ["Enter", "a point where the cross is"],
      ["X", "begin a box; Enter ends it"],
      ["1 – 7", "kind of flaw, while its panel is open"],
      ["N, J", "minor, major"],
      ["Del", "delete the mark"],
      ["Esc", "back to answering"],
    ],
  ],
  [
    "Text",
    [
      ["P", "words of the text: arrows, then Space for one that is missing or wrong"],
      ["Q", "yes/no questions: Y, N, U"],
    ],
  ],
];

export class Help {
  constructor() {
    const box = make("input", { type: "checkbox", id: "pe-letters" });
    box.checked = this.letters;
    box.addEventListener("change", () => keep(LETTERS_KEY, box.checked));
    const sections = KEYS.map(([title, keys]) =>
      make(
        "section",
        {},
        make("h3", { text: title }),
        make(
          "dl",
          {},
          ...keys.flatMap(([key, what]) => [make("dt", {}, make("kbd", { text: key })), make("dd", { text: what })]),
        ),
      ),
    );
    this.element = make(
      "dialog",
      { class: "pe-dialog pe-help", "aria-labelledby": "pe-help-title" },
      make("h2", { id: "pe-help-title", text: "Keys" }),
      make("p", {
        class: "pe-hint",
        text:
          "Mouse: the wheel zooms where it points, dragging moves, a double click looks " +
          "closer. Fingers: two zoom, one moves, a double tap looks closer.",
      }),
      make("div", { class: "pe-columns" }, ...sections),
      make(
        "p",
        { class: "pe-switch" },
        box,
        make("label", { for: "pe-letters", text: "Keys of letters and signs are on" }),
      ),
      make("button", {
        type: "button",
        class: "pe-choice",
        text: "Close (Esc)",
        on: { click: () => this.element.close() },
      }),
    );
  }

  /** Whether single letters, digits and signs are keys; arrows always are. */
  get letters() {
    return recall(LETTERS_KEY) !== false;
  }

  toggle() {
    if (this.element.open) this.element.close();
    else this.element.showModal();
  }
}
