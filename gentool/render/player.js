"use strict";
function element(name, classes, text) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (text) made.textContent = text;
  return made;
}
function percent(p) { return Math.round(Math.max(0, Math.min(1, p)) * 100) + "%"; }
function words(row, tokens, before) {
  row.replaceChildren();
  const end = tokens.words.findLastIndex(word => word) + 1;
  tokens.words.slice(0, end).forEach((word, i) => {
    const masked = tokens.masked[i];
    const changed = before && before.words[i] !== word;
    const kind = (masked ? "masked" : word ? "" : "nothing") + (changed ? " changed" : "");
    const chip = element("span", kind.trim(), masked ? word || "mask" : word || "·");
    chip.style.setProperty("--c", percent(tokens.confidence[i]));
    chip.title = masked ? "masked" : word ? percent(tokens.confidence[i]) : "nothing";
    row.append(chip, " ");
  });
}
function cells(grid, tokens) {
  const flat = tokens.confidence.flat(), masked = tokens.masked.flat();
  grid.style.gridTemplateColumns = `repeat(${tokens.confidence[0].length}, 1fr)`;
  grid.replaceChildren(...flat.map((p, i) => {
    const cell = element("i", masked[i] ? "masked" : "");
    cell.style.setProperty("--c", percent(p));
    return cell;
  }));
  const n = masked.filter(Boolean).length;
  grid.setAttribute("aria-label", `${n} of ${flat.length} tokens are masked`);
}
// One trace: its slider moves all its samples. Keys are heard within `scope`.
function player(root, scope) {
  const records = JSON.parse(root.querySelector(".frames").textContent);
  const steps = [...new Set(records.map(r => r.step))].sort((a, b) => a - b);
  const ways = new Map();
  for (const r of records) ways.set(r.sample, (ways.get(r.sample) || []).concat([r]));
  const slider = root.querySelector("input"), play = root.querySelector("button");
  const now = root.querySelector("output");
  const pause = Math.max(120, Math.min(600, 3000 / steps.length)); // few steps are shown longer
  let timer = 0;

  function show() {
    const step = steps[slider.value];
    const text = `${step} of ${root.dataset.total}`;
    now.textContent = text;
    slider.setAttribute("aria-valuetext", "step " + text);
    for (const section of root.querySelectorAll("section")) {
      const way = ways.get(Number(section.dataset.sample)).filter(r => r.step <= step);
      const frame = way.at(-1), before = way.at(-2);
      if (!frame) continue;
      for (const part of section.querySelectorAll("[data-view]")) {
        const name = part.dataset.view;
        if (part.tagName === "IMG") {
          part.src = "data:image/png;base64," + frame.images[name];
          part.alt = `Sample ${frame.sample}, ${name} after step ${text}`;
        } else if (part.className === "grid") {
          cells(part, frame.tokens[name]);
        } else {
          words(part, frame.tokens[name], before && before.tokens[name]);
        }
      }
    }
  }
  function stop() { clearInterval(timer); timer = 0; play.textContent = "Play"; }
  function go(value) {
    slider.value = Math.max(0, Math.min(steps.length - 1, value));
    show();
  }
  function toggle() {
    if (timer) return stop();
    if (Number(slider.value) === steps.length - 1) go(0);
    play.textContent = "Stop";
    timer = setInterval(() => {
      go(Number(slider.value) + 1);
      if (Number(slider.value) === steps.length - 1) stop();
    }, pause);
  }
  play.addEventListener("click", toggle);
  slider.addEventListener("input", () => { stop(); show(); });
  scope.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = Number(slider.value);
    const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1,
      Home: 0, End: steps.length - 1 };
    if ((event.key === "ArrowUp" || event.key === "ArrowDown") && event.target !== slider) return;
    if (event.key in to) { stop(); go(to[event.key]); }
    else if (event.key === " ") toggle();
    else return;
    event.preventDefault();
  });
  slider.max = steps.length - 1;
  slider.value = slider.max;
  root.querySelector(".controls").hidden = false;
  show();
}
const traces = document.querySelectorAll(".trace");
for (const root of traces) player(root, traces.length > 1 ? root : document);
