// Shows code with a button that copies it.

import { el } from "../dom.js";
import { curl, python } from "./snippets.js";

export function code(request, made) {
  const hint = made
    ? el("p", { className: "hint" }, "Images that were drawn or pasted here must be saved first: “Save” below each does it.")
    : null;
  return el("div", {}, block("curl", curl(request)), block("Python", python(request)), hint);
}

function block(title, text) {
  const shown = el("pre", { tabIndex: 0, role: "region", "aria-label": `${title} code` }, el("code", {}, text));
  const button = el("button", { type: "button", className: "quiet copy" }, `Copy ${title}`);
  const said = el("span", { className: "hint", role: "status" });
  button.addEventListener("click", async () => {
    said.textContent = (await copied(text, shown)) ? "Copied" : "Selected: copy it with Ctrl C";
  });
  return el("div", { className: "snippet" }, el("p", { className: "snippet-top" }, el("strong", {}, title), said, button), shown);
}

// Without a secure context there is no clipboard to write to; then the text is selected.
async function copied(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(shown);
    return false;
  }
}
