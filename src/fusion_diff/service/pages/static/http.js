// Headers of every request, and the text of problems.

export function tokens() {
  return JSON.parse(document.body.getAttribute("hx-headers"));
}

export function explained(status, text) {
  if (status === 401) return "the session has expired; reload this page to sign in again (finished work is kept)";
  try {
    return JSON.parse(text).detail || "the service answered with status " + status;
  } catch {
    return status ? "the service answered with status " + status : "the service cannot be reached; check that it runs";
  }
}

export function notify(text) {
  const notice = document.getElementById("notice");
  const box = document.createElement("p");
  box.className = "notice bad";
  box.append(text + " ");
  const close = document.createElement("button");
  close.type = "button";
  close.className = "quiet";
  close.textContent = "Close";
  close.addEventListener("click", () => box.remove());
  box.append(close);
  notice.replaceChildren(box);
  box.scrollIntoView({ block: "nearest" });
}
