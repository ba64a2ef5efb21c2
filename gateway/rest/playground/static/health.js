// Whether the service can answer, at the top of the page.

import { byId } from "./dom.js";

const AGAIN_MS = 4000;

export class Health {
  constructor(service, onready) {
    this.service = service;
    this.onready = onready; // called when the service is ready after it was not
    this.timer = 0;
    this.locked = false;
  }

  // Whether the service wants a key that it has not got.
  lock(yes) {
    this.locked = yes;
    if (["good", "locked"].includes(byId("health").dataset.state)) this.#show(null);
  }

  // Asks until the answer is yes.
  async watch() {
    clearTimeout(this.timer);
    const before = byId("health").dataset.state;
    const problem = await this.#problem();
    this.#show(problem);
    if (problem) this.timer = setTimeout(() => this.watch(), AGAIN_MS);
    else if (before === "bad") this.onready();
  }

  async #problem() {
    try {
      await this.service.get("readyz");
      return null;
    } catch (error) {
      return error;
    }
  }

  #show(problem) {
    const shown = byId("health");
    shown.dataset.state = problem ? "bad" : this.locked ? "locked" : "good";
    if (!problem) shown.textContent = this.locked ? "An API key is needed" : "Ready";
    else shown.textContent = problem.status === 0 ? "Cannot be reached" : "Not ready";
    shown.title = problem?.message ?? "";
  }
}
