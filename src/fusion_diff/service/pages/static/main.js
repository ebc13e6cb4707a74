// On every page: what goes wrong is said where everybody can see and hear it.
import { explained, notify } from "./http.js";

document.addEventListener("htmx:beforeRequest", (event) => {
  // What somebody does next replaces what is said; what a page asks by itself, as how far a job is, does not.
  if (event.detail.requestConfig.triggeringEvent?.isTrusted) document.getElementById("notice").replaceChildren();
});

document.addEventListener("htmx:responseError", (event) => {
  const answer = event.detail.xhr;
  notify(explained(answer.status, answer.responseText));
});

document.addEventListener("htmx:sendError", () => notify(explained(0, "")));
