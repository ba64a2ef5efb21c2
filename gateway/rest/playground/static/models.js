// Which models there are, and what is known of the chosen one.

import { byId, count, el } from "./dom.js";

export class Models {
  constructor(service) {
    this.service = service;
    this.served = [];
    byId("model").addEventListener("change", () => this.#describe());
    byId("card-details").addEventListener("toggle", () => this.#showCard());
  }

  get chosen() {
    return this.served.find(({ id }) => id === byId("model").value);
  }

  async load() {
    const before = byId("model").value;
    this.served = (await this.service.get("v1/models")).data;
    const select = byId("model");
    select.replaceChildren(...this.served.map(({ id }) => el("option", { value: id }, id)));
    select.disabled = false;
    const wanted = this.served.find(({ id }) => id === before) ?? this.served.find((model) => model.default);
    if (wanted) select.value = wanted.id;
    this.#describe();
  }

  #describe() {
    const rows = this.chosen ? facts(this.chosen) : [];
    byId("facts").replaceChildren(...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
    this.#showCard();
  }

  // In the page: a link to it would not send the key.
  async #showCard() {
    const card = this.chosen?.card;
    const details = byId("card-details");
    details.hidden = !card;
    if (!card || !details.open) return;
    const text = await this.service.text(card.slice(1)).catch(({ message }) => message);
    if (this.chosen?.card === card) byId("card").textContent = text;
  }
}

function facts(model) {
  return [
    ["Network", model.open_clip_name],
    ["Weights", model.pretrained ?? "random: good for tests alone"],
    ["Precision", `${model.precision}, ${model.runtime}`],
    ["Vectors", `${model.embedding_size} numbers`],
    ["Image size", `${model.image_size} × ${model.image_size}`],
    ["Text length", count(model.context_length, "token")],
    ["Scores", model.scoring === "sigmoid" ? "sigmoid: each label for itself" : "softmax over the labels"],
    ["Version", String(model.version)],
    ["Fingerprint", el("code", {}, model.fingerprint)],
    ...gate(model.gate),
  ];
}

function gate(measured) {
  const passed = measured.passed ? "passed" : `not passed: ${measured.failures.join("; ")}`;
  const rows = [
    ["Against PyTorch", passed],
    ["Lowest cosine", `${cosine(measured.image_min_cosine)} images, ${cosine(measured.text_min_cosine)} texts`],
  ];
  if (measured.zero_shot_accuracy !== null) {
    const [ours, theirs] = [measured.zero_shot_accuracy, measured.pytorch_zero_shot_accuracy];
    rows.push(["Zero-shot accuracy", `${share(ours)} here, ${share(theirs)} in PyTorch`]);
  }
  return rows;
}

const cosine = (value) => value.toFixed(6);
const share = (value) => `${(value * 100).toFixed(1)} %`;
