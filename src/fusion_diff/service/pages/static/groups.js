// Which images show one specimen, as a groups.csv among the chosen files tells it: columns file and group, as the command line reads it.

const NAME = "groups.csv";
const MOST = 2 ** 24; // bytes

export const isTable = ({ path }) => path.split("/").at(-1) === NAME;

// Return the specimen of each path that the table lists, its files named from its own folder on.
// Throws an Error that says what is wrong with it.
export async function specimens({ file, path }) {
  if (file.size > MOST) throw new Error(`${path} is no table of specimens: it is too large.`);
  const [header = [], ...rows] = table((await file.text()).replace(/^\ufeff/, ""));
  const names = header.map((name) => name.trim());
  const [named, group] = ["file", "group"].map((name) => names.indexOf(name));
  if (named < 0 || group < 0) throw new Error(`${path} needs the columns file and group; it has: ${names.join(", ")}.`);
  const folder = path.slice(0, -NAME.length);
  const found = new Map();
  for (const row of rows.filter((cells) => cells.some((cell) => cell.trim()))) {
    const key = folder + (row[named] || "").trim().replaceAll("\\", "/").replace(/^\.\//, "");
    const specimen = (row[group] || "").trim();
    if (found.has(key) && found.get(key) !== specimen) throw new Error(`${path} gives ${key} two specimens, ${found.get(key)} and ${specimen}.`);
    found.set(key, specimen);
  }
  return found;
}

// Rows of cells (RFC 4180), separated by what stands in the first line: a tab, a semicolon or a comma.
function table(text) {
  const first = text.slice(0, text.search(/[\r\n]|$/));
  const separator = ["\t", ";"].find((each) => first.includes(each)) || ",";
  const rows = [[""]];
  let quoted = false;
  for (let at = 0; at < text.length; at += 1) {
    const sign = text[at];
    const row = rows.at(-1);
    if (quoted && sign === '"' && text[at + 1] === '"') row[row.length - 1] += text[(at += 1)];
    else if (sign === '"' && (quoted || row.at(-1) === "")) quoted = !quoted;
    else if (quoted) row[row.length - 1] += sign;
    else if (sign === separator) row.push("");
    else if (sign === "\n" || sign === "\r") rows.push([""]);
    else row[row.length - 1] += sign;
  }
  return rows;
}
