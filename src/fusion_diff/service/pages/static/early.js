// Keeps actions made before the other scripts are loaded, and runs them afterwards.
(() => {
  // What is pressed before htmx has taken the page over. A browser that sends such a form by itself sends no token with
  // it, is refused and leaves the page.
  const kept = [];

  function keep(event) {
    const pressed = event.type === "submit" ? event.target : event.target.closest("button");
    if (!pressed || !pressed.matches("[hx-post], [hx-delete]")) return;
    event.preventDefault();
    event.stopPropagation();
    if (!kept.includes(pressed)) kept.push(pressed);
  }

  document.addEventListener("submit", keep, true);
  document.addEventListener("click", keep, true);
  document.addEventListener("htmx:load", () => {
    document.removeEventListener("submit", keep, true);
    document.removeEventListener("click", keep, true);
    for (const each of kept) each instanceof HTMLFormElement ? each.requestSubmit() : each.click();
  }, { once: true });

  // Files are taken from a drop while it happens, the only time a browser gives them, and lie with the place they were
  // dropped on until uploads.js fetches them. One dropped beside it does not replace the page.
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const place = event.target.closest("[data-drop]");
    if (!place) return;
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    place.drops = [...(place.drops || []), { entries, files: entries.length ? [] : [...event.dataTransfer.files] }];
    place.dispatchEvent(new CustomEvent("dropped"));
  });
})();
