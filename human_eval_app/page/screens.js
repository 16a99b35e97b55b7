// Everything but the pairs: sign-in, choice of project, introduction, break and the ends. Each is an element that a
// `Stage` of the page shows; the first field or button takes the keys.

import { duration, make } from "./dom.js";

function screen(title, ...children) {
  return make(
    "section",
    { class: "pe-screen" },
    make("h1", { class: "pe-title", tabindex: "-1", text: title }),
    ...children,
  );
}

function paragraphs(text, className = "") {
  return text
    .split(/\n\s*\n/u)
    .filter((part) => part.trim())
    .map((part) => make("p", { class: className, text: part.trim() }));
}

function action(text, act, more = {}) {
  return make("button", { type: "button", class: "pe-choice pe-accent", text, on: { click: act }, ...more });
}

function field(id, text, options) {
  return [make("label", { for: id, text }), make("input", { id, ...options })];
}

/**
 * The form to come in: by an invitation (a name, and a password if one wants to come back elsewhere) or with a
 * password.
 * @param {{token: string|null, name: string, reason: string}} known
 * @param {(name: string, password: string) => Promise<void>} enter throws `Refused` with a text for people
 */
export function signInScreen({ token, name, reason }, enter) {
  const problem = make("p", { class: "pe-problem", role: "alert", text: reason });
  const button = make("button", { class: "pe-choice pe-accent", text: token ? "Start" : "Sign in" });
  const form = make(
    "form",
    { class: "pe-form" },
    ...field("pe-name", "Your name", {
      maxlength: "64",
      required: true,
      autocomplete: "username",
      autocapitalize: "off",
      value: name,
    }),
    ...field("pe-password", token ? "Password (optional)" : "Password", {
      type: "password",
      required: !token,
      autocomplete: token ? "new-password" : "current-password",
      minlength: token ? "8" : null,
      maxlength: "256",
    }),
    token ? make("p", { class: "pe-hint", text: "Only needed to go on in another browser later." }) : null,
    problem,
    button,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const [nameInput, passwordInput] = form.querySelectorAll("input");
    if (button.disabled || !nameInput.value.trim()) return;
    button.disabled = true;
    problem.textContent = "";
    try {
      await enter(nameInput.value.trim(), passwordInput.value);
    } catch (error) {
      problem.textContent = error.message;
      nameInput.focus();
    } finally {
      button.disabled = false;
    }
  });
  const hint = token
    ? "You were invited to compare pairs of images, one question at a time. Your answers are kept under this name."
    : "Sign in to go on. If you were sent a link, open that link instead.";
  return screen(token ? "Welcome" : "Sign in", make("p", { class: "pe-hint", text: hint }), form);
}

/** An invitation opened by somebody who is signed in already. */
export function joinScreen(name, join, leave) {
  const problem = make("p", { class: "pe-problem", role: "alert" });
  const act = (what) => () =>
    what().catch((error) => {
      problem.textContent = error.message;
    });
  return screen(
    "Welcome",
    make("p", { text: `You are signed in as ${name}. Join this study under that name?` }),
    problem,
    action("Join", act(join)),
    make("button", { type: "button", class: "pe-choice", text: "I am somebody else", on: { click: act(leave) } }),
  );
}

/**
 * @param {{id: string, title: string}[]} projects
 * @param {string|null} lead address of the lead's page, for a lead
 * @param {(id: string) => void} choose
 */
export function projectsScreen(projects, lead, choose) {
  const leads = lead ? make("a", { class: "pe-choice", href: lead, text: "The lead's page" }) : null;
  if (projects.length === 0) {
    const text = lead
      ? "You are not an annotator of any study."
      : "You are signed in, but not part of a study. Ask whoever invited you for a link.";
    return screen("No study yet", make("p", { text }), leads);
  }
  const list = projects.map(({ id, title }) => action(title, () => choose(id)));
  return screen("Choose a study", make("div", { class: "pe-list" }, ...list), leads);
}

/**
 * What is asked and how, before the first pair.
 * @param {Object} project of the contract
 */
export function introductionScreen(project, begin) {
  const questions = project.questions.map(({ title, hint }) =>
    make("li", {}, make("strong", { text: title }), " ", hint),
  );
  return screen(
    project.title,
    ...paragraphs(project.guideline ?? ""),
    make("h2", { text: "You will be asked" }),
    make("ul", {}, ...questions),
    make("h2", { text: "How" }),
    make("p", {
      text:
        "The same buttons answer every question: left, tie, right. On a keyboard the arrows do. Zoom with the wheel " +
        "or two fingers; both images follow. “?” shows all keys, and the last answer can always be taken back.",
    }),
    action("Begin (Enter)", begin),
  );
}

/** Between two batches. */
export function breakScreen({ done, total, secondsLeft }, go, undo) {
  const left = secondsLeft === null ? "" : ` At your pace the rest takes ${duration(secondsLeft)}.`;
  return screen(
    "A good moment for a break",
    make("p", { text: `${done} of ${total} answered; all of it is kept.${left}` }),
    make("p", {
      class: "pe-hint",
      text: "Look into the distance for a while: tired eyes miss flaws. You can also close this page and come back.",
    }),
    action("Go on (Enter)", go),
    make("button", {
      type: "button",
      class: "pe-choice",
      text: "Undo the last answer (U)",
      "data-choice": "undo",
      on: { click: undo },
    }),
  );
}

export function finishedScreen({ done }, undo) {
  return screen(
    "All done, thank you.",
    make("p", { text: `All ${done} answers are saved. You can close this page.` }),
    undo
      ? make("button", {
          type: "button",
          class: "pe-choice",
          text: "Undo the last answer (U)",
          "data-choice": "undo",
          on: { click: undo },
        })
      : null,
  );
}

export function pausedScreen(again) {
  return screen(
    "This study is paused",
    make("p", { text: "There is nothing to answer now. What you answered is saved; come back later." }),
    action("Look again", again),
  );
}

/** In a tab that another one took over from. */
export function elsewhereScreen(here) {
  return screen(
    "You went on in another tab",
    make("p", { text: "So that no pair is shown twice, one tab works at a time. Nothing is lost." }),
    action("Go on here", here),
  );
}

/** While the first state is on its way, or cannot be had. */
export function waitingScreen(text) {
  return make("section", { class: "pe-screen" }, make("p", { class: "pe-hint", role: "status", text }));
}
