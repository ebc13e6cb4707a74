"""References added in a browser: what a folder says of classes, specimens and masks, told before anything is sent."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

expect = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed").expect
pytestmark = pytest.mark.slow
CRACK = "crack (new class; it counts as not authentic)"


@pytest.fixture
def references(micrograph, tmp_path) -> Path:
    """A folder laid out as the command line takes it."""
    folder = tmp_path / "references"
    for label, kind in (("sound", "fine"), ("crack", "coarse")):
        (folder / label).mkdir(parents=True)
        for seed, name in enumerate(("A12_1", "A12_2", "B03_1")):
            (folder / label / f"{name}.tif").write_bytes(micrograph(kind, seed))
    mask = io.BytesIO()
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(mask, "PNG")
    (folder / "masks" / "crack").mkdir(parents=True)
    for name in ("A12_1", "C99_1"):
        (folder / "masks" / "crack" / f"{name}.png").write_bytes(mask.getvalue())
    return folder


@pytest.fixture
def new_set(shared_address, open_page, request):
    """Begins a set of references, whose authentic class is `sound`, and gives the page that shows it."""
    page = open_page(shared_address)
    page.goto("/references")
    page.get_by_label("Name").fill(request.node.name)
    page.get_by_label("Authentic class").fill("sound")
    page.get_by_role("button", name="Create").click()
    page.wait_for_url("**/references/*")
    return page


def expect_plan(page, *classes: str) -> None:
    """Wait until the plan tells this, class by class: a table in a folder is read after the files were chosen."""
    cells = [cell for row in classes for cell in row.split(" | ")]
    expect(page.locator("[data-plan] tbody td")).to_have_text(cells)


def expect_remark(page, remark: str) -> None:
    """Wait until this is remarked on what was chosen."""
    expect(page.locator("[data-remarks]")).to_contain_text(remark)


def shown(page) -> dict[str, list[dict]]:
    """Return the references of the set by their class, in order of their names."""
    set_id = page.url.rpartition("/")[2]
    images = page.request.get(f"/v1/reference-sets/{set_id}").json()["images"]
    found: dict[str, list[dict]] = {}
    for image in sorted(images, key=lambda image: image["name"]):
        found.setdefault(image["label"], []).append(image)
    return found


def test_a_folder_of_folders_gives_each_image_the_class_of_its_own_and_says_so_before(new_set, references):
    page = new_set
    page.get_by_label("Class", exact=True).fill("sound")
    (references / "loose.tif").write_bytes((references / "sound" / "A12_1.tif").read_bytes())
    page.get_by_label("Choose a folder").set_input_files(references)
    expect_plan(page, f"{CRACK} | 3, 1 with a mask | each its own", "sound (authentic) | 3 | each its own")
    for remark in ("1 image skipped: not directly in a folder named after a class", "1 mask skipped", "C99_1.png"):
        expect_remark(page, remark)
    assert shown(page) == {}, "nothing is sent before it was looked at"
    page.get_by_role("button", name="Add 6 references").click()
    page.get_by_text("6 of 6 done · 6 added").wait_for()
    expect(page.locator("#rows tr")).to_have_count(0)  # they are in the set below
    found = shown(page)
    assert {label: len(images) for label, images in found.items()} == {"crack": 3, "sound": 3}
    assert [image["marked"] for image in found["crack"]] == [True, False, False]
    expect(page.locator("[data-plan]")).to_be_hidden()


def test_a_folder_of_folders_has_one_class_where_that_is_asked_for(new_set, references):
    page = new_set
    page.get_by_label("Class", exact=True).fill("")
    page.get_by_label("Choose a folder").set_input_files(references)
    expect(page.locator("[data-plan] tbody tr")).to_have_count(2)
    page.get_by_label("Class of each").select_option("typed")
    page.get_by_role("button", name="Add 6 references").click()
    expect(page.locator("#label"), "the class is missing").to_be_focused()
    page.get_by_label("Class", exact=True).fill("pore")
    expect_plan(page, "pore (new class; it counts as not authentic) | 6, 1 with a mask | each its own")
    page.get_by_role("button", name="Discard").click()
    expect(page.locator("[data-plan]")).to_be_hidden()


def test_specimens_are_taken_from_names_and_seen_before(new_set, references):
    page = new_set
    files = sorted((references / "sound").iterdir())
    page.get_by_label("Choose files").set_input_files(files)
    page.get_by_label("Specimen", exact=True).select_option("before")
    expect_plan(page, "sound (authentic) | 3 | 2: A12, B03")
    page.get_by_label("Specimen", exact=True).select_option("pattern")
    page.get_by_label("Pattern").fill("([")
    expect_remark(page, "one (…) around the specimen")
    page.get_by_label("Pattern").fill("^(A.*)_")
    expect_remark(page, "No specimen found in 1 of 3 names: B03_1.tif")
    page.get_by_role("button", name="Add 3 references").click()
    expect(page.locator("#pattern"), "it is not taken").to_be_focused()
    page.get_by_label("Pattern").fill(r"_(\d)\.")
    expect_plan(page, "sound (authentic) | 3 | 2: 1, 2")
    page.get_by_role("button", name="Add 3 references").click()
    page.get_by_text("3 of 3 done · 3 added").wait_for()
    assert [image["group"] for image in shown(page)["sound"]] == ["1", "2", "1"]
    page.get_by_label("Choose files").set_input_files(sorted((references / "crack").iterdir()))
    page.get_by_label("Class", exact=True).fill("crack")
    page.get_by_label("Specimen", exact=True).select_option("one")
    page.get_by_label("Name of the specimen").fill("C07")
    expect_plan(page, f"{CRACK} | 3 | 1: C07")
    page.get_by_role("button", name="Add 3 references").click()
    page.get_by_text("6 of 6 done · 6 added").wait_for()
    assert {image["group"] for image in shown(page)["crack"]} == {"C07"}


def test_a_class_that_differs_from_one_of_the_set_in_case_alone_is_asked_about(new_set, references):
    page = new_set
    page.get_by_label("Choose files").set_input_files(sorted((references / "sound").iterdir()))
    page.get_by_label("Class", exact=True).fill("Sound")
    expect_plan(page, "Sound (new class; it counts as not authentic) | 3 | each its own")
    expect_remark(page, "Class Sound: did you mean sound?")
    page.get_by_label("Class", exact=True).fill("sound")
    expect(page.locator("[data-remarks]")).to_be_empty()
    page.get_by_label("Class", exact=True).fill("crack")
    expect_plan(page, f"{CRACK} | 3 | each its own")
    page.get_by_role("button", name="Add 3 references").click()
    page.get_by_role("heading", name="crack 3").wait_for()
    page.get_by_label("Choose files").set_input_files(references / "crack" / "B03_1.tif")
    expect_plan(page, "crack | 1 | each its own")


def test_a_table_in_the_folder_tells_the_specimens(new_set, references):
    page = new_set
    rows = [f'{label}/{name}.tif;"plate ""{name[:3]}"""' for label in ("sound", "crack") for name in ("A12_1", "A12_2")]
    (references / "groups.csv").write_text("\ufeff" + "\r\n".join(["file;group", *rows, ""]), encoding="utf-8")
    page.get_by_label("Choose a folder").set_input_files(references)
    expect_plan(page, f'{CRACK} | 3, 1 with a mask | 1: plate "A12"', 'sound (authentic) | 3 | 1: plate "A12"')
    expect(page.get_by_label("Specimen", exact=True)).to_have_value("table")
    expect_remark(page, "has no specimen for 2 of 6 images: references/crack/B03_1.tif")
    page.get_by_role("button", name="Add 6 references").click()
    assert shown(page) == {}, "what names no specimen is not guessed"
    page.get_by_role("button", name="Discard").click()
    rows += [f"{label}\\B03_1.tif;B03" for label in ("sound", "crack")]
    (references / "groups.csv").write_text("\n".join(["file;group", *rows]), encoding="utf-8")
    page.get_by_label("Choose a folder").set_input_files(references)
    expect_plan(
        page, f'{CRACK} | 3, 1 with a mask | 2: plate "A12", B03', 'sound (authentic) | 3 | 2: plate "A12", B03'
    )
    page.get_by_role("button", name="Add 6 references").click()
    page.get_by_text("6 of 6 done · 6 added").wait_for()
    assert [image["group"] for image in shown(page)["crack"]] == ['plate "A12"', 'plate "A12"', "B03"]


def test_a_table_of_excel_names_its_separator_and_names_may_be_in_the_other_form_of_unicode(new_set, references):
    page = new_set
    rows = []
    for path in sorted(references.glob("*/*.tif")):
        form, other = ("NFD", "NFC") if path.parent.name == "sound" else ("NFC", "NFD")
        path.rename(path.with_name(unicodedata.normalize(form, f"Öfen {path.name}")))
        name = unicodedata.normalize(other, f"Öfen {path.name}")
        rows.append(f"{path.parent.name}/{name};{path.name[:3]};,,,")
    (references / "groups.csv").write_text("\r\n".join(["sep=;", "file;group;,,,", *rows]), encoding="utf-8")
    page.get_by_label("Choose a folder").set_input_files(references)
    expect_plan(page, f"{CRACK} | 3 | 2: A12, B03", "sound (authentic) | 3 | 2: A12, B03")


def test_a_table_that_tells_no_specimens_is_said_to_be_wrong(new_set, references):
    page = new_set
    told = {
        b"name,what\nA12_1.tif,A12\n": "Groups.csv: the columns file and group are required, but it has name, what.",
        "file,group\nsound/A12_1.tif,Öfen\n".encode("cp1252"): "the encoding is not UTF-8; save the table as",
        b"file,group\n\n": "the table is empty; add a line for each file.",
        b"file,group,Group\nsound/A12_1.tif,A,B\n": "the column group occurs twice; keep one of them.",
        b"\nfile,group\nsound/A12_1.tif,A,B\n": "line 3: 3 fields, but the header has 2",
        b"file,group\nsound/A12_1.tif,\n": "line 2: the column group is empty; fill it in or remove the line.",
        b'file,group\nsound/A12_1.tif,"A\n': "line 2: a quote is not closed; add the closing quote.",
        b'file,group\nsound/A12_1.tif,"A"12\n': "line 2: a quote ends in the middle of a field",
        b"file,group,class\nsound/A12_1.tif,A,crack\n": "A12_1.tif has the class crack, but lies in the folder sound",
        b"file,group\nsound/A12_1.tif,A\n./sound/A12_1.tif,B\n": "has the specimen B here but A above; keep one.",
        b"file,group,clas\nsound/A12_1.tif,A,sound\n": "unknown column clas (did you mean class?); rename or",
        b"sep=;\nfile;group\nsound/A12_1.tif;\n": "line 3: the column group is empty",
        b"\nfile,group" + b",x" * 99 + b"\n": "line 2: the header has 101 columns, more than 100; keep only the needed",
        b"file,group\n" + b"A12_1.tif,A\n" * 100_001: "line 100002: more than 100,000 files; list only those of the",
        b"file,group\nsound/A12_1.tif,A\0\n": "line 2: a zero byte, so this is not text; save the table as CSV UTF-8.",
        b" " * (2**24 + 1): "Groups.csv: larger than 16 MiB, so it is not a list of references.",
    }
    for content, wrong in told.items():
        (references / "Groups.csv").write_bytes(content)
        page.get_by_label("Choose a folder").set_input_files(references)
        expect_plan(page, f"{CRACK} | 3, 1 with a mask | unknown", "sound (authentic) | 3 | unknown")
        expect(page.locator("[data-remarks] p").filter(has_text=wrong)).to_have_count(1)
        page.get_by_role("button", name="Add 6 references").click()
        assert shown(page) == {}, "what names no specimen is not guessed"
        page.get_by_role("button", name="Discard").click()
    page.get_by_label("Choose a folder").set_input_files(references)
    page.get_by_label("Specimen", exact=True).select_option("before")
    page.get_by_role("button", name="Add 6 references").click()
    page.get_by_text("6 of 6 done · 6 added").wait_for()
    assert [image["group"] for image in shown(page)["sound"]] == ["A12", "A12", "B03"]


def test_a_table_that_was_mended_tells_the_specimens_and_another_way_that_was_chosen_stays(new_set, references):
    page = new_set
    table, names = references / "GROUPS.csv", [path.name for path in sorted((references / "sound").iterdir())]
    files = sorted((references / "sound").iterdir())
    table.write_text("file\n", encoding="utf-8")
    page.get_by_label("Choose files").set_input_files([*files, table])
    expect_remark(page, "GROUPS.csv: the columns file and group are required")
    rows = [f"sound,{name},'{name[:3]};" for name in names]
    table.write_text("\n \n".join([" Class,FILE ,group", *rows]), encoding="utf-8")
    page.get_by_label("Choose files").set_input_files([table])
    page.get_by_text("2: 'A12;, 'B03;").wait_for()
    expect(page.locator("[data-remarks]")).to_be_empty()
    page.get_by_label("Specimen", exact=True).select_option("before")
    table.write_text("file\n", encoding="utf-8")
    page.get_by_label("Choose files").set_input_files([table])
    page.get_by_text("GROUPS.csv: the columns file and group are required").wait_for()
    expect(page.get_by_label("Specimen", exact=True)).to_have_value("before")
    page.get_by_role("button", name="Add 3 references").click()
    page.get_by_text("3 of 3 done · 3 added").wait_for()
    assert [image["group"] for image in shown(page)["sound"]] == ["A12", "A12", "B03"]
