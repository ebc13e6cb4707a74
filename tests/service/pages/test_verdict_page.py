"""The page of a verdict in a browser: regions and colours of the map, and an overruling seen and made once."""

from __future__ import annotations

import httpx2
import pytest

expect = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed").expect
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judged(shared_address, draw, tiff):
    """The id of a verdict with regions at the upper and the right edge, and more than are listed at first."""
    pixels = draw("fine", 1, 700)
    for row, column in ((0, 0), (0, 340), (0, 670), (340, 670), (340, 340), (670, 0)):
        pixels[row : row + 30, column : column + 30] //= 4
    answer = httpx2.post(f"{shared_address}/v1/inspections", files={"files": ("a.tif", tiff(pixels))}, timeout=120)
    return answer.json()["results"][0]["inspection"]["id"]


@pytest.fixture
def verdict(shared_address, open_page, judged):
    """Its page."""
    page = open_page(shared_address)
    page.goto(f"/inspections/{judged}")
    page.locator("#viewer.ready").wait_for()
    return page


def test_an_overruling_is_seen_and_a_second_click_makes_no_second_one(verdict):
    page = verdict
    page.set_viewport_size({"width": 1000, "height": 400})
    other = "not authentic" if page.locator("#decided .not-authentic").count() == 0 else "authentic"
    page.get_by_role("radio", name=other, exact=True).check()
    page.get_by_label("Reason").fill("a scratch from polishing")
    button = page.get_by_role("button", name="Overrule")
    button.click()
    page.locator("#decided").get_by_text("a scratch from polishing").wait_for()
    expect(page.locator("#decided")).to_be_in_viewport()
    expect(page.get_by_label("Reason")).to_have_value("")
    button.click()
    expect(page.get_by_role("radio", name="authentic", exact=True), "a decision is missing").to_be_focused()
    page.reload()
    assert "Earlier overrulings" not in page.locator("#decided").inner_text()


def test_numbers_of_regions_lie_inside_of_the_micrograph(verdict):
    page, rim = verdict, 3  # a box holds the rim of the digits
    for size in ({"width": 1360, "height": 900}, {"width": 390, "height": 800}):
        page.set_viewport_size(size)
        page.get_by_role("button", name="Fit").click()
        edge = page.locator(".viewer").bounding_box()
        numbers = page.locator(".outlines text").all()
        assert numbers
        for number in numbers:
            box = number.bounding_box()
            assert box["x"] >= edge["x"] - rim, number.text_content()
            assert box["y"] >= edge["y"] - rim, number.text_content()
            assert box["x"] + box["width"] <= edge["x"] + edge["width"] + rim, number.text_content()


def test_ten_regions_are_listed_and_the_others_when_asked_for(verdict):
    page = verdict
    listed = page.locator("[data-go]")
    assert listed.count() > 10
    expect(listed.nth(9)).to_be_visible()
    expect(listed.nth(10)).to_be_hidden()
    page.locator("summary", has_text=f"{listed.count() - 10} weaker region").click()
    listed.nth(10).click()
    expect(page.locator(".outlines .chosen text")).to_have_text("11")


def test_the_legend_is_as_faint_as_the_map_and_colours_are_the_maps(verdict):
    page = verdict
    opacity = "element => getComputedStyle(element).opacity"
    for value in ("60", "20"):
        page.locator("#opacity").fill(value)
        for what in (".heat", ".ramp"):
            assert page.locator(what).evaluate(opacity) == f"0.{value[0]}"
    for value, grey in (("0", 0), ("1", 1), ("60", 1)):
        page.locator("#opacity").fill(value)
        assert page.locator(".whole").evaluate("it => getComputedStyle(it).filter") == f"grayscale({grey})"
    expect(page.locator(".heatscale")).to_contain_text("Colours scaled to this micrograph")


def test_the_viewer_is_announced_as_what_takes_keys(verdict):
    expect(verdict.get_by_role("application", name="Micrograph a.tif. Arrow keys move")).to_have_count(1)
