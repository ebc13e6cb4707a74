// Draws a flaw mask with a brush. Strokes are kept, so that each can be undone; they are drawn at native size when saved.
import { explained, notify, tokens } from "./http.js";

const PAINT = "#ff5a1f";

class Easel {
  constructor(element) {
    this.element = element;
    this.ground = element.querySelector(".ground");
    this.paint = element.querySelector(".paint");
    this.spot = element.querySelector(".spot");
    this.size = document.getElementById("size");
    this.strokes = []; // each { erase, radius, points } in pixels of the picture, or { clear: true }
    this.before = null; // the mark that it came with
    this.kept = undefined; // the last stroke that was saved
    this.cursor = null;
  }

  async open() {
    const answer = await fetch(this.element.dataset.picture);
    if (!answer.ok) throw new Error(explained(answer.status, await answer.text()));
    const picture = await createImageBitmap(await answer.blob());
    const told = (answer.headers.get("X-Native-Size") || "").split("x").map(Number);
    [this.width, this.height] = told.length === 2 && told.every(Boolean) ? told : [picture.width, picture.height];
    for (const canvas of [this.ground, this.paint]) {
      canvas.width = picture.width;
      canvas.height = picture.height;
    }
    this.ground.getContext("2d").drawImage(picture, 0, 0);
    if (this.element.dataset.mark) {
      const mark = await fetch(this.element.dataset.mark);
      if (!mark.ok) throw new Error(explained(mark.status, await mark.text()));
      this.before = tinted(await createImageBitmap(await mark.blob()));
    }
    this.cursor = [picture.width / 2, picture.height / 2];
    this.scale("fit");
    this.draw();
    this.listen();
  }

  scale(value) {
    const wide = this.element.parentElement.clientWidth - 24;
    const { element, shown } = this;
    const middle = [element.scrollLeft + element.clientWidth / 2, element.scrollTop + element.clientHeight / 2];
    const fit = Math.min(4, wide / this.paint.width, (0.74 * window.innerHeight) / this.paint.height);
    this.shown = value === "fit" ? fit : Number(value);
    this.element.style.setProperty("--wide", this.paint.width * this.shown + "px");
    this.element.style.setProperty("--high", this.paint.height * this.shown + "px");
    this.element.classList.toggle("pixels", this.shown >= 2);
    this.tell();
    if (!shown) return;
    const [x, y] = middle.map((each) => (each / shown) * this.shown);
    element.scrollTo(x - element.clientWidth / 2, y - element.clientHeight / 2);
    if (this.keyboard) this.follow();
    this.draw();
  }

  // Scroll the keyboard cursor into view, in the easel and in the window.
  follow() {
    const [left, top] = this.cursor.map((each) => Math.max(0, each - this.radius));
    const [right, bottom] = this.cursor.map((each, axis) => Math.min(axis ? this.paint.height : this.paint.width, each + this.radius));
    for (const [name, value] of Object.entries({ left, top, width: right - left, height: bottom - top })) this.spot.style[name] = value * this.shown + "px";
    this.spot.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  get unsaved() {
    return this.strokes.at(-1) !== this.kept;
  }

  get radius() {
    return Number(this.size.value) / 2 / this.shown;
  }

  // Show the size of the brush in pixels of the micrograph.
  tell() {
    const size = (2 * this.radius * this.width) / this.paint.width;
    document.getElementById("size-value").textContent = `${size < 10 ? size.toFixed(1) : Math.round(size)} image px`;
  }

  draw() {
    const context = this.paint.getContext("2d");
    context.clearRect(0, 0, this.paint.width, this.paint.height);
    this.render(context, this.paint.width, this.paint.height, 1);
    if (document.activeElement === this.paint && this.keyboard) {
      for (const [colour, width] of [["#000", 7], ["#fff", 3.5]]) {
        Object.assign(context, { strokeStyle: colour, lineWidth: width / this.shown });
        context.beginPath();
        context.arc(...this.cursor, this.radius, 0, 7);
        context.stroke();
      }
    }
  }

  render(context, width, height, scale) {
    if (this.before) context.drawImage(this.before, 0, 0, width, height);
    Object.assign(context, { lineCap: "round", lineJoin: "round", fillStyle: PAINT, strokeStyle: PAINT });
    for (const stroke of this.strokes) {
      if (stroke.clear) {
        context.clearRect(0, 0, width, height);
        continue;
      }
      context.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
      context.lineWidth = 2 * stroke.radius * scale;
      const path = new Path2D();
      stroke.points.forEach(([x, y], index) => (index ? path.lineTo(x * scale, y * scale) : path.moveTo(x * scale, y * scale)));
      const [x, y] = stroke.points[0];
      if (stroke.points.length === 1) path.lineTo(x * scale + 0.01, y * scale);
      context.stroke(path);
    }
    context.globalCompositeOperation = "source-over";
  }

  begin(point) {
    const erase = document.querySelector("input[name=tool]:checked").value === "erase";
    this.strokes.push({ erase, radius: this.radius, points: [point] });
    this.draw();
  }

  extend(point) {
    this.strokes.at(-1).points.push(point);
    this.draw();
  }

  undo() {
    this.strokes.pop();
    this.draw();
  }

  clear() {
    this.strokes.push({ clear: true });
    this.draw();
  }

  async mask() {
    const canvas = document.createElement("canvas");
    canvas.width = this.width;
    canvas.height = this.height;
    const context = canvas.getContext("2d");
    if (!context) throw new Error("the micrograph is too large to mark it here; upload a mask instead");
    this.render(context, this.width, this.height, this.width / this.paint.width);
    const strip = Math.max(1, Math.floor(2 ** 24 / this.width));
    let marked = 0;
    for (let top = 0; top < this.height; top += strip) {
      const part = context.getImageData(0, top, this.width, Math.min(strip, this.height - top));
      for (let index = 0; index < part.data.length; index += 4) {
        const level = part.data[index + 3] > 127 ? 255 : 0; // no half-tones: all that is not black is flaw
        marked += level && 1;
        part.data.fill(level, index, index + 3);
        part.data[index + 3] = 255;
      }
      context.putImageData(part, 0, top);
    }
    if (!marked) throw new Error("nothing is marked yet; paint over the flaw first");
    return new Promise((done, failed) => {
      canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("the mark cannot be saved; upload a mask instead"))), "image/png");
    });
  }

  async save() {
    const last = this.strokes.at(-1);
    const body = new FormData();
    body.append("mark", await this.mask(), "mark.png");
    const answer = await fetch(this.element.dataset.save, { method: "POST", headers: { ...tokens(), "HX-Request": "true" }, body });
    if (!answer.ok) throw new Error(explained(answer.status, await answer.text()));
    this.kept = last;
    location.assign(answer.headers.get("HX-Redirect"));
  }

  listen() {
    const place = (event) => {
      const box = this.paint.getBoundingClientRect();
      return [(event.clientX - box.left) / this.shown, (event.clientY - box.top) / this.shown];
    };
    let painting = false;
    this.paint.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.paint.setPointerCapture(event.pointerId);
      painting = true;
      this.keyboard = false;
      this.begin(place(event));
    });
    this.paint.addEventListener("pointermove", (event) => painting && this.extend(place(event)));
    for (const kind of ["pointerup", "pointercancel"]) this.paint.addEventListener(kind, () => (painting = false));
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    this.paint.addEventListener("keydown", (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key === "z") {
        event.preventDefault();
        this.undo();
      } else if (event.key in ways || event.key === " ") {
        event.preventDefault();
        this.keyboard = true;
        const step = (event.shiftKey ? 4 : 1) * Math.max(1, this.radius / 2);
        const [dx, dy] = ways[event.key] || [0, 0];
        this.cursor = [this.cursor[0] + dx * step, this.cursor[1] + dy * step].map((value, axis) =>
          Math.min(axis ? this.paint.height : this.paint.width, Math.max(0, value)));
        this.follow();
        if (event.key === " ") this.begin([...this.cursor]);
        else this.draw();
      }
    });
    this.size.addEventListener("input", () => this.tell());
    for (const kind of ["focus", "blur"]) this.paint.addEventListener(kind, () => this.draw());
  }
}

function tinted(mark) {
  const canvas = document.createElement("canvas");
  canvas.width = mark.width;
  canvas.height = mark.height;
  const context = canvas.getContext("2d");
  context.drawImage(mark, 0, 0);
  const strip = Math.max(1, Math.floor(2 ** 24 / mark.width));
  for (let top = 0; top < mark.height; top += strip) {
    const part = context.getImageData(0, top, mark.width, Math.min(strip, mark.height - top));
    for (let index = 0; index < part.data.length; index += 4) part.data[index + 3] = part.data[index];
    context.putImageData(part, 0, top);
  }
  context.globalCompositeOperation = "source-in";
  context.fillStyle = PAINT;
  context.fillRect(0, 0, mark.width, mark.height);
  return canvas;
}

const easel = new Easel(document.getElementById("easel"));
const state = document.getElementById("brush-state");
const save = document.getElementById("save");
document.getElementById("scale").addEventListener("change", (event) => easel.scale(event.target.value));
document.getElementById("undo").addEventListener("click", () => easel.undo());
document.getElementById("clear").addEventListener("click", () => easel.clear());
window.addEventListener("beforeunload", (event) => {
  if (easel.unsaved) event.preventDefault();
});
save.addEventListener("click", async () => {
  save.disabled = true;
  state.textContent = "saving …";
  try {
    await easel.save();
  } catch (error) {
    notify(error.message);
    state.textContent = "";
    save.disabled = false;
  }
});
easel.open().then(() => easel.element.classList.add("ready"), (error) => notify(error.message));
