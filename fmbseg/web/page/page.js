"use strict";
// The page: sends a picture and names, paints the answer. No library, no network but this server.

const $ = (id) => document.getElementById(id);
const state = { file: null, picture: null, answer: null, maps: {}, chosen: null, turn: 0 };

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", wrong);
}

function query(parts) {
  const asked = new URLSearchParams({ classes: $("classes").value });
  parts.forEach((part) => asked.append("part", part));
  return asked;
}

async function post(path, parts = []) {
  const answer = await fetch(`${path}?${query(parts)}`, { method: "POST", body: state.file });
  if (answer.ok) return answer;
  let reason = `the server answered ${answer.status}`;
  try { reason = (await answer.json()).error || reason; } catch { /* not ours */ }
  throw new Error(reason);
}

// A grey PNG in base64 -> one byte a pixel.
async function grey(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  return Uint8Array.from({ length: rgba.length / 4 }, (_, i) => rgba[4 * i]);
}

const view = () => document.querySelector("input[name=view]:checked").value;

// What the chosen view needs and the answer does not have yet.
function missing() {
  const wanted = new Set();
  if (["before", "stage1"].includes(view())) wanted.add(view());
  if ($("points").checked) wanted.add("stage1");
  return [...wanted].filter((part) => !(state.answer && part in state.answer));
}

async function segment(keep = false) {
  if (!state.file) { say("choose a picture first", true); return; }
  const turn = ++state.turn;
  const parts = keep && state.answer ? [...new Set([...missing(), ...["before", "stage1"].filter((p) => p in state.answer)])] : missing();
  $("go").disabled = true;
  say("segmenting ...");
  try {
    const start = performance.now();
    const answer = await (await post("segment", parts)).json();
    const picture = await createImageBitmap(state.file);
    const maps = { label: await grey(answer.label), probability: await grey(answer.probability) };
    if (answer.before) maps.before = await grey(answer.before);
    if (answer.stage1) maps.stage1 = await grey(answer.stage1.label);
    if (turn !== state.turn) return; // a later picture has been chosen
    Object.assign(state, { answer, picture, maps, chosen: null });
    say(`${answer.width} x ${answer.height} px in ${((performance.now() - start) / 1000).toFixed(1)} s`);
    $("result").hidden = false;
    $("png").href = `data:image/png;base64,${answer.png}`;
    legend();
    paint();
  } catch (error) {
    if (turn === state.turn) say(error.message, true);
  } finally {
    if (turn === state.turn) $("go").disabled = false;
  }
}

function legend() {
  const list = $("legend");
  list.replaceChildren();
  for (const each of state.answer.classes) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    const swatch = document.createElement("i");
    if (each.index !== state.answer.background) swatch.style.background = each.colour;
    const name = document.createElement("span");
    name.textContent = each.name;
    const share = document.createElement("small");
    share.textContent = `${(100 * each.share).toFixed(1)} %, p ${each.probability.toFixed(2)}`;
    button.append(swatch, name, share);
    button.addEventListener("click", () => {
      state.chosen = state.chosen === each.index ? null : each.index;
      list.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(b === button && state.chosen !== null)));
      paint();
    });
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  }
}

function paint() {
  if (!state.answer) return;
  const { width, height, colours, background } = state.answer;
  const canvas = $("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.drawImage(state.picture, 0, 0, width, height);
  const map = state.maps[view()];
  if (map) {
    const pixels = context.getImageData(0, 0, width, height);
    const opacity = Number($("opacity").value) / 100;
    const rgb = colours.map((c) => [1, 3, 5].map((at) => parseInt(c.slice(at, at + 2), 16)));
    for (let i = 0; i < map.length; i++) {
      const colour = rgb[map[i]];
      const left = !colour || map[i] === background || (state.chosen !== null && map[i] !== state.chosen);
      if (left) continue;
      for (let k = 0; k < 3; k++) pixels.data[4 * i + k] += opacity * (colour[k] - pixels.data[4 * i + k]);
    }
    context.putImageData(pixels, 0, 0);
  }
  if ($("points").checked && state.answer.stage1) {
    const size = Math.max(2, width / 90);
    for (const each of state.answer.stage1.points) {
      if (state.chosen !== null && each.index !== state.chosen) continue;
      for (const [x, y] of each.points) {
        context.beginPath();
        context.arc(x, y, size, 0, 7);
        context.fillStyle = colours[each.index];
        context.fill();
        context.lineWidth = size / 3;
        context.strokeStyle = "#fff";
        context.stroke();
      }
    }
  }
}

function tell(x, y) {
  if (!state.answer) return;
  const { width, height, names } = state.answer;
  const map = state.maps[view()] || state.maps.label;
  const column = Math.min(width - 1, Math.max(0, Math.floor(x))), row = Math.min(height - 1, Math.max(0, Math.floor(y)));
  const at = row * width + column;
  const name = names[map[at]] ?? "unlabelled";
  const sure = view() === "label" || view() === "none" ? `, probability ${(state.maps.probability[at] / 255).toFixed(2)}` : "";
  $("here").textContent = `${column}, ${row}: ${name}${sure}`;
}

// Keys move a point over the picture, as the mouse does.
const at = { x: 0, y: 0 };
function move(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step || !state.answer) return;
  event.preventDefault();
  const far = event.shiftKey ? 10 : 1;
  at.x = Math.min(state.answer.width - 1, Math.max(0, at.x + far * step[0]));
  at.y = Math.min(state.answer.height - 1, Math.max(0, at.y + far * step[1]));
  tell(at.x, at.y);
}

function choose(file) {
  state.file = file;
  state.answer = null;
  $("drop").textContent = file.name || "a pasted picture";
  segment();
}

async function chooseExample(name) {
  try {
    const answer = await fetch(`examples/${encodeURIComponent(name)}`);
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    choose(new File([await answer.blob()], name));
  } catch (error) { say(error.message, true); }
}

async function begin() {
  $("form").addEventListener("submit", (event) => { event.preventDefault(); segment(true); });
  $("file").addEventListener("change", () => $("file").files[0] && choose($("file").files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    $("drop").addEventListener(name, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
    });
  }
  addEventListener("paste", (event) => event.clipboardData.files[0] && choose(event.clipboardData.files[0]));
  const canvas = $("canvas");
  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect();
    Object.assign(at, { x: (event.clientX - box.left) * canvas.width / box.width, y: (event.clientY - box.top) * canvas.height / box.height });
    tell(at.x, at.y);
  });
  canvas.addEventListener("keydown", move);
  const changed = () => (missing().length ? segment(true) : paint());
  document.querySelectorAll("input[name=view], #points").forEach((input) => input.addEventListener("change", changed));
  $("opacity").addEventListener("input", paint);
  $("coco").addEventListener("click", async () => {
    try {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await (await post("coco")).blob());
      link.download = "labels.json";
      link.click();
      // The browser reads it after the click, when it comes to it.
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    } catch (error) { say(error.message, true); }
  });
  const start = await (await fetch("start")).json();
  // What was typed meanwhile stays.
  if (!$("classes").value) $("classes").value = start.classes.join(", ");
  for (const name of start.examples) {
    const button = document.createElement("button");
    button.type = "button";
    const image = document.createElement("img");
    image.src = `examples/${encodeURIComponent(name)}`;
    image.alt = `example ${name}`;
    button.append(image);
    button.addEventListener("click", () => chooseExample(name));
    $("examples").append(button);
  }
}

begin().catch((error) => say(error.message, true));
