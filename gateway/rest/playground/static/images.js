// The chosen images: taken from the disk, a drop, the clipboard or the samples.

import { byId, bytes, count, el } from "./dom.js";

export class Tray {
  // `onchange` is called with every change.
  constructor(onchange) {
    this.entries = []; // { file, name, url, made }; made: not a file of the user's disk
    this.limits = null; // of the service, once they are known
    this.onchange = onchange;
    this.pasted = 0;
    byId("files").addEventListener("change", ({ target }) => {
      this.add([...target.files]);
      target.value = "";
    });
    byId("clear").addEventListener("click", () => this.clear());
    document.addEventListener("paste", (event) => this.#paste(event));
    this.#takeDrops();
  }

  add(files, made = false) {
    this.complain("");
    const images = files.filter(({ type, name }) => type.startsWith("image/") || !type && name);
    if (images.length < files.length) this.complain("Only images can be taken; the rest was left out.");
    for (const file of images) {
      this.entries.push({ file, name: file.name, url: URL.createObjectURL(file), made });
    }
    const over = this.overLimit();
    if (over) this.complain(over);
    this.#render();
  }

  remove(entry) {
    URL.revokeObjectURL(entry.url);
    const index = this.entries.indexOf(entry);
    this.entries.splice(index, 1);
    this.complain(this.overLimit());
    this.#render();
    const left = byId("tray").querySelectorAll("button.remove");
    (left[Math.min(index, left.length - 1)] ?? byId("files")).focus();
  }

  clear() {
    this.entries.forEach(({ url }) => URL.revokeObjectURL(url));
    this.entries = [];
    this.complain("");
    this.#render();
    byId("files").focus();
  }

  complain(message) {
    byId("images-error").textContent = message;
  }

  // Why the service would not take these images; empty if it would.
  overLimit() {
    if (!this.limits) return "";
    const { max_items: most, max_image_bytes: largest, max_body_bytes: body } = this.limits;
    const big = this.entries.find(({ file }) => file.size > largest);
    if (big) return `${big.name} has ${bytes(big.file.size)}; the service takes ${bytes(largest)} an image.`;
    if (this.entries.length > most) return `The service takes ${count(most, "image")} at a time; remove some.`;
    const together = this.entries.reduce((sum, { file }) => sum + Math.ceil(file.size / 3) * 4, 0);
    if (together > body) return `Together that is ${bytes(together)} as base64; the service takes ${bytes(body)}.`;
    return "";
  }

  // Marks the image that an error's `param` names, such as images[2]; its entry, if there is one.
  mark(param) {
    const index = /^images?(?:\[(\d+)\])?$/.exec(param ?? "")?.[1];
    const entry = index === undefined ? undefined : this.entries[Number(index)];
    if (entry) byId("tray").children[Number(index)].classList.add("bad");
    return entry;
  }

  unmark() {
    byId("tray").querySelectorAll(".bad").forEach((thumb) => thumb.classList.remove("bad"));
  }

  #render() {
    byId("tray").replaceChildren(...this.entries.map((entry) => this.#thumb(entry)));
    const size = this.entries.reduce((sum, { file }) => sum + file.size, 0);
    const { length } = this.entries;
    byId("tray-count").textContent = length ? `${count(length, "image")}, ${bytes(size)}` : "";
    byId("clear").hidden = length < 2;
    this.onchange();
  }

  #thumb(entry) {
    const { file, name, url } = entry;
    const about = el("span", { className: "about" }, bytes(file.size));
    const picture = el("img", { src: url, alt: "", width: 96, height: 96 });
    picture.addEventListener("load", () => {
      about.textContent = `${picture.naturalWidth}\u00a0×\u00a0${picture.naturalHeight}, ${bytes(file.size)}`;
    });
    picture.addEventListener("error", () => picture.replaceWith(
      el("span", { className: "blank", "aria-hidden": "true" }, name.split(".").pop()),
    ));
    const remove = el("button", {
      type: "button", className: "remove", "aria-label": `Remove ${name}`, onclick: () => this.remove(entry),
    }, "×");
    const save = entry.made
      ? el("a", { href: url, download: name, className: "save", "aria-label": `Save ${name}` }, "Save")
      : null;
    return el("li", {}, picture, el("span", { className: "name", title: name }, name), about, save, remove);
  }

  #paste(event) {
    const files = [...event.clipboardData.files].map((file) => {
      this.pasted += 1;
      return new File([file], `pasted-${this.pasted}.${file.type.split("/")[1] ?? "png"}`, { type: file.type });
    });
    if (!files.length) return;
    event.preventDefault();
    this.add(files, true);
  }

  #takeDrops() {
    const veil = byId("veil");
    const withFiles = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!withFiles(event)) return;
      event.preventDefault();
      veil.hidden = false;
    });
    document.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) veil.hidden = true;
    });
    document.addEventListener("drop", (event) => {
      veil.hidden = true;
      if (!withFiles(event)) return;
      event.preventDefault();
      this.add([...event.dataTransfer.files]);
    });
  }
}

// The file's bytes as base64.
export function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error(`${file.name} cannot be read any more; choose it again.`));
    reader.readAsDataURL(file);
  });
}
