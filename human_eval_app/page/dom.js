// Making elements. Whatever comes from people or files is set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element.
 * @param {string} tag
 * @param {Object} options `class`, `text`, `on` (event name -> listener); anything else is an attribute, where `true`
 *     stands for an empty value and `false`, `null` and `undefined` for no attribute.
 * @param {...(Node|string|null)} children
 * @returns {HTMLElement}
 */
export function make(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "on")
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Paths in a box of 20 units, drawn as lines in the colour of the text. */
const ICONS = {
  pair: "M2.5 4h6.5v12H2.5zM11 4h6.5v12H11z",
  slider: "M2.5 4h15v12h-15zM10 2v16M7 8l-2 2 2 2M13 8l2 2-2 2",
  flicker: "M2.5 7h9.5v9.5H2.5zM7 7V3.5h10.5V13H12",
  minus: "M4 10h12",
  plus: "M4 10h12M10 4v12",
  fit: "M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4",
  linked: "M8.5 11.5l3-3M9 6l2-2a3.5 3.5 0 0 1 5 5l-2 2M11 14l-2 2a3.5 3.5 0 0 1-5-5l2-2",
  unlinked: "M9.5 5.5l1.5-1.5a3.5 3.5 0 0 1 5 5l-1.5 1.5M10.5 14.5L9 16a3.5 3.5 0 0 1-5-5l1.5-1.5M3 3l14 14",
  mark: "M10 2v4M10 14v4M2 10h4M14 10h4M10 10h.01M5.5 10a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0",
};

/**
 * A drawing that says nothing to a screen reader: its button has a name of its own.
 * @param {keyof typeof ICONS} name
 * @returns {SVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "pe-icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Whether key presses at `node` belong to it and not to the page: fields, and lists that move by arrows. */
export function ownsKeys(node) {
  return node instanceof Element && node.closest("input, textarea, select, dialog, [data-own-keys]") !== null;
}

/** Seconds, roughly: `20` -> "less than a minute", `60` -> "about 1 min", `5700` -> "about 1 h 35 min". */
export function duration(seconds) {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return "less than a minute";
  if (minutes < 60) return `about ${minutes} min`;
  const rest = minutes % 60 ? ` ${minutes % 60} min` : "";
  return `about ${Math.floor(minutes / 60)} h${rest}`;
}
