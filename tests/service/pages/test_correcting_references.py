"""References corrected in a browser: one by one or several at once, and where the keyboard's focus is afterwards."""

from __future__ import annotations

import pytest

expect = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed").expect
pytestmark = pytest.mark.slow
NAMES = ("1.tif", "2.tif", "3.tif")


@pytest.fixture
def collected(shared_address, open_page, micrograph, request):
    """The page of a set whose three `fine` references were added as `crack`; `fine` is authentic."""
    page = open_page(shared_address)
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto("/references")
    page.get_by_label("Name").fill(request.node.name)
    page.get_by_label("Authentic class").fill("fine")
    page.get_by_role("button", name="Create").click()
    page.wait_for_url("**/references/*")
    files = [{"name": name, "mimeType": "image/tiff", "buffer": micrograph("fine", int(name[0]))} for name in NAMES]
    page.get_by_label("Class", exact=True).fill("crack")
    page.get_by_label("Choose files").set_input_files(files)
    page.get_by_role("button", name="Add 3 references").click()
    of_class(page, "crack").nth(2).wait_for()
    return page


def of_class(page, label):
    return page.locator(f"section[aria-label='Class {label}'] li")


def expect_focus(page, beginning: str) -> None:
    """Wait until what is focused is labelled, or reads, like this: what was swapped settles after it is there."""
    focused = "(document.activeElement.ariaLabel || document.activeElement.innerText).trim()"
    page.wait_for_function(f"beginning => {focused}.startsWith(beginning)", arg=beginning)


def test_all_of_a_class_are_moved_to_another_at_once_and_some_removed(collected):
    page = collected
    page.get_by_label("Select all of class crack").check()
    page.get_by_text("3 references selected").wait_for()
    page.get_by_label("Move to class").fill("fine")
    page.get_by_role("button", name="Move", exact=True).click()
    of_class(page, "fine").nth(2).wait_for()
    expect(of_class(page, "crack")).to_have_count(0)
    expect_focus(page, "fine")  # the heading of the class that they are in
    expect(page.locator("#chosen")).to_be_hidden()
    for name in NAMES[:2]:
        page.get_by_role("checkbox", name=name).check()
    assert page.get_by_label("Select all of class fine").evaluate("box => box.indeterminate")
    with page.expect_event("dialog") as asked:
        page.get_by_role("button", name="Remove selected").click()
    assert asked.value.message == "Remove 2 references from the set?"
    of_class(page, "fine").filter(has_text="1.tif").wait_for(state="detached")
    expect(of_class(page, "fine")).to_have_count(1)


def test_class_specimen_and_pixel_size_of_one_are_corrected_and_taken_back(collected):
    page = collected
    for specimen, pixel_size in (("A12", "0.24"), ("", "")):
        page.get_by_label("Edit: 2.tif").click()
        page.get_by_label("Class of 2.tif").fill("pore")
        page.get_by_label("Specimen of 2.tif").fill(specimen)
        page.get_by_label("Pixel size of 2.tif").fill(pixel_size)
        with page.expect_response("**/images/*"):
            page.get_by_role("button", name="Save", exact=True).click()
        page.locator("summary:focus[aria-label='Edit: 2.tif']").wait_for()
        told = of_class(page, "pore").inner_text()
        assert ("specimen A12" in told) == bool(specimen)
        assert ("0.240 µm/pixel" in told) == bool(pixel_size)


def test_the_focus_stays_among_the_references_when_one_is_removed(collected):
    page = collected
    for name, then in (("2.tif", "Remove: 3.tif"), ("3.tif", "Remove: 1.tif"), ("1.tif", "No references yet")):
        page.get_by_label(f"Remove: {name}").focus()
        page.keyboard.press("Enter")
        page.get_by_label(f"Remove: {name}").wait_for(state="detached")
        expect_focus(page, then)


def test_what_went_wrong_is_said_until_somebody_does_something_else(collected, micrograph):
    page = collected
    set_id = page.url.rpartition("/")[2]
    added = page.request.post(
        f"/v1/reference-sets/{set_id}/images",
        multipart={
            "label": "fine",
            "files": {"name": "a.tif", "mimeType": "image/tiff", "buffer": micrograph("fine", 9)},
        },
    )
    assert added.ok
    page.get_by_role("button", name="Enrol", exact=True).click()
    page.locator("#enrolled progress").wait_for()
    notice = page.locator("#notice").get_by_text("the disk is full")
    with page.expect_response("**/references/jobs/*"):
        page.evaluate("import('/static/http.js').then(({ notify }) => notify('the disk is full'))")
        notice.wait_for()
    assert notice.is_visible(), "the page asks how far the job is"
    page.get_by_label("Remove: 1.tif").click()
    notice.wait_for(state="detached")
    page.locator("#enrolled article.model, #enrolled .notice").wait_for()
