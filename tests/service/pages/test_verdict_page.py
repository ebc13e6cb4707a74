"""The page of a verdict in a browser: an overruling is seen and made once."""

from __future__ import annotations

import pytest

expect = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed").expect
pytestmark = pytest.mark.slow


@pytest.fixture
def verdict(address, open_page, micrograph):
    """The page of a verdict."""
    page = open_page(address)
    file = {"name": "a.tif", "mimeType": "image/tiff", "buffer": micrograph("coarse", 1)}
    done = page.request.post("/v1/inspections", multipart={"files": file}).json()["results"][0]["inspection"]
    page.goto(f"/inspections/{done['id']}")
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
