// Shows what will be added to a reference set before it is: images and specimens of each class.
import { isTable, specimens } from "./groups.js";
import { laidOut } from "./layout.js";

const SHOWN = 8; // names in a list

export class Plan {
  constructor(form, add) {
    this.form = form;
    this.add = add;
    this.section = form.querySelector("[data-plan]");
    this.chosen = []; // as `laidOut` gives them
    this.strays = []; // paths of masks that fit nothing
    this.listed = new Map(); // specimens by path, where a table tells them
    this.mistaken = []; // what is wrong with tables
    const { label, by, group, pattern, classes } = form.elements;
    Object.assign(this, { label, by, group, pattern, classes });
    form.addEventListener("input", () => this.show());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    form.querySelector("[data-leave]").addEventListener("click", () => {
      this.empty();
      form.querySelector("[data-pick]").focus();
    });
    this.show();
  }

  async take(files) {
    const { images, strays } = laidOut(files.filter((each) => !isTable(each)), this.form.dataset.authentic);
    // Images wait for their table: until it is read, none can be added without the specimen that it names.
    await this.read(files.filter(isTable), [...this.chosen, ...images]);
    this.chosen.push(...images);
    this.strays.push(...strays);
    this.show();
    if (images.length) this.section.scrollIntoView({ block: "nearest" });
  }

  // Images that no readable table lists have no specimen; nothing is added until another way is chosen.
  async read(tables, images) {
    if (!tables.length) return;
    this.mistaken = [];
    const paths = new Set(images.map(({ path }) => path));
    for (const each of tables) {
      try {
        for (const [path, specimen] of await specimens(each, paths)) this.listed.set(path, specimen);
      } catch (error) {
        this.mistaken.push(error.message);
      }
    }
    if (!this.by.querySelector("[value=table]")) this.by.add(new Option("from groups.csv", "table"));
    if (this.by.value === "own") this.by.value = "table";
  }

  empty() {
    this.chosen = [];
    this.strays = [];
    this.listed.clear();
    this.mistaken = [];
    if (this.by.value === "table") this.by.value = "own";
    this.by.querySelector("[value=table]")?.remove();
    this.show();
  }

  send() {
    const files = this.planned().filter(({ label }) => label !== null);
    if (!files.length) return;
    const pixel = this.form.elements.pixel_size_um.value;
    this.add(files.map(({ file, path, mark, label, specimen }) => ({
      file,
      path,
      mark,
      fields: Object.entries({ label, group: specimen, pixel_size_um: pixel }).filter(([, value]) => value),
    })));
    this.empty();
    document.querySelector(this.form.dataset.summary).focus();
  }

  // The chosen images with class and specimen; null if unknown.
  planned() {
    const pattern = this.expression();
    const named = this.classes.value === "folder";
    return this.chosen.map((each) => {
      const label = named && each.inFolders ? each.folder : this.label.value.trim();
      let specimen = "";
      if (this.by.value === "one") specimen = this.group.value.trim();
      else if (this.by.value === "table") specimen = this.listed.get(each.path) || null;
      else if (this.by.value !== "own") specimen = pattern?.exec(each.path.split("/").at(-1))?.[1] || null;
      return { ...each, label, specimen };
    });
  }

  // The expression that finds the specimen in a name; null if the pattern is invalid.
  expression() {
    if (this.by.value === "before") return /^([^_]+)_/;
    if (this.by.value !== "pattern") return null;
    try {
      const groups = new RegExp(this.pattern.value + "|").exec("").length - 1;
      return groups === 1 ? new RegExp(this.pattern.value) : null;
    } catch {
      return null;
    }
  }

  show() {
    const { by, group, pattern, classes } = this;
    for (const [field, value] of [[group, "one"], [pattern, "pattern"]]) {
      field.closest(".field").hidden = by.value !== value;
      field.required = by.value === value && this.chosen.length > 0;
    }
    classes.closest(".field").hidden = !this.chosen.some(({ inFolders }) => inFolders);
    const planned = this.planned();
    const added = planned.filter(({ label }) => label !== null);
    this.label.required = planned.some(({ inFolders }) => !inFolders || classes.value !== "folder");
    const nameless = added.filter(({ specimen }) => specimen === null).map(({ path }) => path);
    const wrong = this.wrong(nameless, added.length);
    by.setCustomValidity(by.value === "pattern" ? "" : wrong);
    pattern.setCustomValidity(by.value === "pattern" ? wrong : "");
    const homeless = planned.length - added.length;
    this.tell([
      wrong,
      ...this.mistaken.filter((each) => each !== wrong),
      ...mistyped(new Set(added.map(({ label }) => label)), this.known()),
      homeless && `${counted(homeless, "image")} skipped: not directly in a folder named after a class`,
      this.strays.length && `${counted(this.strays.length, "mask")} skipped, without exactly one image of the same name in a class other than ${this.form.dataset.authentic}: ${listed(this.strays)}`,
    ]);
    this.section.querySelector("tbody").replaceChildren(...rows(added, this.form.dataset.authentic, this.known()));
    this.section.querySelector("[data-add]").textContent = `Add ${counted(added.length, "reference")}`;
    this.section.querySelector("[data-add]").disabled = !added.length;
    this.section.hidden = !planned.length && !this.strays.length && !this.mistaken.length;
  }

  // The classes of the set, the authentic one first.
  known() {
    return [this.form.dataset.authentic, ...[...document.querySelectorAll("#images [data-class]")].map((each) => each.dataset.class)];
  }

  wrong(nameless, count) {
    if (!this.chosen.length) return "";
    if (this.by.value === "pattern" && !this.expression()) return "The pattern must be a regular expression with one (…) around the specimen.";
    if (this.by.value === "table" && this.mistaken.length) return this.mistaken[0];
    if (nameless.length && this.by.value === "table") return `groups.csv has no specimen for ${nameless.length} of ${counted(count, "image")}: ${listed(nameless)}`;
    if (nameless.length) return `No specimen found in ${nameless.length} of ${counted(count, "name")}: ${listed(nameless)}`;
    return "";
  }

  tell(remarks) {
    const told = remarks.filter(Boolean).map((remark) => {
      const line = document.createElement("p");
      line.textContent = remark;
      return line;
    });
    this.section.querySelector("[data-remarks]").replaceChildren(...told);
  }
}

// One row per class: number of images, and their specimens.
function rows(planned, authentic, known) {
  return [...new Set(planned.map(({ label }) => label))].map((label) => {
    const images = planned.filter((each) => each.label === label);
    const marked = images.filter(({ mark }) => mark).length;
    const specimens = [...new Set(images.map(({ specimen }) => specimen).filter(Boolean))];
    const untold = images.some(({ specimen }) => specimen === null) ? "unknown" : "each its own";
    const row = document.createElement("tr");
    const named = known.includes(label) ? label : `${label} (new class; it counts as not authentic)`;
    const told = [label === authentic ? `${label} (authentic)` : label ? named : "(enter it above)", images.length + (marked ? `, ${marked} with a mask` : ""), specimens.length ? `${specimens.length}: ${listed(specimens)}` : untold];
    for (const words of told) {
      const isolated = document.createElement("bdi");
      isolated.textContent = words;
      const cell = document.createElement("td");
      cell.append(isolated);
      row.append(cell);
    }
    return row;
  });
}

// Remarks on new classes that differ from another of the set in no more than case.
function mistyped(labels, known) {
  const folded = (name) => name.normalize("NFC").toLowerCase();
  return [...labels].filter((label) => !known.includes(label)).map((label) => {
    const meant = known.find((each) => folded(each) === folded(label));
    return meant && `Class ${label}: did you mean ${meant}?`;
  });
}

const counted = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
const listed = (names) => names.slice(0, SHOWN).join(", ") + (names.length > SHOWN ? " …" : "");
