// The line above the pair: how far, how long still, who, and what is wrong with the connection.

import { duration, make } from "./dom.js";

/** Events: `help`, `leave` (another study), `signout`. */
export class Header extends EventTarget {
  #fill = make("div", { class: "pe-fill" });
  #bar = make(
    "div",
    { class: "pe-bar", role: "progressbar", "aria-label": "Answered", "aria-valuemin": "0" },
    this.#fill,
  );
  #count = make("span", { class: "pe-count" });
  #more = make("span", { class: "pe-more" });
  #practice = make("span", {
    class: "pe-practice",
    text: "Practice",
    title: "These answers do not count",
    hidden: true,
  });

  /** @param {string} name @param {boolean} several whether there is another study to go to */
  constructor(name, several) {
    super();
    const send = (type) => () => this.dispatchEvent(new Event(type));
    const menu = make(
      "details",
      { class: "pe-menu" },
      make("summary", { class: "pe-who", text: name }),
      make(
        "div",
        { class: "pe-menu-list" },
        several
          ? make("button", { type: "button", class: "pe-choice", text: "Another study", on: { click: send("leave") } })
          : null,
        make("button", { type: "button", class: "pe-choice", text: "Sign out", on: { click: send("signout") } }),
      ),
    );
    menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        menu.open = false;
        menu.firstChild.focus();
      }
    });
    menu.addEventListener("focusout", (event) => {
      if (!menu.contains(event.relatedTarget)) menu.open = false;
    });
    this.banner = make("p", { class: "pe-banner", role: "status", hidden: true });
    this.element = make(
      "header",
      { class: "pe-top" },
      this.#practice,
      this.#bar,
      this.#count,
      this.#more,
      make("button", {
        type: "button",
        class: "pe-who pe-help-button",
        text: "?",
        "aria-label": "Help and keys",
        on: { click: send("help") },
      }),
      menu,
    );
  }

  /** Without the way to the break and the end: between pairs, the screen says it. */
  set brief(brief) {
    this.#more.hidden = brief;
  }

  /** @param {Session} session */
  show(session) {
    const { done, total, batch } = session.progress;
    this.#fill.style.width = total ? `${(100 * done) / total}%` : "0";
    this.#bar.setAttribute("aria-valuemax", String(total));
    this.#bar.setAttribute("aria-valuenow", String(done));
    this.#bar.setAttribute("aria-valuetext", `${done} of ${total}`);
    this.#count.textContent = `${done} of ${total}`;
    const toBreak = Math.max(0, batch.size - (batch.done % batch.size || 0));
    const seconds = session.state?.seconds_left ?? null;
    const left = seconds !== null && done < total ? `${duration(seconds)} left` : "";
    const pause = batch.size && batch.size < total ? `${toBreak} to the break${left && " · "}` : "";
    this.#more.replaceChildren(make("span", { class: "pe-to-break", text: pause }), left);
    this.#practice.hidden = session.state?.phase !== "training";
    this.#showConnection(session);
  }

  #showConnection(session) {
    const waiting = session.outbox.entries().length;
    const kept =
      { 0: "", 1: " One answer is kept here and will be sent." }[waiting] ??
      ` ${waiting} answers are kept here and will be sent.`;
    const text = session.offline ? `No connection.${kept} Trying again …` : "";
    this.banner.hidden = !text;
    if (this.banner.textContent !== text) this.banner.textContent = text;
  }
}
