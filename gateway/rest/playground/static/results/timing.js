// Where the time of a request went.

import { bar, count, el } from "../dom.js";

// In the order in which a request passes them.
const MEANINGS = {
  fetch: "images from their addresses",
  decode: "image bytes to pixels",
  tokenize: "words to tokens",
  queue: "until Triton is free to be called",
  infer: "in Triton, with the way there",
  encode: "scores, and the answer's JSON",
};

const ORDER = Object.keys(MEANINGS);

// Stages in that order; the others after them, as they came.
function sorted(stages) {
  const place = ([name]) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
  return [...stages].sort((one, other) => place(one) - place(other));
}

export function timing({ stages, roundTrip, requestId, content }) {
  const longest = Math.max(roundTrip, ...stages.map(([, ms]) => ms));
  const row = (name, meaning, ms) => el("tr", {},
    el("th", { scope: "row" }, name, el("span", { className: "hint" }, meaning)),
    el("td", {}, el("span", { className: "number" }, `${ms.toFixed(1)} ms`), bar(ms / longest)));
  const rows = sorted(stages).map(([name, ms]) => row(name, MEANINGS[name] ?? "", ms));
  const { usage } = content;
  const counted = `${count(usage.num_images, "image")}, ${count(usage.total_tokens, "token")}`;
  return el("div", {},
    el("table", { className: "times" },
      el("caption", { className: "unseen" }, "Milliseconds by stage"),
      el("thead", { className: "unseen" }, el("tr", {},
        el("th", { scope: "col" }, "Stage"), el("th", { scope: "col" }, "Time"))),
      el("tbody", {}, ...rows, row("round trip", "as this page saw it", roundTrip))),
    el("p", { className: "hint ids" }, counted, el("br"), "request ", el("code", {}, requestId)));
}
