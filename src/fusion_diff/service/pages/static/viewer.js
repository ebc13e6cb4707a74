// Viewer of a micrograph with its evidence, zoomable to native pixels.

const TILE = 1024; // native pixels; a window is read from the whole file, so few large ones
const MOST_TILES = 16;
const PAUSE = 180; // milliseconds of rest before windows are asked for
const CLOSEST = 16;

class Viewer {
  constructor(element) {
    this.element = element;
    this.stage = element.querySelector(".stage");
    this.whole = element.querySelector(".whole");
    this.tiles = element.querySelector(".tiles");
    this.width = Number(element.dataset.width);
    this.height = Number(element.dataset.height);
    this.pixel = Number(element.dataset.pixelSize) || null;
    this.have = new Map();
    this.zoom = 1; // CSS pixels for each native pixel
    this.x = 0;
    this.y = 0;
    this.stage.style.width = this.width + "px";
    this.stage.style.height = this.height + "px";
    element.classList.add("ready");
    this.listen();
    this.fit();
    new ResizeObserver(() => (this.fitted ? this.fit() : this.draw())).observe(element);
  }

  get fitZoom() {
    return Math.min(this.element.clientWidth / this.width, this.element.clientHeight / this.height);
  }

  fit() {
    this.zoom = this.fitZoom;
    this.centre(this.width / 2, this.height / 2);
    this.fitted = true;
  }

  centre(x, y) {
    this.x = this.element.clientWidth / 2 - x * this.zoom;
    this.y = this.element.clientHeight / 2 - y * this.zoom;
    this.draw();
  }

  at(zoom, px = this.element.clientWidth / 2, py = this.element.clientHeight / 2) {
    const least = Math.min(this.fitZoom, 1);
    const wanted = Math.min(CLOSEST, Math.max(least, zoom));
    this.x = px - ((px - this.x) / this.zoom) * wanted;
    this.y = py - ((py - this.y) / this.zoom) * wanted;
    this.zoom = wanted;
    this.draw();
  }

  move(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.draw();
  }

  show(left, top, width, height) {
    const room = 2.5;
    const wanted = Math.min(this.element.clientWidth / width, this.element.clientHeight / height) / room;
    this.zoom = Math.min(Math.max(this.fitZoom, wanted), Math.max(4, this.fitZoom));
    this.centre(left + width / 2, top + height / 2);
  }

  draw() {
    const inside = (place, size, view) => {
      const length = size * this.zoom;
      return length <= view ? (view - length) / 2 : Math.min(0, Math.max(view - length, place));
    };
    this.x = inside(this.x, this.width, this.element.clientWidth);
    this.y = inside(this.y, this.height, this.element.clientHeight);
    this.fitted = Math.abs(this.zoom / this.fitZoom - 1) < 1e-6;
    this.stage.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.zoom})`;
    this.stage.style.setProperty("--unit", 1 / this.zoom);
    this.stage.classList.toggle("pixels", this.zoom * devicePixelRatio >= 3);
    document.getElementById("zoom").textContent = `${Math.round(100 * this.zoom)} %`;
    this.rule();
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.refine(), PAUSE);
  }

  rule() {
    const bar = this.element.querySelector(".scalebar");
    const longest = 0.3 * this.element.clientWidth / this.zoom; // native pixels
    const unit = this.pixel || 1;
    const power = 10 ** Math.floor(Math.log10(longest * unit) + 1e-9);
    let length = power * [5, 2, 1].find((times) => times * power <= longest * unit * (1 + 1e-9));
    if (!this.pixel) length = Math.max(1, length);
    bar.querySelector(".rule").style.width = (length / unit) * this.zoom + "px";
    const [factor, name] = !this.pixel ? [1, "px"] : length < 1 ? [1000, "nm"] : length < 1000 ? [1, "µm"] : [0.001, "mm"];
    bar.querySelector(".label").textContent = `${Number((length * factor).toPrecision(6))} ${name}`;
  }

  refine() {
    const detail = this.whole.naturalWidth / this.width; // of the reduced picture, per native pixel
    if (!this.whole.naturalWidth || detail >= 1 || this.zoom * devicePixelRatio <= detail) return;
    const range = (place, size, view) => [
      Math.max(0, Math.floor(-place / this.zoom / TILE)),
      Math.min(Math.ceil(size / TILE), Math.ceil((view - place) / this.zoom / TILE)),
    ];
    const [left, right] = range(this.x, this.width, this.element.clientWidth);
    const [top, bottom] = range(this.y, this.height, this.element.clientHeight);
    if ((right - left) * (bottom - top) > MOST_TILES) return;
    for (let row = top; row < bottom; row += 1) {
      for (let column = left; column < right; column += 1) this.load(row, column);
    }
  }

  load(row, column) {
    const name = `${row} ${column}`;
    if (this.have.has(name)) return;
    const [y, x] = [row * TILE, column * TILE];
    const picture = new Image();
    picture.alt = "";
    Object.assign(picture.style, { left: x + "px", top: y + "px" });
    picture.style.width = Math.min(TILE, this.width - x) + "px";
    picture.style.height = Math.min(TILE, this.height - y) + "px";
    picture.addEventListener("error", () => {
      picture.remove();
      this.have.delete(name);
    });
    picture.src = `${this.element.dataset.source}?top=${y}&left=${x}&height=${TILE}&width=${TILE}`;
    this.have.set(name, picture);
    this.tiles.append(picture);
  }

  listen() {
    const pointers = new Map();
    const place = (event) => {
      const box = this.element.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    this.element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.element.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, place(event));
      this.element.classList.add("moving");
    });
    this.element.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = place(event);
      const other = [...pointers].find(([id]) => id !== event.pointerId);
      if (other) {
        const apart = (a) => Math.hypot(a[0] - other[1][0], a[1] - other[1][1]);
        this.at((this.zoom * apart(now)) / Math.max(1, apart(before)), other[1][0], other[1][1]);
      } else this.move(now[0] - before[0], now[1] - before[1]);
      pointers.set(event.pointerId, now);
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      this.element.addEventListener(kind, (event) => {
        pointers.delete(event.pointerId);
        if (!pointers.size) this.element.classList.remove("moving");
      });
    }
    this.element.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== this.element) return; // the page scrolls until one clicks
      event.preventDefault();
      this.at(this.zoom * 2 ** (-event.deltaY / 300), ...place(event));
    }, { passive: false });
    this.element.addEventListener("dblclick", (event) => this.at(this.zoom * 2, ...place(event)));
    const step = 60;
    const keys = {
      ArrowLeft: () => this.move(step, 0),
      ArrowRight: () => this.move(-step, 0),
      ArrowUp: () => this.move(0, step),
      ArrowDown: () => this.move(0, -step),
      "+": () => this.at(this.zoom * 1.5),
      "=": () => this.at(this.zoom * 1.5),
      "-": () => this.at(this.zoom / 1.5),
      0: () => this.fit(),
      1: () => this.at(1),
    };
    this.element.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
      event.preventDefault();
      keys[event.key]();
    });
    this.whole.addEventListener("load", () => this.refine());
  }
}

const element = document.getElementById("viewer");
const viewer = new Viewer(element);
const actions = { in: () => viewer.at(viewer.zoom * 1.5), out: () => viewer.at(viewer.zoom / 1.5), fit: () => viewer.fit(), native: () => viewer.at(1) };
for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", actions[button.dataset.view]);

const opacity = document.getElementById("opacity");
const fade = () => {
  element.closest("figure").style.setProperty("--heat", opacity.value / 100); // of the map and of its legend
  document.getElementById("opacity-value").textContent = `${opacity.value} %`;
};
opacity.addEventListener("input", fade);
fade();

const outlined = document.getElementById("outlined");
outlined.addEventListener("change", () => element.classList.toggle("plain", !outlined.checked));

const gos = [...document.querySelectorAll("[data-go]")];
for (const button of gos) {
  button.addEventListener("click", () => {
    for (const each of gos) each.toggleAttribute("aria-current", false);
    button.setAttribute("aria-current", "true");
    for (const group of element.querySelectorAll("[data-region]")) {
      group.classList.toggle("chosen", group.dataset.region === button.dataset.go);
    }
    viewer.show(...button.dataset.box.split(" ").map(Number));
    element.scrollIntoView({ block: "nearest" });
  });
}
