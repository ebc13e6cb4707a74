// Runs on every page: shows errors visibly and to screen readers, and empties forms that were sent.
import { explained, notify } from "./http.js";

document.addEventListener("htmx:beforeRequest", (event) => {
  // The next action of the user clears the message; requests of the page itself, such as for progress, do not.
  if (event.detail.requestConfig.triggeringEvent?.isTrusted) document.getElementById("notice").replaceChildren();
});

document.addEventListener("htmx:responseError", (event) => {
  const answer = event.detail.xhr;
  notify(explained(answer.status, answer.responseText));
});

document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful && event.target.matches("form[data-reset]")) event.target.reset();
});

document.addEventListener("htmx:sendError", () => notify(explained(0, "")));
