// Classes and masks from folders: one folder per class, and masks in masks/CLASS, as on the command line.

const LOSSLESS = /\.(png|tiff?|bmp)$/i;

// Return images as { file, path, inFolders, folder, mark }, and the paths of masks that fit no image. `inFolders` tells
// whether they were chosen with folders inside of a folder; `folder` is then the class, and null where none can be told.
export function laidOut(files, authentic) {
  const all = files.map(({ file, path }) => ({ file, path, folders: path.split("/").slice(0, -1) }));
  const roots = new Set(all.map(({ folders }) => folders[0]));
  const deepest = Math.max(0, ...all.map(({ folders }) => folders.length));
  if (roots.size <= 1 && deepest <= 1) return { images: all.map((each) => ({ ...each, inFolders: false })), strays: [] };
  const images = [];
  const masks = new Map();
  for (const { file, path, folders } of all) {
    const inner = roots.size === 1 ? folders.slice(1) : folders;
    const key = [...inner.slice(inner[0] === "masks" ? 1 : 0), path.split("/").at(-1).replace(/\.[^.]*$/, "")].join("/");
    if (inner[0] === "masks") masks.set(key, [...(masks.get(key) || []), { file, path }]);
    else images.push({ file, path, key, inFolders: true, folder: inner.length === 1 ? inner[0] : null });
  }
  const strays = [];
  for (const [key, found] of masks) {
    const own = images.filter((image) => image.key === key && image.folder !== null && image.folder !== authentic);
    if (own.length === 1 && found.length === 1 && LOSSLESS.test(found[0].path)) own[0].mark = found[0].file;
    else strays.push(...found.map(({ path }) => path));
  }
  return { images, strays };
}
