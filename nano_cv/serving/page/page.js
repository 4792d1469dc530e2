// The page of the front door. It only calls the REST API that /docs lists; there is no other way in.
// Colours of Okabe and Ito (2008), in the order in which all drawings of this project use them.
const COLOURS = ["#56b4e9", "#e69f00", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
const LIKELIEST = 5; // classes that are listed first
const MOST_BOXES = 50; // boxes that are listed first
const LEAST = 0.01; // score of the boxes that are fetched, so that the slider has something to show
const LONGEST = 1280; // pixels of the picture as it is drawn
const REFRESH = 5000; // milliseconds between two looks at the list of models
const NO_ANSWER = "The server does not answer. Is python serve.py still running?";

let chosen = new URLSearchParams(location.search).get("model"); // name of a model
let about = null; // what the server says of the model that was asked for last
let given = null; // the picture that was given last: {file, saved}
let shown = null; // the answer on the page, with its model and picture: {about, answer, image, mask, name, saved}
let moved = false; // the slider, away from the thresholds of the model's own
let expanded = false; // the list, to all classes or boxes
let action = null; // the AbortController of what is being done; null if nothing is

const at = (id) => document.getElementById(id);

function percent(share) {
  if (share > 0.999 && share < 1) return "> 99.9 %";
  return `${(100 * share).toFixed(share < 0.1 || (share > 0.99 && share < 1) ? 1 : 0)} %`;
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function call(path, options = {}) {
  const response = await fetch(path, options).catch(() => null);
  const content = await response?.json().catch(() => null);
  options.signal?.throwIfAborted();
  if (!response) throw new Error(NO_ANSWER);
  if (!response.ok || !content) throw new Error(content?.detail || `The answer has status ${response.status} and is not JSON.`);
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

// Do what a person asks for. What was asked for before is given up, so that no late answer of it
// replaces a newer one; and if this fails, an older answer must not look as if it were this one's.
async function act(work) {
  action?.abort();
  const own = (action = new AbortController());
  try {
    await work(own.signal);
  } catch (error) {
    if (own.signal.aborted) return;
    hide();
    tell("", error.message);
  }
  if (action === own) action = null;
}

function hide() {
  shown = null;
  at("answer").hidden = at("how").hidden = true;
}

// The models

async function refresh() {
  try {
    const models = await call("/models");
    if (at("problem").textContent === NO_ANSWER) tell("");
    warn(list(models));
    if (!models.some((one) => one.name === chosen)) return;
    const fresh = await call(`/models/${encodeURIComponent(chosen)}`);
    if (action || fresh.name !== chosen || lasting(fresh) === lasting(about)) return;
    act(shown?.about.task === "generation" ? learn : choose); // pictures that were made stay
  } catch (error) {
    warn(error.message);
  }
}

// A screen reader reads an alert each time it is written, so only a new one is.
function warn(text) {
  if (text === at("problem").textContent) text = ""; // it stands there already
  if (at("trouble").textContent !== text) at("trouble").textContent = text;
}

// List the models to choose from; returns what is wrong with them, or nothing.
function list(models) {
  chosen ||= models[0]?.name;
  const texts = models.map((one) => [one.name, `${one.name} (${one.task}${one.state === "ready" ? "" : `, ${one.state}`})`]);
  const own = models.find((one) => one.name === chosen);
  if (chosen && !own) texts.push([chosen, `${chosen} (not served)`]);
  if (at("model").dataset.texts !== `${texts}`) {
    at("model").replaceChildren(...texts.map(([value, text]) => make("option", { value }, text)));
    at("model").dataset.texts = `${texts}`;
    at("model").value = chosen;
  }
  if (!models.length) return "No model is served yet. To make one, type: python export_model.py";
  if (!own) return `${chosen} is not served. Choose another model.`;
  return own.state === "ready" ? "" : `${chosen} is ${own.state}. ${own.reason}`;
}

function lasting(description) {
  return JSON.stringify({ ...description, state: "", reason: "" });
}

async function choose(signal) {
  hide();
  tell("");
  about = null; // if the server does not describe the model, no other model's facts may stand here
  at("facts").replaceChildren();
  await learn(signal);
  if (given && about.task !== "generation") await ask(signal);
}

// Ask what the chosen model is, before each question, for it may have been replaced.
async function learn(signal) {
  if (!chosen) throw new Error("There is no model yet.");
  const fresh = await call(`/models/${encodeURIComponent(chosen)}`, { signal });
  if (lasting(fresh) === lasting(about)) return;
  about = fresh;
  moved = expanded = false;
  history.replaceState(null, "", `?model=${encodeURIComponent(chosen)}`);
  const generates = about.task === "generation";
  if (generates) closeCamera();
  at("drop").hidden = generates;
  at("generate").hidden = !generates;
  at("class").replaceChildren(...about.classes.map((value) => make("option", { value }, value)));
  const measured = Object.entries(about.metrics || {}).filter(([key, value]) => value !== null && !key.includes("loss"));
  const [height, width = height] = [about.image_size].flat();
  const size = `${height} × ${width} pixels${height === width ? "" : " (height × width)"}`;
  const facts = {
    Task: about.task,
    "Trained on": about.trained_on,
    Classes: `${about.classes.length}: ${about.classes.slice(0, 12).join(", ")}${about.classes.length > 12 ? ", …" : ""}`,
    [generates ? "Makes pictures of" : "Sees pictures as"]: generates ? size : `${size}, ${about.fit}`,
    Measured: measured.slice(0, 4).map(([key, value]) => `${key} ${value.toFixed(3)}`).join(", "),
    Version: about.versions.join(", "),
    Commit: about.git_commit,
  };
  const known = Object.entries(facts).filter(([, text]) => text);
  at("facts").replaceChildren(...known.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
}

// Asking

async function predict(query, options) {
  const start = performance.now();
  const answer = await call(`/models/${encodeURIComponent(about.name)}/predict${query}`, { method: "POST", ...options });
  tell(`Answered in ${(performance.now() - start).toFixed(0)} ms`);
  return answer;
}

async function ask(signal) {
  const { file, saved } = given;
  tell("Asking …");
  await learn(signal);
  if (about.task === "generation") throw new Error(`${about.name} takes no pictures; it makes them.`);
  const start = await file.slice(0, 1).arrayBuffer().catch(() => null);
  if (!start) throw new Error(`${file.name} cannot be read. It is a folder, or it has changed.`);
  const query = about.task === "detection" ? `?confidence=${LEAST}` : "";
  const headers = { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" };
  const answer = await predict(query, { body: file, headers, signal });
  const image = await createImageBitmap(file).catch(() => null); // HEIC: only the server reads it
  const mask = answer.mask_png && make("img", { src: `data:image/png;base64,${answer.mask_png}` });
  await mask?.decode();
  signal.throwIfAborted();
  shown = { about, answer, image, mask, name: file.name, saved };
  show();
}

async function generate(signal) {
  const wanted = { class: at("class").value, seed: Number(at("seed").value), count: Number(at("count").value) };
  tell("Asking …");
  await learn(signal);
  const headers = { "Content-Type": "application/json" };
  const answer = await predict("", { headers, body: JSON.stringify(wanted), signal });
  shown = { about, answer };
  show();
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl() {
  const { about, answer, name } = shown;
  const where = `${location.origin}/models/${encodeURIComponent(about.name)}/predict`;
  if (about.task === "generation") {
    const wanted = { class: answer.class, seed: answer.seed, count: answer.pictures_png.length };
    return `curl -d ${quoted(JSON.stringify(wanted))} ${quoted(where)}`;
  }
  const query = about.task === "detection" && moved ? `?confidence=${at("confidence").value}` : "";
  return `curl --data-binary @${quoted(name)} ${quoted(where + query)}`;
}

// Showing

function row(name, share, value, colour = "") {
  const patch = colour ? [make("i")] : [];
  const filled = make("b");
  for (const part of [...patch, filled]) part.style.background = colour;
  filled.style.width = `${100 * share}%`;
  return make(
    "li",
    {},
    make("span", { className: "name" }, ...patch, name),
    make("span", { className: "value", textContent: value }),
    make("span", { className: "bar", ariaHidden: "true" }, filled),
  );
}

function listRows(rows, most, kind) {
  at("rows").replaceChildren(...(expanded ? rows : rows.slice(0, most)));
  at("all").hidden = rows.length <= most;
  at("all").textContent = expanded ? "Show fewer" : `Show all ${rows.length} ${kind}`;
}

// Entries of an object whose values are numbers, the largest first. JavaScript itself would put
// names such as "7" before all others.
function largestFirst(numbers) {
  return Object.entries(numbers).sort(([, one], [, other]) => other - one);
}

const shows = {
  classification({ about, answer }) {
    const set = answer.label_set || [answer.label];
    const first = set.slice(0, LIKELIEST).join(" or ");
    const more = set.length > LIKELIEST ? ` or ${set.length - LIKELIEST} more` : "";
    const sure = set.length > 1 ? ` (coverage ${percent(about.coverage)}: ${first}${more})` : "";
    at("headline").textContent = answer.foreign ? `none of these (nearest: ${answer.label})` : answer.label + sure;
    const rows = largestFirst(answer.probabilities).map(([name, share]) => row(name, share, percent(share)));
    listRows(rows, LIKELIEST, "classes");
    draw();
  },
  tagging({ about, answer }) {
    const labels = new Set(answer.labels);
    const foreign = answer.foreign ? " (unlike the training pictures)" : "";
    at("headline").textContent = (answer.labels.join(", ") || "no label") + foreign;
    const rows = largestFirst(answer.probabilities)
      .sort(([one], [other]) => labels.has(other) - labels.has(one)) // labels of the answer first
      .map(([name, share]) => {
        // A label below its threshold is grey.
        const colour = labels.has(name) ? COLOURS[0] : "var(--quiet)";
        return row(name, share, `${percent(share)}, needs ${percent(about.thresholds[name])}`, colour);
      });
    listRows(rows, Math.max(LIKELIEST, labels.size), "labels");
    draw();
  },
  detection({ about, answer }) {
    if (!moved) at("confidence").value = Math.min(...Object.values(about.thresholds));
    const least = Number(at("confidence").value);
    const boxes = answer.boxes.filter((one) => one.score >= (moved ? least : about.thresholds[one.label]));
    const surest = answer.boxes[0] || answer.highest;
    const colour = (label) => COLOURS[about.classes.indexOf(label) % COLOURS.length];
    at("headline").textContent =
      boxes.length ? `${boxes.length} found` : `0 found; the highest score is ${percent(surest.score)}, ${surest.label}`;
    at("confidence-value").textContent = moved ? percent(least) : "the model's own";
    at("confidence").setAttribute("aria-valuetext", at("confidence-value").textContent);
    const rows = boxes.map((one) => row(one.label, one.score, percent(one.score), colour(one.label)));
    listRows(rows, MOST_BOXES, "boxes");
    draw((pen, scale, shownPixel) => {
      const high = 20 * shownPixel; // of a caption
      pen.lineWidth = 3 * shownPixel;
      pen.font = `600 ${14 * shownPixel}px system-ui, sans-serif`;
      for (const one of boxes) {
        const [left, top, right, bottom] = one.box.map((side) => side * scale);
        pen.strokeStyle = colour(one.label);
        pen.strokeRect(left, top, right - left, bottom - top);
      }
      const taken = []; // places of captions: one upon another could not be read
      for (const one of boxes) {
        const text = about.classes.length > 1 ? `${one.label} ${percent(one.score)}` : percent(one.score);
        const width = pen.measureText(text).width + 0.4 * high;
        const [x, y] = [one.box[0] * scale - pen.lineWidth / 2, Math.max(0, one.box[1] * scale - high)];
        if (taken.some(([a, b, wide]) => x < a + wide && a < x + width && Math.abs(y - b) < high)) continue;
        taken.push([x, y, width]);
        pen.fillStyle = colour(one.label);
        pen.fillRect(x, y, width, high);
        pen.fillStyle = colour(one.label) === "#0072b2" ? "#fff" : "#000";
        pen.fillText(text, x + 0.2 * high, y + 0.75 * high);
      }
    });
  },
  segmentation({ answer, mask }) {
    const classes = answer.classes.map((one, index) => ({ ...one, index }));
    const seen = classes.filter((one) => one.share > 0).sort((one, other) => other.share - one.share);
    const opacity = Number(at("opacity").value);
    const rest = seen.length > 4 ? ` and ${seen.length - 4} more` : "";
    at("headline").textContent = seen.slice(0, 4).map((one) => one.label).join(", ") + rest;
    at("opacity-value").textContent = percent(opacity);
    at("opacity").setAttribute("aria-valuetext", percent(opacity));
    // The first class stays clear in the picture, and so has no colour here.
    const rows = seen.map((one) => row(one.label, one.share, percent(one.share), one.index ? one.colour : "var(--quiet)"));
    listRows(rows, rows.length);
    draw((pen) => {
      const { width, height } = pen.canvas;
      const layer = new OffscreenCanvas(width, height).getContext("2d");
      layer.imageSmoothingEnabled = false;
      layer.drawImage(mask, 0, 0, width, height);
      const pixels = layer.getImageData(0, 0, width, height);
      for (let red = 0; red < pixels.data.length; red += 4) {
        const black = !(pixels.data[red] || pixels.data[red + 1] || pixels.data[red + 2]);
        pixels.data[red + 3] = black ? 0 : 255 * opacity; // the first class stays clear
      }
      layer.putImageData(pixels, 0, 0);
      pen.drawImage(layer.canvas, 0, 0);
    });
  },
  generation({ answer }) {
    at("headline").textContent = `${answer.class}, seed ${answer.seed}`;
    listRows([], 0);
    at("made").replaceChildren(
      ...answer.pictures_png.map((one, index) =>
        make("img", { src: `data:image/png;base64,${one}`, alt: `${answer.class}, seed ${answer.seed}, picture ${index + 1}` }),
      ),
    );
  },
};

function show() {
  if (!shown) return; // a slider can be dragged on while its answer is taken away
  const { task } = shown.about;
  at("answer").hidden = at("how").hidden = false;
  at("canvas").hidden = task === "generation";
  at("answer").classList.toggle("gallery", task === "generation");
  at("confidence-row").hidden = task !== "detection";
  at("own").hidden = !moved;
  at("opacity-row").hidden = task !== "segmentation";
  at("notice").textContent = "";
  at("made").replaceChildren();
  shows[task](shown);
  at("canvas").ariaLabel = `Your picture: ${at("headline").textContent}`;
  at("curl").textContent = curl();
  at("first").textContent = shown.saved === false ? `First save the picture as ${shown.name}.` : "";
}

// Draw the picture, and `paint` on it. Where the browser has another picture than the server, an
// empty ground takes its place: boxes and masks would lie wrong.
function draw(paint = () => {}) {
  const { image, answer } = shown;
  const turned = image && answer.width && (image.width !== answer.width || image.height !== answer.height);
  if (!image) at("notice").textContent = "This browser cannot show the picture; the server could read it.";
  if (turned) at("notice").textContent = "This browser and the server turn the picture differently, so it is left out here.";
  const { width, height } = image && !turned ? image : answer;
  const canvas = at("canvas");
  canvas.hidden = !width;
  if (!width) return;
  const longest = Math.max(width, height);
  const scale = Math.min(1, LONGEST / longest) * Math.max(1, Math.min(4, 640 / longest));
  [canvas.width, canvas.height] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const pen = canvas.getContext("2d");
  if (image && !turned) pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  paint(pen, scale, canvas.width / (canvas.clientWidth || canvas.width));
}

// Giving pictures

let stream = null;

async function openCamera() {
  const wanted = { video: { facingMode: "environment" } };
  const opened = await navigator.mediaDevices.getUserMedia(wanted).catch((error) => {
    throw new Error(`The camera cannot be used: ${error.message}`);
  });
  closeCamera(); // opened by an earlier click
  stream = opened;
  if (at("drop").hidden) return closeCamera(); // a generator was chosen meanwhile
  at("video").srcObject = stream;
  at("camera").hidden = false;
  at("shoot").focus();
}

function closeCamera() {
  if (!stream) return;
  stream.getTracks().forEach((track) => track.stop());
  stream = null;
  if (at("camera").contains(document.activeElement)) at("photograph").focus();
  at("camera").hidden = true;
}

async function shoot() {
  const video = at("video");
  if (!video.videoWidth) return tell("The camera is not ready yet; try again.");
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  take([new File([await canvas.convertToBlob({ type: "image/png" })], "photo.png", { type: "image/png" })], false);
}

function take(files, saved = true) {
  if (!files.length) return; // such as text that was dropped
  if (about?.task === "generation") return tell("", `${about.name} takes no pictures; it makes them.`);
  if (files.length > 1) return tell("", "The page takes one picture at a time. /docs tells how to send several.");
  given = { file: files[0], saved };
  act(ask);
}

at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => { take([...at("file").files]); at("file").value = ""; });
at("photograph").addEventListener("click", () => attempt(openCamera));
at("shoot").addEventListener("click", () => attempt(shoot));
at("stop").addEventListener("click", closeCamera);
at("model").addEventListener("change", () => { chosen = at("model").value; warn(""); act(choose); });
at("generate").addEventListener("submit", (event) => { event.preventDefault(); act(generate); });
at("confidence").addEventListener("input", () => { moved = true; show(); });
at("own").addEventListener("click", () => { moved = false; at("confidence").focus(); show(); });
at("opacity").addEventListener("input", show);
at("all").addEventListener("click", () => { expanded = !expanded; show(); });
at("copy").addEventListener("click", () => attempt(async () => {
  await navigator.clipboard.writeText(at("curl").textContent);
  tell("Copied");
}));
document.addEventListener("paste", (event) => take([...event.clipboardData.files], false));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take([...event.dataTransfer.files]);
  });
}
// Browsers offer these two only on this machine, and over https.
at("photograph").hidden = !navigator.mediaDevices;
at("copy").hidden = !navigator.clipboard;
setInterval(() => document.hidden || refresh(), REFRESH);
refresh();
