// Keyboard and large view of the gallery. Without this script all pairs stand below one another.
"use strict";
(() => {
  const groups = [...document.querySelectorAll(".group")];
  const tabs = [...document.querySelectorAll(".orders [role=tab]")];
  const viewer = document.getElementById("viewer");
  if (!groups.length || !viewer.showModal) return;
  const state = { exhibit: null, after: true, heat: false, marks: true };

  const shown = () => [...groups.find((group) => !group.hidden).querySelectorAll(".exhibit")];

  function choose(index) {
    groups.forEach((group, i) => { group.hidden = i !== index; });
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", i === index);
      tab.tabIndex = i === index ? 0 : -1;
    });
  }

  function move(step) {
    const all = shown();
    const from = all.indexOf(viewer.open ? state.exhibit : document.activeElement);
    const next = all[Math.min(all.length - 1, Math.max(0, from < 0 ? 0 : from + step))];
    if (viewer.open) { state.exhibit = next; draw(); } else { next.focus(); next.scrollIntoView({ block: "nearest" }); }
  }

  function draw() {
    const side = state.after ? 1 : 0;
    const pair = state.exhibit.querySelectorAll(".two:not(.maps) figure");
    const maps = state.exhibit.querySelectorAll(".maps figure");
    const chosen = state.heat && maps.length ? maps[side] : pair[side];
    const copy = chosen.cloneNode(true);
    const marks = pair[side].querySelector(".marks");
    copy.querySelectorAll(".marks").forEach((old) => old.remove());
    if (marks && state.marks) {
      const frame = copy.querySelector(".frame") || copy.insertBefore(document.createElement("div"), copy.firstChild);
      frame.className = "frame";
      const image = copy.querySelector("img");
      if (image && image.parentNode !== frame) frame.append(image);
      frame.append(marks.cloneNode(true));
    }
    copy.querySelector("figcaption").textContent = pair[side].querySelector("figcaption").textContent
      + (chosen === pair[side] ? "" : " · " + chosen.querySelector("figcaption").textContent);
    const all = shown();
    const told = document.createElement("p");
    told.className = "small";
    told.textContent = `${all.indexOf(state.exhibit) + 1} of ${all.length} · Space swap · ← → pair · H heat map · M marks · Esc close`;
    const prompt = state.exhibit.querySelector(".prompt").cloneNode(true);
    viewer.replaceChildren(copy, prompt, told);
  }

  function open(exhibit) {
    state.exhibit = exhibit;
    draw();
    if (!viewer.open) viewer.showModal();
  }

  document.querySelector(".orders").hidden = false;
  document.querySelector(".keys").hidden = false;
  document.documentElement.classList.add("scripted");
  groups.forEach((group) => group.setAttribute("role", "tabpanel"));
  tabs.forEach((tab, i) => tab.addEventListener("click", () => choose(i)));
  document.querySelector(".orders").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const next = (tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length;
    choose(next);
    tabs[next].focus();
    event.preventDefault();
    event.stopPropagation();
  });
  groups.forEach((group) => group.addEventListener("click", (event) => {
    const exhibit = event.target.closest(".exhibit");
    if (exhibit && event.target.closest("figure")) open(exhibit);
  }));
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close();
    else { state.after = !state.after; draw(); }
  });
  viewer.addEventListener("close", () => state.exhibit && state.exhibit.focus());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    const here = viewer.open || document.activeElement.closest("#images");
    if (!here) return;
    if (/^[1-9]$/.test(key) && groups[key - 1] && !viewer.open) { choose(key - 1); shown()[0].focus(); }
    else if (key === "arrowright" || key === "j") move(1);
    else if (key === "arrowleft" || key === "k") move(-1);
    else if (key === "enter" && !viewer.open && document.activeElement.matches(".exhibit")) open(document.activeElement);
    else if (viewer.open && key === " ") { state.after = !state.after; draw(); }
    else if (viewer.open && key === "h") { state.heat = !state.heat; draw(); }
    else if (viewer.open && key === "m") { state.marks = !state.marks; draw(); }
    else return;
    event.preventDefault();
  });
  // Print shows every group, the screen one.
  choose(0);
})();
