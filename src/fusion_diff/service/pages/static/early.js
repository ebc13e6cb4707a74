// What is pressed before htmx has taken the page over is kept and done then. A browser that sends such a form by itself
// sends no token with it, is refused and leaves the page.
(() => {
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
})();
