"use strict";
const $ = (id) => document.getElementById(id);
const canvas = $("canvas"), pen = canvas.getContext("2d");
// What is shown: the answer, its pixels, and the numbers of the segments that are hidden.
let file = null, found = null, photo = null, numbers = null, hidden = new Set(), lit = 0, asked = 0;

function say(text, isError = false) {
  $("state").textContent = text;
  $("state").className = isError ? "error" : "soft";
}

function pixels(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => {
      const sheet = new OffscreenCanvas(image.width, image.height);
      const brush = sheet.getContext("2d", { willReadFrequently: true });
      brush.drawImage(image, 0, 0);
      resolve(brush.getImageData(0, 0, image.width, image.height).data);
    };
    image.onerror = () => reject(new Error("the answer holds no picture"));
    image.src = address;
  });
}

async function segment() {
  if (!file) return;
  const turn = ++asked;
  say("Segmenting ...");
  const scales = [...document.querySelectorAll("#scales input[value]:checked")]
    .map((box) => box.value).filter((value) => value !== "on");
  const flip = $("flip").checked ? 1 : 0;
  const started = performance.now();
  try {
    const answer = await fetch(`/segment?scales=${scales}&flip=${flip}`, { method: "POST", body: file });
    if (!answer.ok) throw new Error(await answer.text());
    const content = await answer.json();
    const [shown, ids] = await Promise.all([pixels(content.image), pixels(content.numbers)]);
    if (turn !== asked) return; // a later question is on its way
    found = content; photo = shown; hidden = new Set(); lit = 0;
    numbers = new Uint32Array(content.width * content.height);
    for (let i = 0; i < numbers.length; i++)
      numbers[i] = ids[4 * i] + 256 * ids[4 * i + 1] + 65536 * ids[4 * i + 2];
    canvas.width = content.width; canvas.height = content.height;
    document.querySelector(".work").hidden = document.querySelector(".hint").hidden = false;
    $("attention").hidden = true;
    list(); paint();
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    say(`${content.segments.length} segments in ${content.width} x ${content.height} pixels, ${seconds} s`);
  } catch (error) {
    if (turn === asked) say(error.message, true);
  }
}

function list() {
  $("segments").replaceChildren(...found.segments.map((segment) => {
    const row = document.createElement("li"), label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    const name = Object.assign(document.createElement("span"), { textContent: segment.name });
    const score = Object.assign(document.createElement("span"), { className: "score" });
    swatch.style.background = `rgb(${segment.color})`;
    score.textContent = segment.score.toFixed(2);
    label.dataset.number = segment.number;
    box.onchange = () => { show([segment], box.checked); };
    label.onmouseenter = () => light(segment.number);
    label.onmouseleave = () => light(0);
    label.append(box, swatch, name, score);
    row.append(label);
    return row;
  }));
}

function show(segments, isShown) {
  for (const segment of segments) {
    if (isShown) hidden.delete(segment.number); else hidden.add(segment.number);
    $("segments").querySelector(`[data-number="${segment.number}"] input`).checked = isShown;
  }
  paint();
}

function light(number) {
  if (number === lit) return;
  lit = number;
  for (const label of $("segments").querySelectorAll("label"))
    label.classList.toggle("on", Number(label.dataset.number) === number);
  paint();
}

function paint() {
  if (!found) return;
  const { width, height } = found, sheet = pen.createImageData(width, height), to = sheet.data;
  const share = $("opacity").value / 100;
  const colors = [null, ...found.segments.map((segment) => segment.color)];
  for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) {
    const number = numbers[i], color = hidden.has(number) ? null : colors[number];
    const isEdge = color && ((x > 0 && numbers[i - 1] !== number) || (y > 0 && numbers[i - width] !== number));
    const mix = !color ? 0 : isEdge || number === lit ? Math.max(share, 0.85) : share;
    for (let c = 0; c < 3; c++) {
      const tint = color ? (isEdge ? (color[c] + 255) / 2 : color[c]) : 0;
      to[4 * i + c] = photo[4 * i + c] * (1 - mix) + tint * mix;
    }
    to[4 * i + 3] = 255;
  }
  pen.putImageData(sheet, 0, 0);
}

function pixelAt(event) {
  const box = canvas.getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / box.width * found.width);
  const y = Math.floor((event.clientY - box.top) / box.height * found.height);
  return [Math.min(Math.max(y, 0), found.height - 1), Math.min(Math.max(x, 0), found.width - 1)];
}

canvas.onmousemove = (event) => {
  const [y, x] = pixelAt(event), number = numbers[y * found.width + x];
  const segment = hidden.has(number) ? undefined : found.segments[number - 1];
  const tip = $("tip"), box = canvas.getBoundingClientRect();
  tip.hidden = !segment;
  light(segment ? number : 0);
  if (!segment) return;
  tip.textContent = `${segment.name} ${segment.score.toFixed(2)}`;
  tip.style.left = `${Math.min(event.clientX - box.left + 14, box.width - tip.offsetWidth)}px`;
  tip.style.top = `${event.clientY - box.top + 14}px`;
};
canvas.onmouseleave = () => { $("tip").hidden = true; light(0); };

canvas.onclick = async (event) => {
  const [y, x] = pixelAt(event);
  say(`Looking at pixel ${y}, ${x} ...`);
  try {
    const answer = await fetch(`/attention?picture=${found.picture}&y=${y}&x=${x}`);
    if (!answer.ok) throw new Error(await answer.text());
    const image = document.querySelector("#attention img");
    const content = await answer.blob();
    await new Promise((done) => {
      image.onload = done;
      image.src = URL.createObjectURL(content);
    });
    URL.revokeObjectURL(image.src);
    $("attention").hidden = false;
    say(`What the pixel in row ${y}, column ${x} attends to.`);
  } catch (error) {
    say(error.message, true);
  }
};

function take(given) {
  if (!given) return;
  file = given;
  segment();
}

$("file").onchange = () => take($("file").files[0]);
$("opacity").oninput = paint;
for (const box of document.querySelectorAll("#scales input")) box.onchange = segment;
for (const [id, isShown] of [
  ["all", () => true], ["none", () => false],
  ["things", (segment) => segment.kind === "thing"], ["stuff", (segment) => segment.kind === "stuff"],
]) $(id).onclick = () => {
  show(found.segments.filter((segment) => isShown(segment)), true);
  show(found.segments.filter((segment) => !isShown(segment)), false);
};
document.ondragover = (event) => { event.preventDefault(); document.body.classList.add("over"); };
document.ondragleave = () => document.body.classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files[0]);
};
document.onpaste = (event) => take(event.clipboardData.files[0]);
