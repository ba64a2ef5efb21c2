// What the form asks for.

import { byId, count, lines } from "./dom.js";

const SET_NAMES = { plain: "the label as it is" };

export class Task {
  constructor(tray, models) {
    this.tray = tray;
    this.models = models;
    this.templateSets = {};
    for (const id of ["labels", "texts"]) {
      byId(id).addEventListener("input", () => this.refresh());
    }
    for (const control of [byId("template-set"), byId("label-set"), ...modes()]) {
      control.addEventListener("change", () => this.refresh());
    }
  }

  get mode() {
    return modes().find(({ checked }) => checked).value;
  }

  // Offers the sets that the service holds.
  offer({ template_sets: templateSets, label_sets: labelSets }) {
    this.templateSets = templateSets;
    const options = Object.entries(templateSets).map(([name, sentences]) => {
      const about = SET_NAMES[name] ?? (sentences.length > 1 ? `${sentences.length} sentences` : sentences[0]);
      return new Option(`${name}: ${about}`, name, name === "photo", name === "photo");
    });
    byId("template-set").replaceChildren(...options, new Option("own…", ""));
    const sets = Object.entries(labelSets).map(([name, size]) => new Option(`${name}: ${count(size, "label")}`, name));
    byId("label-set").replaceChildren(new Option("my list", ""), ...sets);
    byId("label-set-field").hidden = sets.length === 0;
    this.refresh();
  }

  // Shows the fields that belong to the choices, and how much is in them.
  refresh() {
    const classify = this.mode === "classify";
    byId("classify-fields").hidden = !classify;
    byId("compare-fields").hidden = classify;
    byId("own-labels").hidden = byId("label-set").value !== "";
    const set = byId("template-set").value;
    byId("own-templates").hidden = set !== "";
    const sentences = this.templateSets[set] ?? [];
    byId("template-text").textContent = sentences.length > 1 ? sentences.join(" · ") : "";
    byId("run").textContent = classify ? "Classify" : "Compare";
    for (const [id, one] of [["labels", "label"], ["texts", "text"]]) {
      const written = lines(byId(id).value);
      byId(`${id}-count`).textContent = written.length ? count(written.length, one) : "";
      if (written.length) complain(id, "");
    }
  }

  // The request without its images: { path, fields }; null where something is missing, and said so.
  read() {
    const images = this.#imagesProblem();
    this.tray.complain(images);
    const words = this.mode === "classify" ? this.#classify() : this.#compare();
    if (images) byId("files").focus();
    if (images || !words) return null;
    const model = this.models.chosen ? { model: this.models.chosen.id } : {};
    return { ...words, fields: { ...model, ...words.fields } };
  }

  #imagesProblem() {
    return this.tray.entries.length ? this.tray.overLimit() : "Choose an image first, or draw samples.";
  }

  #classify() {
    const top = Number(byId("top-k").value);
    const shown = Number.isInteger(top) && top > 0 ? { top_k: top } : {};
    const set = byId("label-set").value;
    if (set) return { path: "v1/zero-shot", fields: { label_set: set, ...shown } };
    const labels = demanded("labels", "Write at least one label.");
    const templates = byId("template-set").value || lines(byId("templates").value);
    const used = templates.length ? { templates } : {};
    return labels && { path: "v1/zero-shot", fields: { labels, ...used, ...shown } };
  }

  #compare() {
    const texts = demanded("texts", "Write at least one text.");
    return texts && { path: "v1/similarity", fields: { texts } };
  }
}

const modes = () => [...document.querySelectorAll("input[name=mode]")];

function demanded(id, message) {
  const written = lines(byId(id).value);
  complain(id, written.length ? "" : message);
  if (written.length) return written;
  byId(id).focus();
  return null;
}

function complain(id, message) {
  byId(`${id}-error`).textContent = message;
  byId(id).toggleAttribute("aria-invalid", message !== "");
  if (message) byId(id).setAttribute("aria-invalid", "true");
}
