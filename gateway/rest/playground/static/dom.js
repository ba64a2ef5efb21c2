// Finds and makes elements. Texts go in as text, never as HTML.

export const byId = (id) => document.getElementById(id);

export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// A bar that is `share` (0 to 1) full; the number stands beside it, so it is hidden from readers.
export function bar(share) {
  const fill = el("span", { className: "fill" });
  fill.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return el("span", { className: "bar", "aria-hidden": "true" }, fill);
}

export function lines(text) {
  const found = text.split("\n").map((line) => line.trim());
  return [...new Set(found.filter((line) => line !== ""))];
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

export function bytes(size) {
  if (size < 1000) return `${size}\u00a0B`;
  if (size < 2 ** 20) return `${(size / 1024).toFixed(0)}\u00a0KiB`;
  return `${(size / 2 ** 20).toFixed(1)}\u00a0MiB`;
}

export function percent(share) {
  if (share > 0 && share < 0.0001) return "<\u00a00.01\u00a0%";
  return `${(share * 100).toFixed(2)}\u00a0%`;
}

export function calm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
