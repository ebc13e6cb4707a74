"""The whole story in a browser: enrol with a brushed mark, inspect, overrule, learn again, export."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from fusion_diff.service import keys
from fusion_diff.service.database import Database
from fusion_diff.synthetic import generate

expect = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed").expect
pytestmark = pytest.mark.slow
SHOTS = 5
PATIENCE = 240_000
"""Milliseconds that learning may take."""


def draw(folder: Path, name: str, seed: int, flaw: str, *, size: int = 224, blur: float = 0.0) -> np.ndarray:
    """Write a procedural micrograph as a 16-bit TIFF with its pixel size, and return where its flaw is."""
    drawn = generate(seed, size=size, material="alumina", flaw=flaw, lot=0)
    pixels = gaussian_filter(drawn.pixels, blur) if blur else drawn.pixels
    per_cm = 1e4 / drawn.pixel_size_um
    levels = np.rint(2000 + 50000 * pixels).astype(np.uint16)
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / name, levels, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER")
    return drawn.mask != 0


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Folders of references, of micrographs to inspect, and the mask of a crack."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(SHOTS):
        draw(folder / "sound", f"sound {index}.tif", 100 + index, "sound")
        mask = draw(folder / "crack", f"crack {index}.tif", 200 + index, "crack")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"mask {index}.png")
    for index in range(24):
        flaw = "crack" if index in (6, 13) else "sound"
        draw(folder / "lot 7", f"{index:02}.tif", 300 + index, flaw, blur=max(0, index - 16) / 6)
    (folder / "lot 7" / "broken.tif").write_bytes(b"II*\0 and then nothing")
    (folder / "lot 7" / "notes.txt").write_text("not an image")
    draw(folder, "deep.tif", 405, "crack", size=656)
    return folder


@pytest.fixture
def shoot():
    """Takes pictures of pages, light and dark, into the folder that FUSION_DIFF_SCREENSHOTS names; none without it."""
    folder = os.environ.get("FUSION_DIFF_SCREENSHOTS")

    def take(page, name: str) -> None:
        if not folder:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        for scheme, ending in (("dark", "-dark"), ("light", "")):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=f"{folder}/{name}{ending}.png", full_page=True)

    return take


def brush(page, mask: np.ndarray) -> None:
    """Paint over a flaw, point by point."""
    paint = page.locator("canvas.paint")
    page.locator("#easel.ready").wait_for()
    box = paint.bounding_box()
    rows, columns = np.nonzero(mask)
    order = np.argsort(rows * 3 + columns)[:: max(1, len(rows) // 60)]
    page.locator("#size").fill("24")
    for place in order:
        x = box["x"] + (columns[place] + 0.5) / mask.shape[1] * box["width"]
        y = box["y"] + (rows[place] + 0.5) / mask.shape[0] * box["height"]
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.up()


def test_a_laboratory_enrols_inspects_overrules_learns_again_and_exports(address, open_page, pictures, shoot, tmp_path):
    page = open_page(address)
    page.goto("/references")
    page.get_by_label("Name").fill("line 7")
    page.get_by_label("Authentic class").fill("sound")
    page.get_by_role("button", name="Create").click()
    page.wait_for_url("**/references/*")
    for label in ("sound", "crack"):
        page.get_by_label("Class", exact=True).fill(label)
        page.get_by_label("Choose a folder").set_input_files(pictures / label)
        page.get_by_role("button", name=f"Add {SHOTS} references").click()
        page.locator(f"section[aria-label='Class {label}'] li").nth(SHOTS - 1).wait_for()

    page.get_by_label("Mark flaw: crack/crack 0.tif").click()
    mask = np.asarray(Image.open(pictures / "mask 0.png")) > 0
    brush(page, mask)
    shoot(page, "brush")
    page.get_by_role("button", name="Save mark").click()
    page.wait_for_url("**/references/*")
    for index in range(1, SHOTS):
        page.get_by_label(f"Mark flaw: crack/crack {index}.tif").click()
        page.get_by_label("Mask file").set_input_files(pictures / f"mask {index}.png")
        page.get_by_role("button", name="Upload").click()
        page.get_by_text("flaw marked").nth(index).wait_for()
    drawn = Image.open(fetched(page, page.locator("img.marked").first.get_attribute("src"), tmp_path / "mark.png"))
    painted = np.asarray(drawn) > 0
    assert painted.shape == mask.shape
    assert painted[mask].mean() > 0.9
    assert painted.mean() < 0.5

    page.get_by_role("button", name="Start audit").click()
    page.locator("#audit .ok, #audit .findings").wait_for(timeout=PATIENCE)
    page.get_by_label("make it the default model").check()
    page.get_by_role("button", name="Enrol", exact=True).click()
    page.locator("#enrolled").get_by_text(f"of {2 * SHOTS}").wait_for()
    page.reload()
    # Where learning has ended meanwhile, its model is in the list.
    learned = page.locator("#enrolled, [aria-labelledby=enrolled-title]")
    learned.get_by_text("AUROC, cross-fitted").wait_for(timeout=PATIENCE)
    shoot(page, "references")

    page.get_by_role("link", name="Inspect", exact=True).click()
    page.get_by_label("Error rate").fill("0.3")
    page.get_by_label("Choose a folder").set_input_files(pictures / "lot 7")
    page.get_by_text("1 file that is not an image was skipped").wait_for()
    page.get_by_label("Choose files").set_input_files(pictures / "deep.tif")
    page.get_by_text("26 of 26 done").wait_for(timeout=PATIENCE)
    failed = page.locator("#rows tr[data-outcome=failed]")
    expect(failed).to_have_count(1)
    expect(failed).to_contain_text("broken.tif")
    shoot(page, "inspect")

    page.locator("#rows").get_by_role("link", name="deep.tif").click()
    page.locator("#viewer.ready").wait_for()
    expect(page.locator(".scalebar .label")).to_contain_text("µm")
    shoot(page, "verdict")
    if page.locator("[data-go]").count():
        page.locator("[data-go]").first.click()
        expect(page.locator(".outlines .chosen")).to_have_count(1)
    page.get_by_role("button", name="Native pixels").click()
    expect(page.locator("#zoom")).to_have_text("100 %")
    page.locator(".tiles img").first.wait_for()
    expect(page.locator(".tiles img").first).to_have_js_property("naturalWidth", 656)
    page.locator("#viewer").focus()
    page.keyboard.press("0")
    expect(page.locator("#zoom")).not_to_have_text("100 %")

    page.get_by_role("radio", name="authentic", exact=True).check()
    page.get_by_label("Reason").fill("a scratch from polishing, not a crack")
    page.get_by_role("button", name="Overrule").click()
    page.locator("#decided").get_by_text("a scratch from polishing").wait_for()
    colour = page.locator("#decided .big .badge").evaluate("badge => getComputedStyle(badge).color")
    card = page.locator(".sheet.tone").evaluate("card => getComputedStyle(card).borderTopColor")
    assert card == colour, "the colour of the decision in force"
    page.get_by_label("Class", exact=True).fill("sound")
    page.get_by_role("button", name="Add to references").click()
    page.locator("#added").get_by_role("link", name="line 7").click()
    page.locator("section[aria-label='Class sound'] li").nth(SHOTS).wait_for()
    page.get_by_role("button", name="Enrol", exact=True).click()
    page.locator("#enrolled").get_by_text("AUROC, cross-fitted").wait_for(timeout=PATIENCE)
    expect(page.locator("#enrolled")).to_contain_text(f"sound {SHOTS + 1}")

    page.get_by_role("link", name="History", exact=True).click()
    page.locator("figure.chart").nth(1).wait_for(timeout=PATIENCE)
    shoot(page, "history")
    page.get_by_label("Overruled").select_option("yes")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**/history?*overruled=yes*")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export CSV").click()
    with Path(download.value.path()).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["overruled_decision"]) for row in rows] == [("deep.tif", "authentic")]
    assert rows[0]["overruled_reason"] == "a scratch from polishing, not a crack"


def test_whoever_signs_in_marks_by_keyboard_and_has_every_file_inspected_however_busy_the_service(
    served, whole_folder, open_page, micrograph, tmp_path
):
    database = Database(f"sqlite:///{tmp_path / 'records.db'}")
    with database.write() as session:
        key = keys.new_key(session, "Dr. Müller", ["read", "inspect", "enrol"])
    database.close()
    files = [{"name": f"{seed}.tif", "mimeType": "image/tiff", "buffer": micrograph("fine", seed)} for seed in range(6)]
    address = served(data=tmp_path, model=str(whole_folder), queue_length=1)
    page = open_page(address, tolerated="429")
    page.goto("/references")
    page.get_by_label("API key").fill("fdk_of_somebody_else")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("the API key is not valid").wait_for()
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/references")
    page.get_by_text("Dr. Müller").wait_for()

    page.get_by_label("Name").fill("line 8")
    page.get_by_label("Authentic class").fill("fine")
    page.get_by_role("button", name="Create").click()
    page.get_by_label("Class", exact=True).fill("coarse")
    page.get_by_label("Choose files").set_input_files(files[0])
    page.get_by_role("button", name="Add 1 reference").click()
    page.get_by_label("Mark flaw: 0.tif").click()
    page.locator("#easel.ready").wait_for()
    page.get_by_role("button", name="Save mark").click()
    page.get_by_text("nothing is marked yet").wait_for()
    page.locator("canvas.paint").focus()
    for stroke in (" ", "ArrowLeft", " ", "ArrowDown", " ", "Control+z"):
        page.keyboard.press(stroke)
    page.get_by_role("button", name="Save mark").click()
    page.get_by_text("flaw marked").wait_for()
    mark = np.asarray(Image.open(fetched(page, page.locator("img.marked").get_attribute("src"), tmp_path / "m.png")))
    rows, columns = np.nonzero(mark)
    assert 0 < len(rows) < mark.size / 4
    assert np.ptp(columns) > np.ptp(rows), "two strokes beside one another; the third was taken back"

    page.get_by_role("link", name="Inspect", exact=True).click()
    page.get_by_label("Choose files").set_input_files(files)
    drop(page, "dropped.tif")
    page.get_by_text("7 of 7 done").wait_for(timeout=PATIENCE)
    expect(page.locator("#rows tr[data-outcome]:not([data-outcome=failed])")).to_have_count(6)
    expect(page.locator("#rows tr[data-outcome=failed]")).to_contain_text("dropped.tif: ")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")


def test_what_is_pressed_before_the_scripts_have_come_is_done_when_they_have(address, open_page):
    page = open_page(address)
    release = hold(page, "htmx.min.js")
    page.goto("/references", wait_until="commit")
    page.get_by_label("Name").fill("line 9")
    page.get_by_label("Authentic class").fill("sound")
    page.get_by_role("button", name="Create").click()
    assert page.url.endswith("/references"), "the browser sent the form by itself"
    release()
    page.wait_for_url("**/references/*")
    page.get_by_role("heading", name="line 9").wait_for()


def test_what_is_dropped_before_the_scripts_have_come_is_inspected_when_they_have(address, open_page):
    page = open_page(address)
    release = hold(page, "uploads.js")
    page.goto("/", wait_until="commit")
    drop(page, "early.tif")
    expect(page.locator("#rows tr")).to_have_count(0)
    release()
    page.get_by_text("1 of 1 done · 1 not inspected").wait_for()
    expect(page.locator("#rows tr[data-outcome=failed]")).to_contain_text("early.tif: ")


def hold(page, script: str) -> Callable[[], None]:
    """Hold a script back, and return what lets it go: once the browser has asked for it."""
    held = []
    page.route(f"**/{script}", lambda route: held.append(route), times=1)

    def release() -> None:
        while not held:
            page.wait_for_timeout(20)
        held.pop().continue_()

    return release


def drop(page, name: str) -> None:
    """Drop a file that is no image on the page."""
    dropped = page.evaluate_handle(
        "name => { const all = new DataTransfer(); all.items.add(new File(['nothing'], name)); return all; }", name
    )
    page.locator("[data-drop]").dispatch_event("drop", {"dataTransfer": dropped})


def fetched(page, address: str, file: Path) -> Path:
    """Save what the service gives to the browser."""
    file.write_bytes(page.request.get(address).body())
    return file


def test_the_list_of_a_lot_is_there_after_a_look_at_its_verdicts_until_it_is_cleared(
    served, enrolled_folder, open_page, micrograph, tmp_path
):
    files = [{"name": f"{seed}.tif", "mimeType": "image/tiff", "buffer": micrograph("fine", seed)} for seed in range(3)]
    files.append({"name": "broken.tif", "mimeType": "image/tiff", "buffer": b"II*\0 and then nothing"})
    address = served(data=tmp_path, model=str(enrolled_folder), insecure=True)
    page = open_page(address)
    page.goto("/")
    page.get_by_label("Choose files").set_input_files(files)
    page.get_by_text("4 of 4 done").wait_for(timeout=PATIENCE)
    page.locator("#rows").get_by_role("link", name="0.tif").click()
    lot = page.get_by_role("navigation", name="The lot")
    lot.get_by_text("1 of 3").wait_for()
    expect(lot.get_by_role("link", name="Previous")).to_be_hidden()
    lot.get_by_role("link", name="Next").click()
    lot.get_by_text("2 of 3").wait_for()
    page.get_by_role("heading", name="1.tif").wait_for()
    page.get_by_role("radio", name="not authentic").check()
    page.get_by_label("Reason").fill("a crack")
    page.get_by_role("button", name="Overrule").click()
    page.locator("#decided").get_by_text("a crack").wait_for()
    page.go_back()
    page.go_back()
    page.get_by_text("4 of 4 done").wait_for()
    expect(page.locator("#rows tr .name")).to_have_count(4)
    names = page.locator("#rows tr .name").all_inner_texts()
    assert sorted(names) == ["0.tif", "1.tif", "2.tif", "broken.tif"]
    expect(page.locator("#rows tr[data-outcome=failed] .why")).to_contain_text("broken.tif: ")
    expect(page.locator("#rows tr", has_text="1.tif")).to_contain_text("overruled")
    page.get_by_label("Choose files").set_input_files(files[:1])
    page.get_by_text("5 of 5 done").wait_for(timeout=PATIENCE)
    page.get_by_role("button", name="Clear list").click()
    page.get_by_role("heading", name="Latest").wait_for()
    page.reload()
    page.get_by_role("heading", name="Latest").wait_for()
    expect(page.locator("#rows tr")).to_have_count(0)
