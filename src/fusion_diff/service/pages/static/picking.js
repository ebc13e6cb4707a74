// Files from inputs and drops. Folders are searched for files that may be micrographs.

const mayBe = (name, suffixes) => suffixes.some((suffix) => name.toLowerCase().endsWith(suffix));
const visible = (path) => !path.split("/").some((part) => part.startsWith("."));

export function picked(input, suffixes) {
  const found = { files: [], skipped: 0 };
  for (const file of input.files) {
    const path = file.webkitRelativePath || file.name;
    if (!file.webkitRelativePath || (visible(path) && mayBe(path, suffixes))) found.files.push({ file, path });
    else found.skipped += 1;
  }
  input.value = "";
  return sorted(found);
}

export async function dropped({ entries, files }, suffixes) {
  const found = { files: [], skipped: 0 };
  for (const file of files) found.files.push({ file, path: file.name });
  for (const entry of entries) await walk(entry, entry.isDirectory, suffixes, found);
  return sorted(found);
}

function sorted(found) {
  const order = new Intl.Collator("en", { numeric: true });
  found.files.sort((a, b) => order.compare(a.path, b.path));
  return found;
}

async function walk(entry, inFolder, suffixes, found) {
  const path = entry.fullPath.replace(/^\//, "");
  if (entry.isDirectory) {
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done, failed) => reader.readEntries(done, failed)).catch(() => []);
      if (!some.length) return; // a browser gives a hundred at a time
      for (const inner of some) await walk(inner, true, suffixes, found);
    }
  }
  if (inFolder && !(visible(path) && mayBe(path, suffixes))) {
    found.skipped += 1;
    return;
  }
  const file = await new Promise((done, failed) => entry.file(done, failed)).catch(() => null);
  if (file) found.files.push({ file, path });
  else found.skipped += 1;
}
