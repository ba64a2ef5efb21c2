// A request as a curl command and as Python, to be pasted where the image files are.

const KEY = "OPENCLIP_API_KEY";

const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const fileArgument = (name) => shellQuoted(name.startsWith("-") ? `./${name}` : name);

// A string, a number or a list of strings; a list that does not fit on the line has a line for each.
function json(value, outer, step) {
  if (!Array.isArray(value)) return JSON.stringify(value);
  const items = value.map((item) => JSON.stringify(item));
  const flat = `[${items.join(", ")}]`;
  if (flat.length <= 64) return flat;
  return `[\n${items.map((item) => `${outer}${step}${item}`).join(",\n")}\n${outer}]`;
}

// The body comes by a here-document: as an argument, a large image would be too long.
export function curl({ url, fields, names, withKey }) {
  const escaped = (text) => text.replace(/[\\$`]/g, "\\$&");
  const entries = Object.entries(fields).map(([name, value]) => `  "${name}": ${escaped(json(value, "  ", "  "))}`);
  const files = names.map((name) => `    "$(base64 -w0 ${fileArgument(name)})"`).join(",\n");
  return [
    `curl -s ${shellQuoted(url)} \\`,
    "  -H 'content-type: application/json' \\",
    ...(withKey ? [`  -H "authorization: Bearer $${KEY}" \\`] : []),
    "  --data-binary @- <<JSON",
    "{",
    `${[...entries, `  "images": [\n${files}\n  ]`].join(",\n")}`,
    "}",
    "JSON",
  ].join("\n");
}

// JSON of strings, numbers and lists is Python as well.
export function python({ url, fields, names, withKey }) {
  const entries = Object.entries(fields).map(([name, value]) => `    "${name}": ${json(value, "    ", "    ")},`);
  const headers = withKey ? [`    headers={"authorization": "Bearer " + os.environ["${KEY}"]},`] : [];
  return [
    "import base64",
    ...(withKey ? ["import os"] : []),
    "from pathlib import Path",
    "",
    "import httpx",
    "",
    `files = ${json(names, "", "    ")}`,
    "body = {",
    ...entries,
    '    "images": [base64.b64encode(Path(file).read_bytes()).decode() for file in files],',
    "}",
    "answer = httpx.post(",
    `    ${JSON.stringify(url)},`,
    ...headers,
    "    json=body,",
    "    timeout=60,",
    ")",
    "answer.raise_for_status()",
    "print(answer.json())",
  ].join("\n");
}
