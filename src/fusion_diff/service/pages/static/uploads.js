// Sends files one by one, each with its progress and then its row from the service. A failed file stops no other.
import { explained, tokens } from "./http.js";
import { keepLot } from "./lot.js";
import { dropped, picked } from "./picking.js";
import { Plan } from "./plan.js";

const PATIENCE = 40; // times that a busy service is asked again

class Uploads {
  constructor(form) {
    this.form = form;
    this.rows = document.querySelector(form.dataset.rows);
    this.section = this.rows.closest("[hidden]"); // shown as soon as there are rows
    this.template = document.querySelector(form.dataset.row);
    this.summary = document.querySelector(form.dataset.summary);
    this.atOnce = Number(form.dataset.atOnce);
    this.waiting = [];
    this.running = 0;
    this.total = 0;
    this.outcomes = new Map();
    this.told = 0;
    window.addEventListener("beforeunload", (event) => {
      if (this.running || this.waiting.length) event.preventDefault();
    });
  }

  // The files, each with its path, form fields and, if there is one, its mask.
  add(files) {
    for (const each of files) {
      const row = this.template.content.firstElementChild.cloneNode(true);
      row.querySelector(".file").textContent = each.path;
      row.querySelector("progress").setAttribute("aria-label", "Progress of " + each.path);
      this.rows.append(row);
      this.wait({ ...each, row, tries: 0 });
    }
    this.total += files.length;
    this.show(this.total > 0);
    this.next();
  }

  show(some) {
    if (this.section) this.section.hidden = !some;
    const replaced = document.querySelector("[data-until-uploads]");
    if (replaced) replaced.hidden = some;
  }

  // Earlier rows, as answered.
  restore(rows) {
    for (const row of rows) this.outcome(row.dataset.outcome);
    this.total += rows.length;
    this.show(this.total > 0);
    this.count();
  }

  // Forget finished files; this many are still being sent.
  begin(total) {
    this.outcomes.clear();
    this.total = total;
    this.show(total > 0);
    this.count();
  }

  wait(job) {
    this.say(job, "waiting", 0);
    this.waiting.push(job);
  }

  say(job, words, share) {
    job.row.querySelector(".state").textContent = words;
    const bar = job.row.querySelector("progress");
    if (share === null) bar.removeAttribute("value");
    else bar.value = 100 * share;
  }

  next() {
    while (this.running < this.atOnce && this.waiting.length) this.send(this.waiting.shift());
    this.count();
  }

  send(job) {
    this.running += 1;
    const body = new FormData();
    for (const [name, value] of job.fields) body.append(name, value);
    body.append(this.form.dataset.field, job.file, job.path);
    if (job.mark) body.append("mark", job.mark);
    const request = new XMLHttpRequest();
    request.open("POST", this.form.getAttribute("action"));
    for (const [name, value] of Object.entries(tokens())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) this.say(job, `sending, ${Math.floor((100 * event.loaded) / event.total)} %`, event.loaded / event.total);
    });
    request.upload.addEventListener("load", () => this.say(job, this.form.dataset.doing + " …", null));
    request.addEventListener("loadend", () => {
      this.running -= 1;
      this.settle(job, request);
      this.next();
    });
    request.send(body);
  }

  settle(job, request) {
    if (request.status === 200) {
      const made = document.createElement("template");
      made.innerHTML = request.responseText;
      const row = made.content.querySelector("tr");
      job.row.replaceWith(row);
      this.outcome(row.dataset.outcome);
      return;
    }
    const busy = request.status === 429 || request.status === 503;
    if (busy && job.tries < PATIENCE) {
      job.tries += 1;
      const seconds = Number(request.getResponseHeader("Retry-After")) || 2;
      this.say(job, "the service is busy; retrying soon", 0);
      this.running += 1; // its place is kept
      setTimeout(() => {
        this.running -= 1;
        this.waiting.unshift(job);
        this.next();
      }, 1000 * seconds);
      return;
    }
    this.say(job, explained(request.status, request.responseText), 0);
    job.row.classList.add("stuck");
    this.outcome("failed");
    const again = job.row.querySelector(".again");
    again.hidden = false;
    again.addEventListener("click", () => {
      again.hidden = true;
      job.row.classList.remove("stuck");
      job.tries = 0;
      this.outcome("failed", -1);
      this.wait(job);
      this.next();
    }, { once: true });
  }

  outcome(kind, change = 1) {
    this.outcomes.set(kind, (this.outcomes.get(kind) || 0) + change);
  }

  count() {
    const done = [...this.outcomes.values()].reduce((sum, each) => sum + each, 0);
    const finished = this.total > 0 && done === this.total;
    if (!finished && Date.now() - this.told < 2000 && this.told) return; // screen readers need not hear every one
    this.told = Date.now();
    const kinds = [...this.outcomes].filter(([, count]) => count).map(([kind, count]) => `${count} ${kind === "failed" ? this.form.dataset.failed : kind}`);
    this.summary.textContent = this.total ? [`${done} of ${this.total} done`, ...kinds].join(" · ") : "";
    if (!finished) return;
    for (const row of this.rows.querySelectorAll("[data-outcome=added]")) row.remove(); // they are in the set by now
    document.body.dispatchEvent(new CustomEvent("uploads-done"));
  }
}

for (const form of document.querySelectorAll("[data-uploads]")) {
  const uploads = new Uploads(form);
  if (form.dataset.kept) keepLot(uploads);
  const plan = form.querySelector("[data-plan]") && new Plan(form, (files) => uploads.add(files));
  const suffixes = [...form.dataset.suffixes.split(" "), ...(plan ? ["/groups.csv"] : [])];
  const place = form.querySelector("[data-drop]");

  function take({ files, skipped }) {
    const left = skipped === 1 ? "1 file that is not an image was skipped" : `${skipped} files that are not images were skipped`;
    form.querySelector("[data-skipped]").textContent = skipped ? left : "";
    if (plan) plan.take(files);
    else if (files.length && form.reportValidity()) {
      const fields = [...new FormData(form)].filter(([, value]) => typeof value === "string" && value !== "");
      uploads.add(files.map((each) => ({ ...each, fields })));
    }
  }

  if (!plan) form.addEventListener("submit", (event) => event.preventDefault());
  for (const input of form.querySelectorAll("[data-pick]")) {
    input.addEventListener("change", () => take(picked(input, suffixes)));
    if (input.files.length) take(picked(input, suffixes)); // chosen before this script came
  }
  place.addEventListener("dragover", () => place.classList.add("over"));
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  async function fetchDrops() {
    place.classList.remove("over");
    while (place.drops?.length) take(await dropped(place.drops.shift(), suffixes));
  }
  place.addEventListener("dropped", fetchDrops);
  fetchDrops(); // what was dropped before this script came
}
