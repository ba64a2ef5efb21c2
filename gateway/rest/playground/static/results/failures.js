// What went wrong, in words that help, and what to do about it.

import { byId, el } from "../dom.js";
import { ServiceError } from "../service.js";

export const wantsKey = ({ status }) => status === 401 || status === 403;

export function failure(error, entry, retry) {
  const { title, advice } = explained(error);
  const again = () => {
    byId("run").focus({ preventScroll: true }); // this button goes away
    retry();
  };
  const details = error instanceof ServiceError ? rows(error, entry) : [];
  return el("section", { className: "card failed" },
    el("h2", {}, title),
    el("p", { className: "message" }, error.message),
    advice ? el("p", {}, advice) : null,
    details.length ? el("dl", { className: "facts" }, ...details) : null,
    el("p", { className: "choices" },
      wantsKey(error) ? el("button", { type: "button", className: "primary", onclick: enterKey }, "Enter a key") : null,
      el("button", { type: "button", className: "quiet", onclick: again }, "Try again")));
}

function enterKey() {
  byId("key-details").open = true;
  byId("key").focus();
}

function explained({ status, retryAfter }) {
  const wait = `Try again in ${retryAfter || 1} s.`;
  if (status === 0) return { title: "The service cannot be reached", advice: "Is it running? Nothing that you entered is lost." };
  if (wantsKey({ status })) return { title: "The API key is missing or wrong", advice: "" };
  if (status === 429) return { title: "The service is busy", advice: wait };
  if (status === 503) return { title: "The service is not ready", advice: wait };
  if (status === 504) return { title: "The service ran out of time", advice: "Fewer or smaller images may help." };
  if (status === 413) return { title: "Too much at once", advice: "" };
  if (status >= 500) return { title: "The service failed", advice: "Its log has more under the request id." };
  if (status >= 400) return { title: "The service did not take this", advice: "" };
  return { title: "This page could not do it", advice: "" };
}

function rows({ status, code, param, requestId }, entry) {
  const told = [
    ["Field", param && el("code", {}, param)],
    ["Image", entry?.name],
    ["Status", status && `${status} ${code}`],
    ["Request", requestId && el("code", {}, requestId)],
  ];
  return told.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
}
