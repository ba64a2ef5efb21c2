// The answer of a comparison: all texts with all images as a matrix, or the images ranked by a text.

import { bar, el } from "../dom.js";

export function compared(content, texts, entries) {
  const scale = scaleOf(content.cosine.flat());
  const views = {
    matrix: el("div", {}, matrix(content.cosine, texts, entries, scale)),
    ranking: el("div", { hidden: true }, ranking(content.cosine, texts, entries, scale)),
  };
  const choose = ({ target }) => {
    for (const [name, view] of Object.entries(views)) view.hidden = name !== target.value;
  };
  const choice = (value, text, checked) => el("label", {},
    el("input", { type: "radio", name: "view", value, checked, onchange: choose }), el("span", {}, text));
  return el("section", { "aria-labelledby": "answer-title" },
    el("h2", { id: "answer-title", className: "answer-title" }, "How well they fit"),
    el("p", { className: "hint" }, "Cosines; bars run from the lowest to the highest one here."),
    el("fieldset", { className: "modes" }, el("legend", { className: "unseen" }, "Show as"),
      choice("matrix", "Matrix", true), choice("ranking", "Images by text", false)),
    views.matrix, views.ranking);
}

export function comparedInWords(content, texts, entries) {
  return texts.map((text, row) => (
    `${text}: ${entries[order(content.cosine, row)[0]].name}`)).join(". ");
}

function scaleOf(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return (value) => (high > low ? 0.04 + 0.96 * (value - low) / (high - low) : 1);
}

// Indices of the images, the best for this text first.
function order(cosine, text) {
  return cosine.map((_, image) => image).sort((a, b) => cosine[b][text] - cosine[a][text]);
}

function matrix(cosine, texts, entries, scale) {
  const head = el("tr", {}, el("th", { scope: "col" }, "Text"), ...entries.map(({ name, url }) => (
    el("th", { scope: "col" }, el("img", { src: url, alt: "", width: 64, height: 64 }), el("span", {}, name)))));
  const rows = texts.map((text, row) => {
    const [best] = order(cosine, row);
    return el("tr", {}, el("th", { scope: "row" }, text), ...entries.map((_, image) => (
      el("td", image === best ? { className: "best" } : {},
        el("span", { className: "number" }, cosine[image][row].toFixed(3)),
        image === best ? el("span", { className: "unseen" }, "best for this text") : null,
        bar(scale(cosine[image][row]))))));
  });
  return el("div", { className: "card scroll", tabIndex: 0, role: "region", "aria-label": "Matrix of cosines" },
    el("table", { className: "matrix" },
      el("caption", { className: "unseen" }, "Cosine of each text with each image"),
      el("thead", {}, head), el("tbody", {}, ...rows)));
}

function ranking(cosine, texts, entries, scale) {
  return el("div", { className: "cards" }, ...texts.map((text, row) => (
    el("article", { className: "card" }, el("h3", {}, text),
      el("ol", { className: "found" }, ...order(cosine, row).map((image) => (
        el("li", {}, el("img", { src: entries[image].url, alt: "", width: 56, height: 56 }),
          el("span", { className: "name" }, entries[image].name),
          el("span", { className: "number" }, cosine[image][row].toFixed(3)),
          bar(scale(cosine[image][row]))))))))));
}
