"""What the pages show: escaped, within the policy, and in words."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from browsed import BROWSER, HTMX, Page, id_of, inspected, looked_at, settled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion_diff.references import MAX_REFERENCES
from fusion_diff.service import collecting, records
from fusion_diff.service.pages.files import _FILES
from fusion_diff.service.pages.rendering import _sentence
from fusion_diff.service.tables import ReferenceImage

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}\u202e.tif'


def new_set(client, micrograph, name, *, shots=1) -> str:
    """Begin a set through the pages, with references of two classes, and return its id."""
    made = client.post("/references", data={"name": name, "authentic": "fine"}, headers=HTMX)
    address = made.headers["HX-Redirect"]
    for label in ("fine", "coarse"):
        for seed in range(shots):
            file = {"file": (f"{label} {seed}.tif", micrograph(label, seed))}
            added = client.post(f"{address}/images", files=file, data={"label": label})
            assert "added as" in looked_at(added).text
    return address


def to_mark(client, address) -> str:
    """Return where the flaw of a set's first reference of another class is marked."""
    return re.search(rf'href="({address}/images/[0-9a-f]{{32}})" aria-label="Mark flaw: ', client.get(address).text)[1]


@pytest.fixture(scope="module")
def story(client, micrograph):
    """A set, two inspections of which one is overruled, and every page there is about them."""
    address = new_set(client, micrograph, "story")
    fine, coarse = (id_of(inspected(client, micrograph(kind, 150))) for kind in ("fine", "coarse"))
    client.post(f"/inspections/{coarse}/overrule", data={"decision": "authentic", "reason": "new <b>lot</b>"})
    image = to_mark(client, address)
    pages = ["/", "/references", address, image, f"/inspections/{fine}", f"/inspections/{coarse}", "/history"]
    return pages


def test_every_page_keeps_to_the_policy_and_names_its_fields(client, story):
    for address in story:
        page = looked_at(client.get(address, headers=BROWSER))
        assert "#main" in page.addresses, "a way past the navigation"
        for each in page.addresses:
            if each.startswith("/static/"):
                assert client.get(each).status_code == 200, each
    for address in [f"{story[2]}/images", "/history/charts"]:
        looked_at(client.get(address, headers=HTMX))


def test_a_verdict_whose_map_is_lost_is_shown_without_it(client, micrograph):
    service = client.app.state.service
    it = id_of(inspected(client, micrograph("coarse", 151)))
    with service.database.read() as session:
        service.store.remove(records.get_inspection(session, it).evidence_sha256)
    page = client.get(f"/inspections/{it}", headers=BROWSER)
    assert page.status_code == 200
    assert "The evidence map is lost" in page.text
    assert "restore it from a backup" in page.text
    assert "heatmap.png" not in page.text


def test_pages_lead_only_where_something_is(client, story):
    for address in story:
        for each in looked_at(client.get(address, headers=BROWSER)).addresses:
            target = urlsplit(each).path or address
            allowed = client.options(target).status_code
            assert allowed == 405 or client.get(target).status_code == 200, f"{address} leads to {each}"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60) | st.just(HOSTILE))
def test_a_hostile_name_is_text_wherever_it_is_shown(client, name):
    made = client.post("/references", data={"name": name, "authentic": f"{name}!"}, headers=HTMX)
    if made.status_code == 422:
        return  # such a name is not taken
    if made.status_code == 409:
        return
    address = made.headers["HX-Redirect"]
    for page in (looked_at(client.get(address, headers=BROWSER)), looked_at(client.get("/references"))):
        shown = " ".join(name.encode("utf-8", "backslashreplace").decode().split())
        assert shown in page.text
    client.delete(address)


def test_a_hostile_file_name_reason_and_class_are_text_on_the_verdict_and_in_the_history(client, micrograph):
    row = inspected(client, micrograph("fine", 160), HOSTILE)
    assert "<script>alert(1)</script>" in row.text
    address = f"/inspections/{id_of(row)}"
    told = client.post(f"{address}/overrule", data={"decision": "not authentic", "reason": HOSTILE[:60]})
    assert "<script>" in looked_at(told).text
    for place in (address, "/history", "/", "/history/charts"):
        page = looked_at(client.get(place))
        assert "<script>alert(1)</script>" in page.text
        assert "{{7*7}}" in page.text
        assert "\u202e" not in page.text
    failed = looked_at(client.post("/inspect", files={"file": (HOSTILE, b"nothing")}))
    assert "not inspected" in failed.text


def test_the_bars_of_a_verdict_are_its_contributions_and_those_of_its_report(client, micrograph):
    address = f"/inspections/{id_of(inspected(client, micrograph('coarse', 164)))}"
    it = client.get(f"/v1{address}").json()
    expected = [*sorted(it["contributions"].values(), key=lambda value: -abs(value)), it["offset"]]
    longest = max(map(abs, expected))
    bars = re.findall(
        r'<rect(?: x="(-[\d.]+)")? width="([\d.]+)" height="10" class="(against|for)"', client.get(address).text
    )
    assert len(bars) == len(expected) > 1
    for (left, width, side), value in zip(bars, expected, strict=True):
        assert float(width) == pytest.approx(120 * abs(value) / longest, abs=0.06)
        assert (float(left or 0), side) == ((0, "against") if value > 0 else (-float(width), "for"))
    shares = re.findall(r"(left|right): 50%; width: ([\d.]+)%", client.get(f"/v1{address}/report.html").text)
    assert [(side == "left", float(share)) for side, share in shares] == [
        (value > 0, pytest.approx(50 * abs(value) / longest, abs=0.06)) for value in expected
    ]


def test_an_overruling_is_on_the_page_and_in_the_report_until_it_is_taken_back(client, micrograph):
    address = f"/inspections/{id_of(inspected(client, micrograph('fine', 163)))}"
    model = client.get(f"/v1{address}").json()["decision"]
    other = "not authentic" if model != "not authentic" else "authentic"
    refused = client.post(f"{address}/overrule", data={"decision": model, "reason": "I think so too"})
    assert (refused.status_code, "nothing to overrule" in refused.json()["detail"]) == (409, True)
    report = f"/v1{address}/report.html"
    assert "The model said" not in Page(client.get(report).text).text

    client.post(f"{address}/overrule", data={"decision": other, "reason": "a pore cluster"})
    assert f"{other} overruled" in Page(client.get(report).text).text
    told = Page(client.get(report).text).text
    assert "UTC by anybody : a pore cluster The model said" in told

    back = looked_at(client.post(f"{address}/overrule", data={"decision": model, "reason": "dust <i>"})).text
    for text in (back, looked_at(client.get(address)).text):
        assert "Overruled, then withdrawn" in text
        assert "a pore cluster" in text
        assert "withdrawn dust <i>" in text
        assert "The model said" not in text
    assert "a pore cluster" not in Page(client.get(report).text).text
    assert client.get(f"/v1{address}").json()["overruled"] is None


def test_rows_of_a_lot_are_given_again_as_they_are_by_now(client, micrograph):
    first, second = (id_of(inspected(client, micrograph("fine", seed), f"{seed}.tif")) for seed in (164, 165))
    client.post(f"/inspections/{first}/overrule", data={"decision": "not authentic", "reason": "a crack"})
    answer = client.get(f"/inspect/rows?ids={second},{'0' * 32},{first}", headers=HTMX)
    looked_at(answer)
    assert re.findall(r'data-inspection="([0-9a-f]{32})"', answer.text) == [second, first]
    assert 'data-outcome="not authentic"' in answer.text.split("</tr>")[1]
    for ids in ("", "1", ",".join(["0" * 32] * 101)):
        assert client.get(f"/inspect/rows?ids={ids}", headers=HTMX).status_code == 422


def test_a_row_of_what_was_not_decided_says_why(client, micrograph):
    row = looked_at(client.post("/inspect", files={"file": ("a.tif", micrograph("fine", 162))}, data={"alpha": "0.01"}))
    assert "Inconclusive: alpha 0.01 needs 99 references on each side" in row.text


def test_what_is_out_of_scope_says_so_wherever_it_is_listed_and_has_no_score_there(client, foreign):
    answer = client.post("/inspect", files={"file": ("stripes.tif", foreign)}, data={"alpha": "0.3"})
    address = f"/inspections/{id_of(looked_at(answer))}"
    for listed in (answer, client.get("/?"), client.get("/history?name=stripes")):
        row = re.search(rf'<tr[^>]*>(?:(?!<tr).)*{address}".*?</tr>', listed.text, re.DOTALL)[0]
        assert "? out of scope –" in Page(row).text
        assert "inconclusive" not in row
    assert 'data-outcome="out of scope"' in answer.text
    page = client.get(address).text
    assert "to be ignored: out of scope" in page
    assert 'class="meter"' not in page
    told = looked_at(client.post(f"{address}/overrule", data={"decision": "authentic", "reason": "a mould mark"})).text
    assert "The model said ? out of scope" in told
    assert "authentic overruled –" in looked_at(client.get("/history?name=stripes")).text


def test_what_cannot_be_inspected_is_told_in_words_in_its_row(client, micrograph):
    row = looked_at(client.post("/inspect", files={"file": ("empty.tif", b"")}))
    assert "empty.tif: the file is empty; copy or export it again from the instrument" in row.text
    refused = client.post("/inspect", files={"file": ("a.tif", micrograph("fine", 161))}, data={"alpha": "2"})
    assert refused.headers["content-type"] == "application/problem+json"


def test_a_mark_is_put_on_a_reference_changed_and_taken_off(client, micrograph):
    import io

    import numpy as np
    from PIL import Image

    address = new_set(client, micrograph, "marks")
    image = to_mark(client, address)
    buffer = io.BytesIO()
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(buffer, "PNG")
    saved = client.post(f"{image}/mark", files={"mark": ("mark.png", buffer.getvalue())}, headers=HTMX)
    assert saved.headers["HX-Redirect"] == address
    assert "flaw marked" in looked_at(client.get(address)).text
    assert "mark.png" in client.get(image).text, "the brush begins with the mark that is there"
    wrong = client.post(f"{image}/mark", files={"mark": ("mark.png", buffer.getvalue()[:50])}, headers=HTMX)
    assert wrong.status_code == 422
    assert client.delete(f"{image}/mark", headers=HTMX).status_code == 204
    assert "flaw marked" not in looked_at(client.get(address)).text
    left = looked_at(client.delete(image))
    assert "coarse 0.tif" not in left.text
    assert client.delete(address, headers=HTMX).headers["HX-Redirect"] == "/references"
    assert client.get(address, headers=BROWSER).status_code == 404


def test_a_set_is_audited_and_enrolled_and_its_model_judges(client, micrograph):
    address = new_set(client, micrograph, "enrolled", shots=2)
    audit = settled(client, client.post(f"{address}/audit"))
    assert "Nothing suspicious found." in audit.text
    ticked = re.findall(r'<input type="checkbox" name="(\w+)" value="(\w+)">', client.get(address).text)
    assert ("difference", "whole") in ticked
    begun = client.post(f"{address}/enrol", data={"name": "grain <i>", "default": "true", "difference": "whole"})
    assert re.search(r"step \d of 4", looked_at(begun).text)
    assert re.search(r"step \d of 4", looked_at(client.get(address)).text), "whoever loads the page again sees it too"
    made = settled(client, begun)
    assert "Enrolled: grain <i>" in made.text
    assert "AUROC, cross-fitted" in made.text
    assert "fine 2" in made.text
    (model,) = (each for each in client.get("/v1/models").json()["items"] if each["name"] == "grain <i>")
    assert model["figures"]["weight of pooled"] == pytest.approx(0.8)
    home = client.get("/").text
    assert re.search(r"selected>grain &lt;i&gt; \(default\)<", home)
    newer = new_set(client, micrograph, "newer than that of the model")
    page = client.get(f"/inspections/{id_of(inspected(client, micrograph('fine', 170)))}")
    offered = re.findall(r'<option value="([0-9a-f]{32})"( selected)?>', page.text)
    own = address.rpartition("/")[2]
    assert [each for each, selected in offered if selected] == [own], "the set of the model that judged"
    assert [each for each, _ in offered].index(newer.rpartition("/")[2]) < [each for each, _ in offered].index(own)
    verdict = looked_at(page)
    assert "no picture available" not in verdict.text
    assert sum("/reference-sets/" in each and each.endswith("micrograph.png") for each in verdict.addresses) == 3
    other = re.search(r"/references/models/([0-9a-f]{32})/default", client.get("/references").text)[0]
    models = looked_at(client.post(other))
    assert models.text.count("● default") == 1


def test_a_micrograph_made_a_reference_of_a_new_class_is_said_to_count_as_not_authentic(client, micrograph):
    address = new_set(client, micrograph, "mistyped")
    told = []
    for seed, label in enumerate(("Fine", "Fine", "fine", "pore")):
        place = f"/inspections/{id_of(inspected(client, micrograph('fine', 180 + seed)))}/add-to-references"
        answer = client.post(place, data={"reference_set": address[12:], "label": label})
        told.append(looked_at(answer).text.partition("Enrol the set again to use it. ")[2])
    correct = "If it is mistyped, correct it in the set."
    assert told[0] == f"New class; it counts as not authentic . Did you mean fine ? {correct}"
    assert told[1:] == ["", "", f"New class; it counts as not authentic . {correct}"]


def test_references_are_corrected_and_removed_several_at_once_all_or_none(client, micrograph):
    address = new_set(client, micrograph, "corrected", shots=2)
    images = {image["name"]: image["id"] for image in client.get(f"/v1/reference-sets/{address[12:]}").json()["images"]}
    coarse = [images["coarse 0.tif"], images["coarse 1.tif"]]
    missing = client.post(f"{address}/images/chosen/move", data={"image": [*coarse, "0" * 32], "label": "fine"})
    assert missing.status_code == 404
    assert client.get("/v1/reference-sets").json()["items"][0]["counts"] == {"fine": 2, "coarse": 2}
    moved = looked_at(client.post(f"{address}/images/chosen/move", data={"image": coarse, "label": "fine"}))
    assert "fine 4" in moved.text
    one = f"{address}/images/{coarse[0]}"
    changed = looked_at(client.post(one, data={"label": "pore", "group": "A12", "pixel_size_um": "0.5"}))
    assert "pore 1" in changed.text
    assert "specimen A12 0.500 µm/pixel" in changed.text
    assert "specimen" not in looked_at(client.post(one, data={"label": "pore", "group": ""})).text.replace(
        "Specimen", ""
    )
    left = looked_at(client.post(f"{address}/images/chosen/remove", data={"image": coarse}))
    assert "fine 2" in left.text
    assert "coarse" not in left.text
    assert client.post(f"{address}/images/chosen/remove").status_code == 422, "none was chosen"


def test_all_references_of_the_largest_set_are_chosen_at_once(client, micrograph):
    address = new_set(client, micrograph, "largest", shots=1)
    with client.app.state.service.database.write() as session:
        collected = collecting.get_set(session, address[12:])
        images = collected.images
        sha256 = images[0].sha256
        for number in range(MAX_REFERENCES - len(images)):
            name = f"{number}.tif"
            images.append(ReferenceImage(name=name, label="pore", group=name, sha256=f"{number:064x}"))
    with client.app.state.service.database.read() as session:
        ids = [image.id for image in collecting.get_set(session, address[12:]).images if image.sha256 != sha256]
    assert len(ids) == MAX_REFERENCES - 1
    moved = client.post(f"{address}/images/chosen/move", data={"image": ids, "label": "crack"})
    assert moved.status_code == 200, moved.text[:300]
    assert f"crack {MAX_REFERENCES - 1}" in " ".join(re.sub(r"<[^>]*>", " ", moved.text).split())
    assert client.delete(f"/v1{address.replace('references', 'reference-sets')}").status_code == 204


def test_no_model_is_to_judge_by_default_unless_that_is_asked_for(client, micrograph):
    page = client.get(new_set(client, micrograph, "guesses")).text
    assert 'name="default" value="true">' in page


def test_what_cannot_be_learned_from_is_told_in_place_of_the_model(client, micrograph):
    made = client.post("/references", data={"name": "nothing", "authentic": "fine"}, headers=HTMX)
    address = made.headers["HX-Redirect"]
    refused = client.post(f"{address}/enrol", data={"name": "none"}, headers=HTMX)
    assert (refused.status_code, "no authentic reference" in refused.json()["detail"]) == (409, True)
    client.post(f"{address}/images", files={"file": ("a.tif", micrograph("fine", 163))}, data={"label": "fine"})
    service = client.app.state.service
    with service.database.read() as session:
        sha256 = collecting.get_set(session, address.rpartition("/")[2]).images[0].sha256
    with service.store.file(sha256) as path:
        path.write_bytes(micrograph("fine", 164))
    told = settled(client, client.post(f"{address}/enrol", data={"name": "none"}))
    assert "a.tif: " in told.text
    assert "was altered in the store" in told.text


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("the key lacks the scope 'read'", "The key lacks the scope 'read'."),
        ("There is no page.", "There is no page."),
        ("a.tif: cannot be read; restore it", "a.tif: cannot be read; restore it."),
        ("--model is no folder", "--model is no folder."),
    ],
)
def test_problems_are_told_in_sentences(told, shown):
    assert _sentence(told) == shown


def test_doubts_about_the_default_model_are_told_before_anything_is_inspected(client):
    (judge,) = (each for each in client.get("/v1/models").json()["items"] if each["is_default"])
    first, *others = judge["warnings"]
    told = Page(client.get("/", headers=BROWSER).text).text
    assert f"Default model {judge['name']} : {first}." in told
    assert all(each in told for each in others)
    assert told.index(first) < told.index("Drop micrographs")


def test_addresses_of_nothing_are_pages_for_browsers_and_problems_for_programs(client):
    for address in ("/inspections/" + "0" * 32, "/references/" + "0" * 32, "/inspections/nonsense"):
        seen = client.get(address, headers=BROWSER)
        assert seen.status_code == 404
        assert Page(seen.text).wrong == []
        assert client.get(address).headers["content-type"] == "application/problem+json"
        assert "/v1" not in Page(seen.text).text
    for address in ("/nosuch", "/inspect"):  # the second is for what a page sends
        seen = client.get(address, headers=BROWSER)
        assert seen.status_code == 404
        assert "There is no page at this address" in Page(seen.text).text
        assert "Go to the start page" in Page(seen.text).text
    assert client.get("/nosuch").headers["content-type"] == "application/problem+json"
    assert client.get("/v1/nosuch", headers=BROWSER).headers["content-type"] == "application/problem+json"
    assert client.get("/history?since=yesterday", headers=BROWSER).status_code == 400
    assert client.get("/history?decision=forged", headers=BROWSER).status_code == 400


def test_static_files_are_kept_and_asked_for_again_and_nothing_else_is_given(client):
    first = client.get("/static/pages.css")
    assert first.headers["cache-control"] == "no-cache"
    assert client.get("/static/pages.css", headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    assert client.get("/static/..%2frendering.py").status_code == 404
    assert client.get("/static/htmx.LICENSE.txt").text.startswith("htmx.min.js is htmx 2")


def test_scripts_and_styles_fetch_nothing_from_elsewhere_and_evaluate_nothing():
    folder = _FILES.directory
    files = [file for file in folder.glob("*.[jc]s*") if file.name != "htmx.min.js"]
    assert {".css", ".js"} <= {file.suffix for file in files}
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"https?://|\beval\(|new Function|@import", text), file.name
