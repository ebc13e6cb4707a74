"""On a phone: the verdict before all else, two pictures a row, and nothing that matters beyond the edge."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fusion_diff.inspection.audit_report import write_audit
from fusion_diff.inspection.report import write_report
from fusion_diff.inspection.run import Outcome
from fusion_diff.micrograph import Micrograph
from fusion_diff.references import ReferenceSet
from fusion_diff.trust.poisoning import Finding
from fusion_diff.verdict.result import NearestReference

pytestmark = pytest.mark.slow
WIDE = 360


@pytest.fixture
def phone(served, enrolled_folder, open_page, micrograph, tmp_path):
    """A page as wide as a phone, on a service with twelve verdicts, and the address of one of them."""
    address = served(data=tmp_path, model=str(enrolled_folder), insecure=True)
    page = open_page(address)
    page.set_viewport_size({"width": WIDE, "height": 740})
    page.goto("/")
    files = [
        {"name": f"lot_0368x0152_{seed}.tif", "mimeType": "image/tiff", "buffer": micrograph("coarse", 100 + seed)}
        for seed in range(12)
    ]
    page.get_by_label("Choose files").set_input_files(files)
    page.get_by_text("12 of 12 done").wait_for()
    return page, page.locator("#rows a").first.get_attribute("href")


def shoot(page, name: str) -> None:
    """Take a picture where FUSION_DIFF_SCREENSHOTS names a folder."""
    if folder := os.environ.get("FUSION_DIFF_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def box(page, selector: str) -> dict[str, float]:
    return page.locator(selector).first.bounding_box()


def test_what_matters_is_inside_of_a_narrow_screen(phone):
    page, verdict = phone
    badge = box(page, "#rows .badge")
    assert badge["x"] + badge["width"] <= WIDE, "the decision in the list of a lot"

    page.goto(verdict)
    page.locator("#viewer.ready").wait_for()
    shoot(page, "narrow-verdict")
    assert box(page, ".sheet.tone")["y"] < box(page, "#viewer")["y"]
    first, second = (page.locator(".pictures li").nth(place).bounding_box() for place in range(2))
    assert first["y"] == second["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDE

    page.goto("/history")
    page.locator("figure.chart").nth(1).wait_for()
    shoot(page, "narrow-history")
    badge = box(page, "section[aria-label=Inspections] .badge")
    assert badge["x"] + badge["width"] <= WIDE, "the decision in the history"
    score = box(page, "section[aria-label=Inspections] td.n .n")
    assert score["x"] + score["width"] <= WIDE, "and the score"
    chart = box(page, ".chart svg")
    assert chart["width"] >= 480, "it can be read"
    assert abs(chart["x"] + chart["width"] - WIDE) < 60, "and shows the newest first"
    for label in page.locator(".chart text").all():
        place = label.bounding_box()
        assert 0 <= place["x"] <= place["x"] + place["width"] <= WIDE, f"{label.text_content()} is in view"
    for address in ("/", "/references", "/history"):
        page.goto(address)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDE, address


CUT_OFF = """tables => tables.filter(
  (each) => each.getBoundingClientRect().right > innerWidth && !each.closest(".scroll, .sheet")
).length"""


def test_reports_are_inside_of_a_narrow_screen(browser, make_inspection, tmp_path):
    nearest = NearestReference("lots-2024/shard_of_batch_4711_view_2.png", "not_fired_long_enough_in_kiln_3", 0.987)
    report = write_report([Outcome(Path("a.tif"), make_inspection(nearest=(nearest,)))], tmp_path)
    references = ReferenceSet.from_micrographs(
        [Micrograph.from_array(factor * np.arange(32 * 48).reshape(32, 48) % 251) for factor in (3, 7)],
        ["sound", "crack"],
        authentic="sound",
    )
    audit = write_audit([Finding(0, references[0].name, "sound", "label", 2.0, "is like cracks")], references, tmp_path)
    page = browser.new_page(viewport={"width": WIDE, "height": 740})
    for path in (report, audit):
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDE, path.name
        assert page.eval_on_selector_all("table", CUT_OFF) == 0, path.name
    page.close()


def test_on_paper_the_record_of_a_report_lies_below_both_columns(browser, make_inspection, tmp_path):
    report = write_report([Outcome(Path("a.tif"), make_inspection())], tmp_path)
    page = browser.new_page(viewport={"width": 720, "height": 900})
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    whole, record = box(page, ".body"), box(page, ".record")
    assert (record["x"], record["width"]) == (whole["x"], whole["width"])
    page.close()
