// The REST API. Addresses are relative to the page, so that it works below a path of a proxy too.

export class ServiceError extends Error {
  // status 0: there was no answer at all.
  constructor({ status, message, param = null, code = "", requestId = "", retryAfter = 0 }) {
    super(message);
    Object.assign(this, { status, param, code, requestId, retryAfter });
  }
}

export class Service {
  constructor() {
    this.key = "";
  }

  address(path) {
    return new URL(path, document.baseURI).href;
  }

  async get(path) {
    return (await this.#ask(path, {})).json();
  }

  async text(path) {
    return (await this.#ask(path, {})).text();
  }

  // The answer with what its headers tell: { content, stages, roundTrip, requestId, fingerprint }.
  async post(path, body, signal) {
    const encoded = JSON.stringify(body);
    const began = performance.now();
    const response = await this.#ask(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: encoded,
      signal,
    });
    const content = await response.json();
    return {
      content,
      roundTrip: performance.now() - began,
      stages: parseStages(response.headers.get("server-timing") ?? ""),
      requestId: response.headers.get("x-request-id") ?? "",
      fingerprint: response.headers.get("x-model-fingerprint") ?? "",
    };
  }

  async #ask(path, options) {
    const headers = new Headers(options.headers);
    if (this.key) headers.set("authorization", `Bearer ${this.key}`);
    let response;
    try {
      response = await fetch(this.address(path), { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServiceError({ status: 0, message: `No answer from ${this.address("")}` });
    }
    if (response.ok) return response;
    throw await failure(response);
  }
}

// "decode;dur=1.20, infer;dur=8.00" -> [["decode", 1.2], ["infer", 8]], in milliseconds.
export function parseStages(header) {
  return [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]);
}

async function failure(response) {
  const told = {
    status: response.status,
    message: response.statusText || `status ${response.status}`,
    requestId: response.headers.get("x-request-id") ?? "",
    retryAfter: Number(response.headers.get("retry-after")) || 0,
  };
  try {
    const { message, param, code } = (await response.json()).error;
    return new ServiceError({ ...told, message, param, code });
  } catch {
    return new ServiceError(told); // something between us and the service answered
  }
}
