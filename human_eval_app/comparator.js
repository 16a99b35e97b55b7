// The comparator: one component that owns its keys, its queue and its outbox.
//
// Answers go into an outbox in localStorage before they are sent, so a reload, a closed laptop or a lost network
// loses none; the server stores each (assignment, revision) once, so sending twice does no harm. All text is set
// with textContent.

function comparator(root) {
  const QUESTIONS = {
    flaws: {
      title: "Which image has fewer flaws?",
      hint: "Look for broken or missing parts, wrong shapes, smears and noise. The text behind the images is hidden.",
    },
    appeal: { title: "Which image do you like more?", hint: "Judge the look as a whole: colour, light, composition." },
    alignment: { title: "Which image fits the text better?", hint: "Count what is asked for and shown; beauty aside." },
  };
  const CHOICES = [
    { choice: "left", text: "Left", narrow: "Upper", key: "←", keys: ["ArrowLeft", "1"] },
    { choice: "tie", text: "Tie", key: "↓", keys: ["ArrowDown", "2", "t"] },
    { choice: "right", text: "Right", narrow: "Lower", key: "→", keys: ["ArrowRight", "3"] },
    { choice: "both_bad", text: "Both bad", key: "B", keys: ["b"] },
    {
      choice: "reject", text: "Mixed styles", narrow: "Mixed", key: "R", keys: ["r"], only: "appeal",
      why: "One is a photo, the other a drawing: they cannot be compared",
    },
    { choice: "skip", text: "Skip", key: "S", keys: ["s"] },
  ];
  const ZOOM = 3;
  const GUARD_MS = 250; // an answer sooner after the pair appears belongs to the pair before
  const RETRY_MS = 2000;

  const state = {
    annotator: stored("pixeval.annotator"),
    queue: [],
    done: 0,
    total: 0,
    last: null,
    shown: null,
    shownAt: 0,
    ready: false,
    sending: false,
  };
  const images = new Map(); // key -> Image, holds what was loaded ahead

  // ---- small helpers -------------------------------------------------------------------------------------------

  function stored(name) {
    try { return window.localStorage.getItem(name) || ""; } catch { return ""; }
  }
  function store(name, value) {
    try { window.localStorage.setItem(name, value); } catch { /* private window: works, without memory */ }
  }
  function make(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  let memoryOutbox = [];
  function outbox() {
    try { return JSON.parse(window.localStorage.getItem("pixeval.outbox") || "[]"); } catch { return memoryOutbox; }
  }
  function setOutbox(entries) {
    memoryOutbox = entries;
    store("pixeval.outbox", JSON.stringify(entries));
  }
  function mine() {
    return outbox().filter((entry) => entry.annotator === state.annotator);
  }
  function same(a, b) {
    return a && b && a.assignment === b.assignment && a.revision === b.revision;
  }
  async function call(path, body) {
    const options = body && {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    };
    const response = await fetch(path, options || { cache: "no-store" });
    if (!response.ok) {
      const error = new Error((await response.text()).slice(0, 200));
      error.status = response.status;
      throw error;
    }
    return response.json();
  }

  // ---- building the page ---------------------------------------------------------------------------------------

  root.textContent = "";
  const page = make("div", "pe-page");
  root.append(page);

  const form = make("form", "pe-join");
  const nameLabel = make("label", "pe-title", "Your name");
  const nameInput = make("input");
  nameInput.id = "pe-name";
  nameInput.maxLength = 64;
  nameInput.required = true;
  nameInput.autocomplete = "nickname";
  nameLabel.htmlFor = nameInput.id;
  const nameHint = make("p", "pe-hint", "You will compare pairs of images, one question at a time. Your answers are "
    + "kept under this name; give the same one to go on where you stopped.");
  const joinButton = make("button", "pe-choice pe-main", "Start");
  form.append(nameLabel, nameHint, nameInput, joinButton);

  const top = make("header", "pe-top");
  const bar = make("div", "pe-bar");
  bar.setAttribute("role", "progressbar");
  const fill = make("div", "pe-fill");
  bar.append(fill);
  const count = make("span", "pe-count");
  const who = make("button", "pe-who");
  who.title = "Change the name";
  top.append(bar, count, who);

  const ask = make("section", "pe-ask");
  ask.setAttribute("aria-live", "polite");
  const title = make("h1", "pe-title");
  const hint = make("p", "pe-hint");
  const prompt = make("blockquote", "pe-prompt");
  ask.append(title, hint, prompt);

  const pair = make("div", "pe-pair");
  const sides = ["left", "right"].map((side) => {
    const frame = make("figure", "pe-frame");
    frame.title = "Click, or press Z, to look closer at the same place of both images";
    const image = make("img");
    image.alt = side === "left" ? "Left image" : "Right image";
    image.draggable = false;
    const broken = make("p", "pe-broken", "This image cannot be shown. Please skip.");
    frame.append(image, broken);
    pair.append(frame);
    return { side, frame, image };
  });

  const controls = make("div", "pe-controls");
  const buttons = CHOICES.map((choice) => {
    const button = make("button", "pe-choice" + (choice.keys.length > 1 ? " pe-main" : ""));
    button.type = "button";
    button.dataset.choice = choice.choice;
    if (choice.why) button.title = choice.why;
    // On an upright phone the images stand one above the other, and the words follow.
    button.append(make("span", "pe-wide", choice.text), make("span", "pe-narrow", choice.narrow || choice.text));
    button.append(make("kbd", "", choice.key));
    button.addEventListener("click", () => answer(choice.choice));
    return { ...choice, button };
  });
  const undoButton = make("button", "pe-choice");
  undoButton.type = "button";
  undoButton.dataset.choice = "undo";
  undoButton.append(make("span", "", "Undo"), make("kbd", "", "U"));
  undoButton.addEventListener("click", undo);
  const mainRow = make("div", "pe-row");
  const sideRow = make("div", "pe-row pe-minor");
  buttons.forEach((b) => (b.keys.length > 1 ? mainRow : sideRow).append(b.button));
  sideRow.append(undoButton);
  controls.append(mainRow, sideRow);

  const status = make("p", "pe-status");
  status.setAttribute("role", "status");
  page.append(form, top, ask, pair, controls, status);

  // ---- what is shown -------------------------------------------------------------------------------------------

  function load(key) {
    if (!images.has(key)) {
      const image = new Image();
      image.src = `/api/image/${key}`;
      // Resolves either way: a pair with a broken image is shown, to be skipped.
      image.settled = image.decode().then(() => true, () => false);
      images.set(key, image);
    }
    return images.get(key);
  }

  async function show() {
    const joined = Boolean(state.annotator);
    form.hidden = joined;
    for (const part of [top, ask, pair, controls]) part.hidden = !joined;
    if (!joined) { nameInput.focus(); return; }
    const waiting = mine();
    const answered = waiting.length;
    const done = Math.min(state.total, state.done + answered);
    fill.style.width = state.total ? `${(100 * done) / state.total}%` : "0";
    bar.setAttribute("aria-valuemin", "0");
    bar.setAttribute("aria-valuemax", String(state.total));
    bar.setAttribute("aria-valuenow", String(done));
    count.textContent = `${done} of ${state.total}`;
    who.textContent = state.annotator;
    undoButton.disabled = !answered && !state.last;

    const next = state.queue.find((item) => !waiting.some((entry) => same(entry, item))) || null;
    if (next === null) {
      state.shown = null;
      state.ready = false;
      pair.hidden = true;
      prompt.hidden = true;
      const finished = state.total > 0 && !answered && state.queue.length === 0;
      title.textContent = finished ? "All done, thank you." : "Loading …";
      hint.textContent = finished ? "Every answer is saved. You can close this page." : "";
      mainRow.hidden = true;
      buttons.forEach((b) => { b.button.hidden = true; });
      return;
    }
    if (same(next, state.shown)) return;
    state.shown = next;
    state.ready = false;
    setZoom(null);
    title.textContent = QUESTIONS[next.question].title;
    hint.textContent = QUESTIONS[next.question].hint;
    prompt.hidden = next.prompt === null;
    prompt.textContent = next.prompt || "";
    mainRow.hidden = false;
    buttons.forEach((b) => { b.button.hidden = Boolean(b.only) && b.only !== next.question; });
    page.dataset.question = next.question;

    const loaded = sides.map(({ side }) => load(next[side]));
    const fine = await Promise.all(loaded.map((image) => image.settled));
    if (!same(state.shown, next)) return;
    sides.forEach(({ frame, image }, i) => {
      image.src = loaded[i].src;
      image.hidden = !fine[i];
      frame.classList.toggle("pe-missing", !fine[i]);
    });
    fit();
    // Time and the guard count from the frame in which both images are there.
    requestAnimationFrame(() => {
      if (!same(state.shown, next)) return;
      state.ready = true;
      state.shownAt = performance.now();
      page.dataset.shown = `${next.assignment}/${next.revision}`;
    });
    for (const item of state.queue) { load(item.left); load(item.right); }
    const wanted = new Set(state.queue.flatMap((item) => [item.left, item.right]));
    for (const key of images.keys()) if (!wanted.has(key)) images.delete(key);
  }

  // Small images are enlarged by whole factors where there is room, so every pixel keeps the same size; in between,
  // the browser's smooth scaling is right for photographs.
  function fit() {
    for (const { frame, image } of sides) {
      const width = frame.clientWidth, height = frame.clientHeight;
      if (!image.naturalWidth || !width || !height) continue;
      const room = Math.min(width / image.naturalWidth, height / image.naturalHeight);
      const scale = room >= 2 ? Math.floor(room) : room;
      image.style.width = `${image.naturalWidth * scale}px`;
      image.style.height = `${image.naturalHeight * scale}px`;
    }
  }
  window.addEventListener("resize", fit);

  // ---- zoom: both images at the same place ---------------------------------------------------------------------

  let zoomed = false;
  function setZoom(place) {
    zoomed = place !== null;
    pair.classList.toggle("pe-zoomed", zoomed);
    for (const { image } of sides) {
      image.style.transform = zoomed ? `scale(${ZOOM})` : "";
      if (zoomed) image.style.transformOrigin = `${100 * place[0]}% ${100 * place[1]}%`;
    }
  }
  function placeOf(event, frame) {
    const box = frame.getBoundingClientRect();
    const clamp = (x) => Math.min(1, Math.max(0, x));
    return [clamp((event.clientX - box.left) / box.width), clamp((event.clientY - box.top) / box.height)];
  }
  for (const { frame } of sides) {
    frame.addEventListener("click", (event) => setZoom(zoomed ? null : placeOf(event, frame)));
    frame.addEventListener("pointermove", (event) => { if (zoomed) setZoom(placeOf(event, frame)); });
  }

  // ---- answers -------------------------------------------------------------------------------------------------

  function answer(choice) {
    const button = buttons.find((b) => b.choice === choice);
    const elapsed = performance.now() - state.shownAt;
    if (!state.shown || !state.ready || !button || button.button.hidden || elapsed < GUARD_MS) return;
    const { assignment, revision } = state.shown;
    const entry = { annotator: state.annotator, assignment, revision, choice, seconds: Math.round(elapsed) / 1000 };
    setOutbox([...outbox(), entry]);
    flash(button.button);
    show();
    send();
  }

  function flash(button) {
    button.classList.add("pe-pressed");
    setTimeout(() => button.classList.remove("pe-pressed"), 150);
  }

  function take(reply) {
    state.queue = reply.queue;
    state.done = reply.done;
    state.total = reply.total;
    state.last = reply.last;
  }

  async function send() {
    if (state.sending) return;
    state.sending = true;
    try {
      for (let entry = mine()[0]; entry; entry = mine()[0]) {
        let reply;
        try {
          reply = await call("/api/vote", entry);
        } catch (error) {
          if (!error.status || error.status >= 500 || error.status === 429) {
            status.textContent = "No connection. Your answers are kept here and will be sent.";
            setTimeout(send, RETRY_MS);
            return;
          }
          status.textContent = `The server did not accept an answer: ${error.message}`;
          setOutbox(outbox().filter((other) => !same(other, entry)));
          await refresh();
          continue;
        }
        setOutbox(outbox().filter((other) => !same(other, entry)));
        if (entry.annotator === state.annotator) take(reply);
        status.textContent = "";
        show();
      }
    } finally {
      state.sending = false;
    }
  }

  async function undo() {
    if (!state.annotator || undoButton.disabled) return;
    await send();
    if (mine().length || state.sending || !state.last) return;
    flash(undoButton);
    try {
      take(await call("/api/undo", { annotator: state.annotator, ...state.last }));
      status.textContent = "Your last answer was taken back.";
      show();
    } catch (error) {
      status.textContent = `Undo failed: ${error.message}`;
    }
  }

  async function refresh() {
    if (!state.annotator) { show(); return; }
    try {
      take(await call(`/api/next?annotator=${encodeURIComponent(state.annotator)}`));
      status.textContent = "";
      show();
    } catch (error) {
      status.textContent = error.status ? `Error: ${error.message}` : "No connection. Trying again …";
      if (!error.status || error.status >= 500) setTimeout(refresh, RETRY_MS);
      show();
    }
  }

  // ---- keys and names ------------------------------------------------------------------------------------------

  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!state.annotator || /^(input|textarea|select)$/i.test(event.target.tagName || "")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const found = buttons.find((b) => b.keys.includes(key) && !b.button.hidden);
    if (found) answer(found.choice);
    else if (key === "u") undo();
    else if (key === "z") setZoom(zoomed ? null : [0.5, 0.5]);
    else return;
    event.preventDefault();
  });

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const name = nameInput.value.trim();
    if (!name) return;
    state.annotator = name;
    store("pixeval.annotator", name);
    begin();
  });

  who.addEventListener("click", () => {
    nameInput.value = state.annotator;
    Object.assign(state, { annotator: "", queue: [], shown: null, ready: false, done: 0, total: 0, last: null });
    show();
  });

  async function begin() {
    show();
    await refresh();
    send();
  }

  begin();
}
