// The drawn scenes that the page begins with.

import { byId, el } from "./dom.js";
import { drawSamples, sampleLabels } from "./samples.js";

export class Gallery {
  constructor() {
    this.drawn = drawSamples();
    this.rounds = 0; // how often three were taken
  }

  // Shows them all; `onchosen` is called with the one that is clicked.
  async show(onchosen) {
    const files = await this.drawn;
    byId("gallery").replaceChildren(...files.map((file, index) => (
      el("li", {}, el("button", {
        type: "button", "aria-label": `Classify the ${sampleLabels[index]}`, onclick: () => onchosen([file]),
      }, el("img", { src: URL.createObjectURL(file), alt: "", width: 84, height: 84 }))))));
  }

  // Three of them; the next time the other three.
  async three() {
    const first = (this.rounds % 2) * 3;
    this.rounds += 1;
    return (await this.drawn).slice(first, first + 3);
  }
}
