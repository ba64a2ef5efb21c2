// The answer of a classification: a table of ranked labels for each image.

import { bar, el, percent } from "../dom.js";

export function classified(content, entries, scoring) {
  const note = scoring === "sigmoid"
    ? "Each label has a probability of its own; they need not sum to one."
    : "Probabilities are shared out among all the labels that were asked for.";
  return el("section", { "aria-labelledby": "answer-title" },
    el("h2", { id: "answer-title", className: "answer-title" }, "What the images show"),
    el("p", { className: "hint" }, note),
    el("div", { className: "cards" },
      ...content.results.map(({ index, predictions }) => card(entries[index], predictions))));
}

export function classifiedInWords(content, entries) {
  return content.results.map(({ index, predictions: [best] }) => (
    `${entries[index].name}: ${best.label}, ${percent(best.score)}`)).join(". ");
}

function card({ name, url }, predictions) {
  const rows = predictions.map(({ label, score, cosine }, rank) => (
    el("tr", rank === 0 ? { className: "best" } : {},
      el("th", { scope: "row" }, label, bar(score)),
      el("td", { className: "number" }, percent(score)),
      el("td", { className: "number" }, cosine.toFixed(3)))));
  const head = el("tr", {},
    ...["Label", "Probability", "Cosine"].map((text) => el("th", { scope: "col" }, text)));
  return el("article", { className: "card ranked" },
    el("img", { src: url, alt: "", width: 112, height: 112 }),
    el("h3", {}, name),
    el("table", {},
      el("caption", { className: "unseen" }, `Labels of ${name}, the likeliest first`),
      el("thead", {}, head), el("tbody", {}, ...rows)));
}
