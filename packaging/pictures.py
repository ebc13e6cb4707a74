"""Make the pictures of the documentation anew, on procedural ceramics: python packaging/pictures.py

Needs the extras `service` and `browser`, and a Chromium. Writes `docs/report.png`, of the report of `fusion-diff demo`,
and `docs/service/*.webp`, of the service's pages. `benchmarks/f1_plot.py` makes the other picture, from the results.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from PIL import Image
from playwright.sync_api import sync_playwright

from fusion_diff import DiffusionModel, ReferenceSet
from fusion_diff.synthetic import generate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from playwright.sync_api import Page

DOCS = Path(__file__).parents[1] / "docs"
COMMAND = [sys.executable, "-m", "fusion_diff"]
WIDE, SHOWN = 1376, 1100
"""Width of the browser's window, and of a page's picture, in pixels."""
PATIENCE = 120_000  # milliseconds
LOTS = {"alumina": 0, "zirconia": 3}
"""The lot drawn of each material."""


def draw(file: Path, seed: int, flaw: str, material: str, side: int) -> NDArray[np.bool_]:
    """Write a procedural micrograph with its pixel size, and return where its flaw is."""
    drawn = generate(seed, size=side, material=material, flaw=flaw, lot=LOTS[material])
    file.parent.mkdir(parents=True, exist_ok=True)
    levels = np.rint(2000 + 50000 * drawn.pixels).astype(np.uint16)
    density = 1e4 / drawn.pixel_size_um
    tifffile.imwrite(file, levels, resolution=(density, density), resolutionunit="CENTIMETER")
    return drawn.mask != 0


def picture_report(page: Page, folder: Path) -> None:
    """Take the picture of the first verdict in the demo's report."""
    done = subprocess.run([*COMMAND, "demo"], cwd=folder, check=False)
    if done.returncode > 2:  # 1 and 2 are verdicts
        sys.exit("the demo did not run to its end")
    page.goto((folder / "report" / "demo" / "index.html").as_uri())
    page.locator("#m1").scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    page.locator("#m1").screenshot(path=folder / "report.png")
    Image.open(folder / "report.png").convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(
        DOCS / "report.png", optimize=True
    )


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a model that knows sound and cracked ceramics, and give the address."""
    references, masks = folder / "references", folder / "references" / "masks" / "crack"
    masks.mkdir(parents=True)
    for index in range(10):
        draw(references / "sound" / f"sound-{index}.tif", 100 + index, "sound", "zirconia", 384)
        flaw = draw(references / "crack" / f"crack-{index}.tif", 200 + index, "crack", "zirconia", 384)
        Image.fromarray(flaw).save(masks / f"crack-{index}.png")
    model = DiffusionModel.from_pretrained()
    model.enroll(ReferenceSet.from_folder(references, authentic="sound", groups=r"^(.+)\.tif$"))
    model.name = "line-7"
    model.save_pretrained(folder / "line-7")
    words = [*COMMAND, "serve", "--model", "line-7", "--data", "data", "--insecure", "--port", "0"]
    log = folder / "service.log"
    with log.open("w") as output, subprocess.Popen(words, cwd=folder, stdout=output, stderr=output) as service:
        try:
            while not (found := re.search(r"running on (http://[^ ]+)", log.read_text())):
                if service.poll() is not None:
                    sys.exit("the service does not start")
                time.sleep(0.1)
            yield found[1]
        finally:
            service.terminate()


def picture_pages(page: Page, folder: Path, address: str) -> None:
    """Take the pictures of a verdict, the history and the page where flaws are marked."""

    def take(name: str, height: int) -> None:
        page.set_viewport_size({"width": WIDE, "height": height})
        page.wait_for_timeout(800)
        page.screenshot(path=folder / "page.png")
        shot = Image.open(folder / "page.png").convert("RGB")
        size = SHOWN, round(shot.height * SHOWN / shot.width)
        shot.resize(size, Image.Resampling.LANCZOS).save(DOCS / "service" / f"{name}.webp", quality=82, method=6)

    for count, flaw, seed in ((12, "sound", 300), (6, "crack", 400)):
        for index in range(count):
            draw(folder / "new" / f"{flaw}-{index + 1:02}.tif", seed + index, flaw, "zirconia", 384)
    page.goto(address)
    page.get_by_label("Choose a folder").set_input_files(folder / "new")
    page.get_by_text("18 of 18 done").wait_for()
    page.locator("#rows").get_by_role("link", name="crack-04.tif").click()
    page.locator("#viewer.ready").wait_for()
    page.reload()
    page.locator("#viewer.ready").wait_for()
    take("verdict", 1190)

    page.goto(f"{address}/history")
    page.locator("figure.chart").nth(1).wait_for()
    take("history", 1022)

    flaw = draw(folder / "C01_1.tif", 200, "crack", "alumina", 224)
    page.goto(f"{address}/references")
    page.get_by_label("Name").fill("line 7, alumina")
    page.get_by_label("Authentic class").fill("sound")
    page.get_by_role("button", name="Create").click()
    page.wait_for_url("**/references/*")
    page.get_by_label("Class", exact=True).fill("crack")
    page.get_by_label("Choose files").set_input_files(folder / "C01_1.tif")
    page.get_by_role("button", name="Add 1 reference").click()
    page.get_by_label("Mark flaw: C01_1.tif").click()
    page.locator("#easel.ready").wait_for()
    page.set_viewport_size({"width": WIDE, "height": 1048})
    page.reload()
    page.locator("#easel.ready").wait_for()
    page.locator("#size").fill("24")
    box = page.locator("canvas.paint").bounding_box()
    assert box is not None
    rows, columns = np.nonzero(flaw)
    scale = box["width"] / flaw.shape[1]
    places = [(float(columns[rows == row].mean()), float(row)) for row in np.unique(rows)[::3]]
    for index, (column, row) in enumerate(places):
        page.mouse.move(box["x"] + (column + 0.5) * scale, box["y"] + (row + 0.5) * scale)
        if index == 0:
            page.mouse.down()
    page.mouse.up()
    page.mouse.move(5, 5)
    take("references", 1048)


def main() -> int:
    """Make all pictures."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no Chromium is on the path; install one")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as driver:
        folder = Path(temporary)
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1180, "height": 1000}, color_scheme="light")
        page.set_default_timeout(PATIENCE)
        picture_report(page, folder)
        page.set_viewport_size({"width": WIDE, "height": 1346})
        with served(folder) as address:
            picture_pages(page, folder, address)
        chromium.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
