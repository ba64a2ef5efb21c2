// Puts the parts together: reads the form, asks the service, shows the answer.

import { byId, calm, el } from "./dom.js";
import { Gallery } from "./gallery.js";
import { Health } from "./health.js";
import { Tray, base64 } from "./images.js";
import { Models } from "./models.js";
import { sampleLabels } from "./samples.js";
import { Service } from "./service.js";
import { Task } from "./task.js";
import { classified, classifiedInWords } from "./results/classified.js";
import { code } from "./results/code.js";
import { compared, comparedInWords } from "./results/compared.js";
import { failure, wantsKey } from "./results/failures.js";
import { timing } from "./results/timing.js";

const CUT = "A text was longer than this model reads: its end was left out.";

const service = new Service();
const models = new Models(service);
const tray = new Tray(() => {});
const task = new Task(tray, models);
const health = new Health(service, load);
const gallery = new Gallery();
let running = null; // the AbortController of the request under way
let unloaded = false; // the failure that is shown is that of loading

// What the service offers: when the page opens, with a new key, and when the service came back.
async function load() {
  try {
    const facts = await service.get("playground.json");
    tray.limits = facts;
    task.offer(facts);
    byId("version").textContent = `Version ${facts.version}`;
    await models.load();
    health.lock(false);
    if (unloaded) {
      byId("failure").replaceChildren();
      byId("empty").hidden = byId("answer").hasChildNodes();
    }
    unloaded = false;
  } catch (error) {
    fail(error, load);
    unloaded = true;
    if (wantsKey(error)) lock();
  }
}

// Without a key nothing can be chosen. Who is in another field already stays there.
function lock() {
  health.lock(true);
  for (const select of [byId("model"), byId("template-set")]) {
    if (!select.options.length) select.append(new Option("an API key is needed", ""));
  }
  if (document.activeElement === document.body) byId("key").focus();
}

// Adds drawn images, and words for them where none are written.
function addSamples(files) {
  tray.add(files, true);
  const [labels, texts] = [byId("labels"), byId("texts")];
  if (!labels.value.trim()) labels.value = sampleLabels.join("\n");
  if (!texts.value.trim()) texts.value = sampleLabels.slice(0, 3).map((label) => `a photo of a ${label}`).join("\n");
  task.refresh();
}

// The button that was pressed goes away with the first answer, so the focus must go elsewhere.
async function begin(files) {
  addSamples(files);
  byId("run").focus({ preventScroll: true });
  await run();
}

async function run() {
  if (running) return;
  const asked = task.read();
  if (!asked) return;
  const control = new AbortController();
  running = control;
  const entries = [...tray.entries];
  busy(true);
  try {
    const images = await Promise.all(entries.map(({ file }) => base64(file)));
    const answer = await service.post(asked.path, { ...asked.fields, images }, control.signal);
    show(asked, answer, entries);
  } catch (error) {
    if (error.name === "AbortError") byId("empty").hidden = byId("answer").hasChildNodes();
    else fail(error, run);
  } finally {
    busy(false);
  }
}

function busy(yes) {
  byId("waiting").hidden = !yes;
  byId("cancel").hidden = !yes;
  byId("results").setAttribute("aria-busy", String(yes));
  byId("run").setAttribute("aria-disabled", String(yes));
  if (!yes) {
    running = null;
    return;
  }
  unloaded = false;
  tray.unmark();
  byId("empty").hidden = true;
  byId("failure").replaceChildren();
  byId("said").textContent = "Waiting for the answer";
}

function show(asked, answer, entries) {
  const { content } = answer;
  const { texts } = asked.fields;
  const scoring = models.served.find(({ id }) => id === content.model)?.scoring;
  const [made, words] = texts
    ? [compared(content, texts, entries), comparedInWords(content, texts, entries)]
    : [classified(content, entries, scoring), classifiedInWords(content, entries)];
  byId("answer").replaceChildren(made, ...(content.truncated ? [el("p", { className: "card" }, CUT)] : []));
  byId("timing").replaceChildren(timing(answer));
  const request = {
    url: service.address(asked.path),
    fields: asked.fields,
    names: entries.map(({ name }) => name),
    withKey: service.key !== "",
  };
  byId("code").replaceChildren(code(request, entries.some((entry) => entry.made)));
  byId("behind").hidden = false;
  byId("said").textContent = `Done. ${words}`;
  reveal();
}

function fail(error, retry) {
  byId("answer").replaceChildren();
  byId("behind").hidden = true;
  byId("empty").hidden = true;
  byId("said").textContent = "";
  byId("failure").replaceChildren(failure(error, tray.mark(error.param), retry));
  if (wantsKey(error)) byId("key-details").open = true;
  if (error.status === 0 || error.status === 503) health.watch();
  reveal();
}

// On a phone the results lie below the form.
function reveal() {
  const { top } = byId("results").getBoundingClientRect();
  if (top < innerHeight * 0.6 && top > -innerHeight) return;
  byId("results").scrollIntoView({ behavior: calm() ? "auto" : "smooth", block: "start" });
}

byId("task").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
});
byId("cancel").addEventListener("click", () => {
  running?.abort();
  byId("said").textContent = "Cancelled";
  byId("run").focus();
});
byId("samples").addEventListener("click", async () => addSamples(await gallery.three()));
byId("try").addEventListener("click", async () => begin(await gallery.three()));
byId("key").addEventListener("input", ({ target }) => {
  service.key = target.value.trim();
});
byId("key").addEventListener("change", load);
gallery.show(begin);
task.refresh();
load();
health.watch();
