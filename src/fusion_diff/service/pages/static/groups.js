// Specimens of images from a groups.csv among the chosen files, read as strictly as on the command line.

const NAME = "groups.csv";
const MOST_BYTES = 2 ** 24;
const MOST_COLUMNS = 100;
const MOST_ROWS = 100_000;
const NEEDED = ["file", "group"];
const SEPARATORS = [",", ";", "\t"];

export const isTable = ({ path }) => path.split("/").at(-1).toLowerCase() === NAME;

// Return the specimen of each path that the table lists, its files named from its own folder on; `chosen` are paths that a
// name may mean. Throws an Error that says what is wrong with it.
export async function specimens({ file, path }, chosen) {
  const [header, ...rows] = table(await text(file, path), path);
  const names = (header?.cells || []).map((name) => name.toLowerCase());
  if (names.length > MOST_COLUMNS) throw new Error(`${path}, line ${header.line}: the header has ${grouped(names.length)} columns, more than ${MOST_COLUMNS}; keep only the needed ones.`);
  checkHeader(names, path);
  if (rows.length > MOST_ROWS) throw new Error(`${path}, line ${rows[MOST_ROWS].line}: more than ${grouped(MOST_ROWS)} files; list only those of the references.`);
  if (!rows.length) throw new Error(`${path}: the table is empty; add a line for each file.`);
  const folder = path.slice(0, -NAME.length);
  const found = new Map();
  for (const { cells, written, line } of rows) {
    const where = `${path}, line ${line}`;
    if (cells.length !== names.length) throw new Error(`${where}: ${cells.length} fields, but the header has ${names.length}; put quotes around a field that contains the separator.`);
    const [named, specimen, label] = [...NEEDED, "class"].map((name) => cells[names.indexOf(name)] || "");
    if (!named || !specimen) throw new Error(`${where}: the column ${named ? "group" : "file"} is empty; fill it in or remove the line.`);
    const texts = [written[names.indexOf("file")], named, named.replaceAll("\\", "/")];
    const forms = texts.flatMap((each) => [each.normalize("NFC"), each.normalize("NFD")]); // files from a Mac may have the other one
    const spellings = [...texts, ...forms, texts.at(-1)].map((each) => folder + each.replace(/^\.\//, ""));
    const key = spellings.find((each) => chosen.has(each)) || spellings.at(-1);
    if (found.has(key) && found.get(key) !== specimen) throw new Error(`${where}: ${key} has the specimen ${specimen} here but ${found.get(key)} above; keep one.`);
    const [own, ...inner] = key.slice(folder.length).split("/");
    if (label && inner.length && label !== own) throw new Error(`${where}: ${key} has the class ${label}, but lies in the folder ${own}; make table and folder agree.`);
    found.set(key, specimen);
  }
  return found;
}

const grouped = (count) => count.toLocaleString("en");

async function text(file, path) {
  if (file.size > MOST_BYTES) throw new Error(`${path}: larger than ${MOST_BYTES / 2 ** 20} MiB, so it is not a list of references.`);
  const bytes = await file.arrayBuffer().catch(() => {
    throw new Error(`${path}: the file cannot be read; choose it again.`);
  });
  let told;
  try {
    told = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error(`${path}: the encoding is not UTF-8; save the table as CSV UTF-8.`);
  }
  const zero = told.indexOf("\0");
  if (zero >= 0) throw new Error(`${path}, line ${told.slice(0, zero).split("\n").length}: a zero byte, so this is not text; save the table as CSV UTF-8.`);
  return told;
}

function checkHeader(names, path) {
  if (NEEDED.some((name) => !names.includes(name))) throw new Error(`${path}: the columns file and group are required, but it has ${names.join(", ")}.`);
  const twice = [...NEEDED, "class"].find((name) => names.indexOf(name) !== names.lastIndexOf(name));
  if (twice) throw new Error(`${path}: the column ${twice} occurs twice; keep one of them.`);
  const misspelt = names.includes("class") ? undefined : names.find((name) => !NEEDED.includes(name) && alike("class", name));
  if (misspelt !== undefined) throw new Error(`${path}: unknown column ${misspelt} (did you mean class?); rename or remove it.`);
}

// Whether one word may be the other misspelt, by the measure and limit of Python's difflib, which the command line uses.
const alike = (a, b) => (2 * shared(a, b)) / (a.length + b.length) >= 0.6;

function shared(a, b) {
  for (let size = Math.min(a.length, b.length); size > 0; size -= 1) {
    for (let at = 0; at + size <= a.length; at += 1) {
      const there = b.indexOf(a.slice(at, at + size));
      if (there >= 0) return size + shared(a.slice(0, at), b.slice(0, there)) + shared(a.slice(at + size), b.slice(there + size));
    }
  }
  return 0;
}

// Rows that are not blank, with the line that each begins on (RFC 4180), separated by what a first line `sep=;` of Excel
// names, or else by what the first of them holds most of.
function table(given, path) {
  const named = /^sep=([,;\t])(?=\r?\n)/i.exec(given);
  const whole = named ? given.slice(named[0].length) : given; // a blank line remains, so that lines keep their numbers
  const first = whole.split(/[\r\n]/).find((line) => line.trim()) || "";
  const count = (sign) => first.split(sign).length;
  const separator = named?.[1] || SEPARATORS.reduce((most, each) => (count(each) > count(most) ? each : most));
  const rows = [];
  let [written, cell, state, line, begun] = [[], "", "before", 1, 1];
  for (const sign of whole.replace(/\r\n?/g, "\n") + "\n") {
    if (state === "quoted") {
      if (sign === '"') state = "after";
      else cell += sign;
    } else if (sign === separator || sign === "\n") {
      written.push(cell);
      [cell, state] = ["", "before"];
      if (sign === "\n") {
        const cells = written.map((each) => each.trim());
        if (cells.some(Boolean)) rows.push({ written, cells, line: begun });
        [written, begun] = [[], line + 1];
      }
    } else if (sign === '"' && state !== "plain") {
      if (state === "after") cell += sign; // a doubled one
      state = "quoted";
    } else if (state === "after") {
      throw new Error(`${path}, line ${line}: a quote ends in the middle of a field; double quotes that belong to the text.`);
    } else {
      cell += sign;
      state = "plain";
    }
    if (sign === "\n") line += 1;
  }
  if (state === "quoted") throw new Error(`${path}, line ${begun}: a quote is not closed; add the closing quote.`);
  return rows;
}
