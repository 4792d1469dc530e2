// The page of the front door. It only calls the REST API that /docs lists; there is no other way in.
// Colours of Okabe and Ito (2008), in the order in which all drawings of this project use them.
const COLOURS = ["#56b4e9", "#e69f00", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
const LIKELIEST = 5; // classes that are shown first
const LEAST = 0.01; // score of the boxes that are fetched, so that the slider has something to show
const LONGEST = 1280; // pixels of the picture as it is drawn
const REFRESH = 5000; // milliseconds between two looks at the list of models

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
let models = [];
let about = {}; // of the chosen model
let picture = null; // the file that was given last: {file, image}
let answer = null; // to it
let moved = false; // the slider, away from the thresholds of the model's own
let newest = 0; // number of the last question, for an older answer may come later

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is python serve.py still running?");
  }
  const content = await response.json();
  if (!response.ok) throw new Error(content.detail || `${response.status}`);
  return content;
}

function tell(status, problem = "") {
  at("status").textContent = status;
  at("problem").textContent = problem;
}

async function attempt(work) {
  try {
    await work();
  } catch (error) {
    tell("", error.message);
  }
}

// The models

async function refresh() {
  const found = await call("/models");
  const same = JSON.stringify(found) === JSON.stringify(models);
  if (same) return;
  const chosen = at("model").value || new URLSearchParams(location.search).get("model");
  models = found;
  at("model").replaceChildren(
    ...models.map((one) => {
      const state = one.state === "ready" ? "" : `, ${one.state}`;
      return make("option", { value: one.name, textContent: `${one.name} (${one.task}${state})` });
    }),
  );
  const there = models.find((one) => one.name === chosen) || models[0];
  if (!there) throw new Error("There is no model yet. To make one, type: python export_model.py");
  at("model").value = there.name;
  if (about.name !== there.name) await choose();
}

async function choose() {
  about = await call(`/models/${at("model").value}`);
  history.replaceState(null, "", `?model=${about.name}`);
  const generates = about.task === "generation";
  document.querySelector(".for-pictures").hidden = generates;
  document.querySelector(".for-generators").hidden = !generates;
  at("class").replaceChildren(
    ...about.classes.map((name) => make("option", { value: name, textContent: name })),
  );
  const measured = Object.entries(about.metrics || {}).filter(([key]) => !key.includes("loss"));
  const facts = {
    Task: about.task,
    "Trained on": about.trained_on,
    Classes: `${about.classes.length}: ${about.classes.slice(0, 12).join(", ")}${about.classes.length > 12 ? ", …" : ""}`,
    "Sees pictures as": `${[about.image_size].flat().concat(about.image_size).slice(0, 2).join(" × ")} pixels, ${about.fit}`,
    Measured: measured.slice(0, 4).map(([key, value]) => `${key} ${value.toFixed(3)}`).join(", "),
    Version: about.versions.join(", "),
    Commit: about.git_commit,
  };
  at("facts").replaceChildren(
    ...Object.entries(facts)
      .filter(([, value]) => value)
      .flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]),
  );
  at("answer").hidden = at("how").hidden = true;
  moved = false;
  if (about.thresholds) at("confidence").value = Math.min(...Object.values(about.thresholds));
  tell(about.state === "ready" ? "" : `${about.name} is ${about.state}. ${about.reason}`);
  answer = null;
  if (picture && !generates) await ask(picture.file);
}

// Asking

async function timed(path, options) {
  const number = ++newest;
  tell("Asking …");
  const start = performance.now();
  const found = await call(path, options);
  const milliseconds = performance.now() - start;
  if (number !== newest) return null;
  tell(`Answered in ${milliseconds.toFixed(0)} ms`);
  return found;
}

async function ask(file) {
  const image = await createImageBitmap(file).catch(() => null); // HEIC: only the server reads it
  picture = { file, image };
  const query = about.task === "detection" ? `?confidence=${LEAST}` : "";
  const headers = { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" };
  const found = await timed(`/models/${about.name}/predict${query}`, { method: "POST", body: file, headers });
  if (!found) return;
  answer = found;
  if (answer.mask_png) {
    const bytes = Uint8Array.from(atob(answer.mask_png), (letter) => letter.charCodeAt(0));
    answer.mask = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  }
  show();
}

async function generate() {
  const wanted = { class: at("class").value, seed: Number(at("seed").value), count: Number(at("count").value) };
  answer = await timed(`/models/${about.name}/predict`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(wanted),
  });
  if (answer) show();
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl() {
  const where = `${location.origin}/models/${about.name}/predict`;
  if (about.task === "generation") {
    const wanted = { class: answer.class, seed: answer.seed, count: answer.pictures_png.length };
    return `curl --json ${quoted(JSON.stringify(wanted))} ${where}`;
  }
  const query = about.task === "detection" && moved ? `?confidence=${at("confidence").value}` : "";
  return `curl --data-binary @${quoted(picture.file.name || "picture.png")} ${quoted(where + query)}`;
}

// Showing

function row(name, share, value, colour) {
  const label = make("span", { className: "name" }, name);
  if (colour) {
    const patch = make("i");
    patch.style.background = colour;
    label.prepend(patch);
  }
  const filled = make("b");
  filled.style.width = `${100 * share}%`;
  if (colour) filled.style.background = colour;
  const bar = make("span", { className: "bar" }, filled);
  bar.setAttribute("aria-hidden", "true");
  return make("li", {}, label, make("span", { className: "value", textContent: value }), bar);
}

const shows = {
  classification() {
    const classes = Object.entries(answer.probabilities);
    const most = at("all").dataset.all ? classes.length : LIKELIEST;
    const set = answer.label_set || [answer.label];
    const few = set.length > 1 && set.length <= LIKELIEST;
    const sure = few ? ` (coverage ${percent(about.coverage)}: ${set.join(" or ")})` : "";
    at("headline").textContent = answer.foreign ? `none of these (nearest: ${answer.label})` : answer.label + sure;
    at("rows").replaceChildren(...classes.slice(0, most).map(([name, share]) => row(name, share, percent(share))));
    at("all").hidden = classes.length <= most;
    draw(() => {});
    return `Your picture: ${at("headline").textContent}`;
  },
  tagging() {
    const classes = Object.entries(answer.probabilities);
    const most = at("all").dataset.all ? classes.length : Math.max(LIKELIEST, answer.labels.length);
    const foreign = answer.foreign ? " (unlike the training pictures)" : "";
    at("headline").textContent = (answer.labels.join(", ") || "no label") + foreign;
    at("rows").replaceChildren(
      // A label below its threshold is grey.
      ...classes.slice(0, most).map(([name, share]) => {
        const colour = answer.labels.includes(name) ? COLOURS[0] : "var(--quiet)";
        return row(name, share, `${percent(share)}, needs ${percent(about.thresholds[name])}`, colour);
      }),
    );
    at("all").hidden = classes.length <= most;
    draw(() => {});
    return `Your picture: ${at("headline").textContent}`;
  },
  detection() {
    const least = Number(at("confidence").value);
    const boxes = answer.boxes.filter((one) => one.score >= (moved ? least : about.thresholds[one.label]));
    const [surest] = answer.boxes;
    const colour = (label) => COLOURS[about.classes.indexOf(label) % COLOURS.length];
    at("headline").textContent =
      boxes.length || !surest ? `${boxes.length} found` : `0 found; the highest score is ${percent(surest.score)}, ${surest.label}`;
    at("confidence-value").textContent = moved ? percent(least) : "the model's own";
    at("rows").replaceChildren(
      ...boxes.slice(0, 50).map((one) => row(one.label, one.score, percent(one.score), colour(one.label))),
    );
    draw((pen, scale) => {
      pen.lineWidth = 3;
      pen.font = "600 14px system-ui, sans-serif";
      const taken = []; // places of captions: one upon another could not be read
      for (const one of boxes) {
        const [left, top, right, bottom] = one.box.map((side) => side * scale);
        pen.strokeStyle = pen.fillStyle = colour(one.label);
        pen.strokeRect(left, top, right - left, bottom - top);
        const text = about.classes.length > 1 ? `${one.label} ${percent(one.score)}` : percent(one.score);
        const width = pen.measureText(text).width + 8;
        const [x, y] = [left - 1.5, Math.max(0, top - 20)];
        if (taken.some(([a, b, wide]) => x < a + wide && a < x + width && Math.abs(y - b) < 20)) continue;
        taken.push([x, y, width]);
        pen.fillRect(x, y, width, 20);
        pen.fillStyle = colour(one.label) === "#0072b2" ? "#fff" : "#000";
        pen.fillText(text, x + 4, y + 15);
      }
    });
    return `Your picture with ${boxes.length} boxes`;
  },
  segmentation() {
    const classes = answer.classes.map((one, index) => ({ ...one, index }));
    const seen = classes.filter((one) => one.share > 0).sort((one, other) => other.share - one.share);
    const opacity = Number(at("opacity").value);
    const rest = seen.length > 4 ? ` and ${seen.length - 4} more` : "";
    at("headline").textContent = seen.slice(0, 4).map((one) => one.label).join(", ") + rest;
    at("opacity-value").textContent = percent(opacity);
    at("rows").replaceChildren(
      // The first class stays clear in the picture, and so has no colour here.
      ...seen.map((one) => row(one.label, one.share, percent(one.share), one.index ? one.colour : "var(--quiet)")),
    );
    draw((pen, scale, width, height) => {
      const layer = new OffscreenCanvas(width, height).getContext("2d");
      layer.imageSmoothingEnabled = false;
      layer.drawImage(answer.mask, 0, 0, width, height);
      const pixels = layer.getImageData(0, 0, width, height);
      for (let at = 0; at < pixels.data.length; at += 4) {
        const black = !(pixels.data[at] || pixels.data[at + 1] || pixels.data[at + 2]);
        pixels.data[at + 3] = black ? 0 : 255 * opacity; // the first class stays clear
      }
      layer.putImageData(pixels, 0, 0);
      pen.drawImage(layer.canvas, 0, 0);
    });
    return `Your picture under its mask: ${seen.map((one) => `${one.label} ${percent(one.share)}`).join(", ")}`;
  },
  generation() {
    at("headline").textContent = answer.class;
    at("rows").replaceChildren();
    at("made").replaceChildren(
      ...answer.pictures_png.map((one, index) =>
        make("img", { src: `data:image/png;base64,${one}`, alt: `${answer.class}, seed ${answer.seed}, picture ${index + 1}` }),
      ),
    );
  },
};

function show() {
  const task = about.task;
  at("answer").hidden = at("how").hidden = false;
  at("canvas").hidden = task === "generation";
  at("answer").classList.toggle("gallery", task === "generation");
  at("confidence-row").hidden = task !== "detection";
  at("opacity-row").hidden = task !== "segmentation";
  at("all").hidden = true;
  at("made").replaceChildren();
  at("canvas").setAttribute("aria-label", shows[task]() || "");
  at("curl").textContent = curl();
}

function draw(paint) {
  const { image } = picture;
  const [wide, high] = image ? [image.width, image.height] : [answer.width || 640, answer.height || 80];
  const scale = Math.min(1, LONGEST / Math.max(wide, high)) * Math.max(1, Math.min(4, 640 / Math.max(wide, high)));
  const canvas = at("canvas");
  [canvas.width, canvas.height] = [Math.round(wide * scale), Math.round(high * scale)];
  const pen = canvas.getContext("2d");
  if (image) pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  else pen.strokeText("This browser cannot show the picture; the server could read it.", 8, 40);
  paint(pen, scale, canvas.width, canvas.height);
}

// Giving pictures

let stream = null;

async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    throw new Error(`There is no camera to be had: ${error.message}`);
  }
  at("video").srcObject = stream;
  at("camera").hidden = false;
  at("shoot").focus();
}

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  at("camera").hidden = true;
}

async function shoot() {
  const video = at("video");
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  await ask(new File([await canvas.convertToBlob({ type: "image/png" })], "photo.png", { type: "image/png" }));
}

function take(files) {
  const file = [...files].find((one) => one.type.startsWith("image/") || /\.(heic|heif|avif|tiff?)$/i.test(one.name));
  if (!file) return tell("", "That is not a picture.");
  if (about.task === "generation") return tell("", `${about.name} takes no pictures; it makes them.`);
  attempt(() => ask(file));
}

at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => { take(at("file").files); at("file").value = ""; });
at("photograph").addEventListener("click", () => attempt(openCamera));
at("shoot").addEventListener("click", () => attempt(shoot));
at("stop").addEventListener("click", closeCamera);
at("model").addEventListener("change", () => attempt(choose));
at("generate").addEventListener("submit", (event) => { event.preventDefault(); attempt(generate); });
at("confidence").addEventListener("input", () => { moved = true; });
for (const id of ["confidence", "opacity"]) at(id).addEventListener("input", () => answer && show());
at("all").addEventListener("click", () => { at("all").dataset.all = "yes"; show(); });
at("copy").addEventListener("click", () => attempt(async () => {
  await navigator.clipboard.writeText(at("curl").textContent);
  tell("Copied");
}));
document.addEventListener("paste", (event) => event.clipboardData.files.length && take(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
setInterval(() => document.hidden || attempt(refresh), REFRESH);
attempt(refresh);
