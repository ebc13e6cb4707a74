"""The brush in a browser: what is painted is not lost unasked, and the keyboard's cursor stays in view."""

from __future__ import annotations

import pytest

expect = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed").expect
pytestmark = pytest.mark.slow
MIDDLE = """easel => [
    (easel.scrollLeft + easel.clientWidth / 2) / easel.scrollWidth,
    (easel.scrollTop + easel.clientHeight / 2) / easel.scrollHeight,
]"""


@pytest.fixture
def easel(address, open_page, draw, tiff):
    """The page on which a reference of 700 × 700 pixels is marked."""
    page = open_page(address)
    made = page.request.post("/v1/reference-sets", data={"name": "line 7", "authentic": "fine"}).json()["id"]
    file = {"name": "a.tif", "mimeType": "image/tiff", "buffer": tiff(draw("coarse", 1, 700))}
    added = page.request.post(f"/v1/reference-sets/{made}/images", multipart={"label": "crack", "files": file})
    page.goto(f"/references/{made}/images/{added.json()['results'][0]['reference']['id']}")
    page.locator("#easel.ready").wait_for()
    return page


def test_strokes_that_are_not_saved_are_not_left_without_a_question(easel):
    page = easel
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.locator("canvas.paint").click()
    here = page.url
    with page.expect_event("dialog"):
        page.get_by_role("link", name="line 7").click(no_wait_after=True)
    assert page.url == here
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("link", name="line 7").click()
    page.wait_for_url("**/references/*")
    page.get_by_label("Mark flaw: a.tif").click()
    page.locator("#easel.ready").wait_for()
    page.locator("canvas.paint").click()
    page.get_by_role("button", name="Save mark").click()
    page.get_by_text("flaw marked").wait_for()
    assert asked == ["beforeunload"]


def test_the_view_follows_the_cursor_of_the_keyboard_and_keeps_its_middle_when_the_zoom_changes(easel):
    page, view = easel, easel.locator("#easel")
    zoom = page.get_by_label("Zoom")
    zoom.select_option("4")
    assert view.evaluate(MIDDLE) == pytest.approx([0.5, 0.5], abs=0.01)
    page.locator("canvas.paint").focus()
    for way, corner in (("Left", "scrollLeft"), ("Up", "scrollTop")):
        before = view.evaluate(f"easel => easel.{corner}")
        assert before > 0
        for _ in range(80):
            page.keyboard.press(f"Shift+Arrow{way}")
        assert view.evaluate(f"easel => easel.{corner}") == 0
    zoom.select_option("2")
    zoom.select_option("4")
    assert view.evaluate("easel => [easel.scrollLeft, easel.scrollTop]") == [0, 0], "it is where the cursor is"
    view.evaluate("easel => easel.scrollTo(1200, 900)")
    middle = view.evaluate(MIDDLE)
    page.mouse.move(*[view.bounding_box()[side] + 200 for side in ("x", "y")])
    page.mouse.down()
    page.mouse.up()
    zoom.select_option("2")
    assert view.evaluate(MIDDLE) == pytest.approx(middle, abs=0.01)


def test_the_size_of_the_brush_is_told_in_pixels_of_the_micrograph(easel):
    page, told = easel, easel.locator("#size-value")
    page.get_by_label("Zoom").select_option("4")
    page.locator("#size").fill("100")
    expect(told).to_have_text("25 image px")
    page.get_by_label("Zoom").select_option("1")
    expect(told).to_have_text("100 image px")
    expect(page.get_by_role("application", name="Micrograph to paint on")).to_have_count(1)
