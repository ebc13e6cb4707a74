// The lot: keeps the list of inspected files of this tab while other pages are visited.
// Verdicts are kept by id and fetched again, because they may have been overruled; refusals are kept as text.
import { explained, notify } from "./http.js";

const PLACE = "lot";
const AT_ONCE = 100; // ids in an address

function kept(caller) {
  try {
    const found = JSON.parse(sessionStorage.getItem(PLACE));
    return found.caller === caller ? found.entries : [];
  } catch {
    return []; // nothing is kept, or this browser keeps nothing
  }
}

function entryOf(row) {
  if (row.dataset.inspection) return { id: row.dataset.inspection };
  const why = row.dataset.outcome ? row.querySelector(".why") : row.matches(".stuck") && row.querySelector(".state");
  return { name: row.querySelector("bdi").textContent, why: why ? why.textContent : "not finished when the page was closed; look for it in the history or send it again" };
}

function refused({ name, why }) {
  const row = document.getElementById("refused-row").content.querySelector("tr").cloneNode(true);
  row.querySelector("bdi").textContent = name;
  row.querySelector(".why").textContent = why;
  return row;
}

async function rowsOf(address, entries) {
  const ids = entries.flatMap(({ id }) => id || []);
  const found = new Map();
  for (let first = 0; first < ids.length; first += AT_ONCE) {
    const answer = await fetch(`${address}?ids=${ids.slice(first, first + AT_ONCE).join(",")}`, { headers: { "HX-Request": "true" } });
    const text = await answer.text();
    if (!answer.ok) throw new Error(explained(answer.status, text));
    const made = document.createElement("template");
    made.innerHTML = text;
    for (const row of made.content.querySelectorAll("tr")) found.set(row.dataset.inspection, row);
  }
  return entries.flatMap((each) => (each.id ? found.get(each.id) || [] : refused(each)));
}

export async function keepLot(uploads) {
  const { rows, form } = uploads;
  const { kept: address, caller } = form.dataset;
  let before = kept(caller);
  document.querySelector("[data-clear]").addEventListener("click", () => {
    before = [];
    for (const row of rows.querySelectorAll("tr[data-outcome], tr.stuck")) row.remove();
    uploads.begin(rows.children.length);
  });
  window.addEventListener("pagehide", () => {
    try {
      sessionStorage.setItem(PLACE, JSON.stringify({ caller, entries: [...before, ...[...rows.children].map(entryOf)] }));
    } catch {
      // this browser has no storage
    }
  });
  if (!before.length) return;
  try {
    const made = await rowsOf(address, before);
    if (!before.length) return; // cleared meanwhile
    before = [];
    rows.prepend(...made);
    uploads.restore(made);
  } catch (error) {
    notify(error.message);
  }
}

function lead(nav) {
  const ids = kept(nav.dataset.caller).flatMap(({ id }) => id || []);
  const at = ids.indexOf(nav.dataset.inspection);
  if (at < 0) return;
  for (const way of nav.querySelectorAll("[data-way]")) {
    const id = ids[at + Number(way.dataset.way)];
    if (id) way.href = "/inspections/" + id;
    else way.hidden = true;
  }
  nav.querySelector("[data-place]").textContent = `${at + 1} of ${ids.length}`;
  nav.hidden = false;
}

const nav = document.getElementById("lot");
if (nav) lead(nav);
