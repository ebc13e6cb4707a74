"""References collected, marked and audited; models added, chosen, and refused where they were altered."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusion_diff.model import DiffusionModel
from fusion_diff.service import collecting
from fusion_diff.service.database import Database
from fusion_diff.service.model_registry import Shelf, enter
from fusion_diff.service.naming import model_label
from fusion_diff.service.settings import Settings
from fusion_diff.service.tables import NAME_LENGTH, Model
from fusion_diff.trust import poisoning


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def new_set(client, request):
    made = client.post("/v1/reference-sets", json={"name": request.node.name[:NAME_LENGTH], "authentic": "fine"})
    return f"/v1/reference-sets/{made.json()['id']}"


def add(client, at, content, label="crack", name="a.tif", **more):
    files = {"files": (name, content)} | {key: value for key, value in more.items() if isinstance(value, tuple)}
    data = {"label": label} | {key: value for key, value in more.items() if not isinstance(value, tuple)}
    answer = client.post(f"{at}/images", files=files, data=data)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]


def test_a_flaw_is_marked_with_the_upload_or_later_and_unmarked(client, new_set, micrograph):
    flaw = np.zeros((64, 64), np.uint8)
    flaw[10:20, 30:40] = 255
    first = add(client, new_set, micrograph("coarse", 150), mark=("m.png", png(flaw)), group="C07")["reference"]
    assert (first["marked"], first["group"]) == (True, "C07")
    at = f"{new_set}/images/{first['id']}"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(client.get(f"{at}/mark.png").content))), flaw)
    brushed = np.zeros((64, 64, 4), np.uint8)
    brushed[5:9, 5:9] = (255, 0, 0, 255)
    assert client.put(f"{at}/mark", files={"mark": ("m.png", png(brushed))}).json()["marked"]
    shown = np.asarray(Image.open(io.BytesIO(client.get(f"{at}/mark.png").content)))
    assert shown.sum() == 255 * 16
    wrong = client.put(f"{at}/mark", files={"mark": ("m.png", png(flaw[:40]))})
    assert (wrong.status_code, "40x64" in wrong.json()["detail"]) == (422, True)
    assert client.delete(f"{at}/mark").status_code == 204
    assert client.get(f"{at}/mark.png").status_code == 404
    assert not client.get(new_set).json()["images"][0]["marked"]


def test_no_more_sets_are_made_than_pages_can_list(client, new_set, monkeypatch):
    monkeypatch.setattr(collecting, "MAX_SETS", len(client.get("/v1/reference-sets").json()["items"]) + 1)
    told = {"name": "the last set", "authentic": "fine"}
    last = client.post("/v1/reference-sets", json=told)
    assert last.status_code == 201
    refused = client.post("/v1/reference-sets", json=told | {"name": "one more"})
    assert (refused.status_code, "remove one first" in refused.json()["detail"]) == (409, True)
    client.delete(f"/v1/reference-sets/{last.json()['id']}")
    assert client.post("/v1/reference-sets", json=told | {"name": "one more"}).status_code == 201


def test_an_authentic_reference_takes_no_mark(client, new_set, micrograph):
    flaw = ("m.png", png(np.eye(64, dtype=np.uint8) * 255))
    refused = add(client, new_set, micrograph("fine", 151), label="fine", mark=flaw)
    assert "an authentic reference ('fine') cannot have a flaw mask" in refused["problem"]["detail"]
    sound = add(client, new_set, micrograph("fine", 151), label="fine")["reference"]
    assert client.put(f"{new_set}/images/{sound['id']}/mark", files={"mark": flaw}).status_code == 422
    two = [("files", ("a.tif", micrograph("coarse", seed))) for seed in (152, 153)]
    many = client.post(f"{new_set}/images", files=[*two, ("mark", flaw)], data={"label": "crack"})
    assert "one file" in many.json()["detail"]


def test_class_specimen_and_pixel_size_are_corrected_and_the_mark_stays(client, new_set, micrograph):
    flaw = ("m.png", png(np.eye(64, dtype=np.uint8) * 255))
    it = add(client, new_set, micrograph("coarse", 157), mark=flaw, group="C07", pixel_size_um="0.5")["reference"]
    at = f"{new_set}/images/{it['id']}"
    changed = client.patch(at, json={"label": "pore"}).json()
    assert changed == it | {"label": "pore"}
    own = client.patch(at, json={"group": None, "pixel_size_um": None}).json()
    assert own == changed | {"group": "a.tif", "pixel_size_um": None}
    assert client.patch(at, json={"group": "C08", "pixel_size_um": 0.25}).json()["pixel_size_um"] == 0.25
    refused = client.patch(at, json={"label": "fine", "group": "C09"})
    assert (refused.status_code, "cannot have a flaw mask" in refused.json()["detail"]) == (422, True)
    assert client.get(new_set).json()["images"] == [own | {"group": "C08", "pixel_size_um": 0.25}]
    client.delete(f"{at}/mark")
    assert client.patch(at, json={"label": "fine"}).json()["label"] == "fine"
    for wrong in ({"name": "b.tif"}, {"pixel_size_um": True}, {"pixel_size_um": "0.5"}):
        assert client.patch(at, json=wrong).status_code == 422
    assert client.patch(f"{at[:-1]}{'0' if at[-1] != '0' else '1'}", json={}).status_code == 404


def test_what_is_odd_about_the_files_of_references_is_told_with_the_audit_and_the_model(
    client, new_set, draw, tiff, micrograph, learn
):
    for seed in (0, 1):
        add(client, new_set, micrograph("fine", seed), label="fine", name=f"fine {seed}.tif")
        add(client, new_set, micrograph("coarse", seed), name=f"coarse {seed}.tif")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, draw("fine", 0), compression="zlib")
    add(client, new_set, buffer.getvalue(), label="fine", name="again.tif")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.stack([draw("coarse", 170), draw("coarse", 171)]), photometric="minisblack")
    add(client, new_set, buffer.getvalue(), name="pages.tif")
    for name, level in (("empty", 0), ("inverted", 255)):
        mask = ("m.png", png(np.full((64, 64), level, np.uint8)))
        add(client, new_set, micrograph("coarse", 172 + level), name=f"{name}.tif", mark=mask)
    told = [
        "again.tif is a copy of fine 0.tif; again.tif is left out of the set",
        "the mark of empty.tif is empty; empty.tif is used without a mark",
        "the mark of inverted.tif covers 100% of inverted.tif and is probably inverted",
        "pages.tif: The file holds 2 images",
    ]
    set_id = new_set.rpartition("/")[2]
    audited = learn(client, set_id)
    assert all(each in audited["note"] for each in told), audited["note"]
    assert "blobs" not in audited["note"], "paths of ours are told to nobody"
    assert "again.tif is a copy" in client.get(f"/references/jobs/{audited['id']}").text
    learned = learn(client, set_id, name="odd files")
    assert learned["note"] is None
    for each in told:
        assert sum(each in warning for warning in learned["model"]["warnings"]) == 1, each


def test_spaces_of_any_width_are_plain_ones_and_invisible_characters_are_refused(client, new_set, micrograph):
    it = add(client, new_set, micrograph("coarse", 158), label="large\u3000pore", group="C\xa07")["reference"]
    assert (it["label"], it["group"]) == ("large pore", "C 7")
    at = f"{new_set}/images/{it['id']}"
    assert client.patch(at, json={"group": "1\u202f000"}).json()["group"] == "1 000"
    for name in ("a\u200bb", "a\x07b", "a\nb"):
        refused = client.patch(at, json={"group": name})
        assert (refused.status_code, "invisible characters" in refused.json()["detail"]) == (422, True)
    verdict = client.post("/v1/inspections", files={"files": ("a.tif", micrograph("fine", 159))}).json()
    told = {"decision": "not authentic", "reason": "Riss\xa0– 12\u202fµm\nlang"}
    overruled = client.post(f"/v1/inspections/{verdict['results'][0]['inspection']['id']}/overrule", json=told).json()
    assert overruled["overruled"]["reason"] == "Riss – 12 µm lang"


def test_a_reference_is_shown_small_or_at_its_native_size_and_removed(client, new_set, draw, tiff):
    it = add(client, new_set, tiff(draw("fine", 154, 700)), label="fine", pixel_size_um="0.25")["reference"]
    assert it["pixel_size_um"] == 0.25
    at = f"{new_set}/images/{it['id']}"
    small, native = client.get(f"{at}/micrograph.png"), client.get(f"{at}/micrograph.png?native=true")
    assert Image.open(io.BytesIO(small.content)).size == (640, 640)
    assert Image.open(io.BytesIO(native.content)).size == (700, 700)
    assert native.headers["x-native-size"] == "700x700"
    assert client.get("/v1/reference-sets").json()["items"][0]["counts"] == {"fine": 1}
    assert client.delete(at).status_code == 204
    assert client.delete(at).status_code == 404
    assert client.get(new_set).json()["images"] == []
    assert client.delete(new_set).status_code == 204
    assert client.get(new_set).status_code == 404


def test_an_audit_names_the_reference_that_is_another_mirrored_and_remembers_it(
    client, new_set, draw, tiff, micrograph, learn, monkeypatch
):
    for seed in range(2):
        add(client, new_set, tiff(draw("fine", seed)), label="fine", name=f"fine {seed}.tif")
    add(client, new_set, tiff(draw("coarse", 0)), name="coarse.tif")
    add(client, new_set, tiff(draw("fine", 0)[:, ::-1]), name="mirrored.tif")
    set_id = new_set.rpartition("/")[2]
    first = learn(client, set_id)
    found = [(each["reference"], each["kind"], each["grave"]) for each in first["findings"]]
    assert ("mirrored.tif", "duplicate", True) in found
    assert client.post(f"{new_set}/audit").json() == first, "known, so that it waits for nothing"
    with monkeypatch.context() as later:
        later.setattr(poisoning, "EDITION", poisoning.EDITION + 1)
        assert learn(client, set_id)["id"] != first["id"], "another audit may find something else"
    add(client, new_set, micrograph("coarse", 1), name="another.tif")
    assert client.post(f"{new_set}/audit").json()["state"] == "running", "these are other references"


def test_a_model_is_chosen_and_one_that_was_altered_is_not(client, enrolled_folder, micrograph):
    service = client.app.state.service
    first = next(each for each in client.get("/v1/models").json()["items"] if each["is_default"])
    assert first["counts"] == {"fine": 2, "coarse": 2}
    row, _ = service.shelf.save(DiffusionModel.from_pretrained(enrolled_folder), "line 8")
    with service.database.write() as session:
        enter(session, row, None, default=False)
    chosen = client.put(f"/v1/models/{row.id}/default").json()
    assert (chosen["name"], chosen["is_default"]) == ("line 8", True)
    assert [each["id"] for each in client.get("/v1/models").json()["items"] if each["is_default"]] == [row.id]
    assert client.get(f"/v1/models/{row.id}").json() == chosen
    files = [("files", ("a.tif", micrograph("fine", 155)))]
    answer = client.post("/v1/inspections", files=files)
    assert answer.json()["results"][0]["inspection"]["model_sha256"] == row.sha256
    assert client.put(f"/v1/models/{first['id']}/default").json()["is_default"]

    (service.settings.models / row.id / "README.md").write_text("altered")
    service.shelf._held.clear()
    refused = client.put(f"/v1/models/{row.id}/default")
    assert (refused.status_code, refused.json()["type"]) == (500, "urn:fusion-diff:problem:checkpoint")
    answer = client.post("/v1/inspections", files=files, data={"model": row.id})
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:fusion-diff:problem:checkpoint")
    assert client.put(f"/v1/models/{'0' * 32}/default").status_code == 404
    assert client.post("/v1/inspections", files=files, data={"model": "0" * 32}).status_code == 404


def test_no_two_models_get_one_name_and_a_retired_one_judges_no_more_while_its_verdicts_stay(
    client, enrolled_folder, micrograph
):
    service = client.app.state.service
    judge = client.get("/v1/models").json()["items"]
    judge = next(each["id"] for each in judge if each["is_default"])
    made = []
    for _ in range(2):
        row, _ = service.shelf.save(DiffusionModel.from_pretrained(enrolled_folder), "line 9")
        with service.database.write() as session:
            enter(session, row, None, default=False)
        made.append(row)
    assert [row.name for row in made] == ["line 9", "line 9 (2)"]
    sent = {"files": [("files", ("a.tif", micrograph("fine", 157)))], "data": {"model": made[0].id}}
    verdict = client.post("/v1/inspections", **sent).json()["results"][0]["inspection"]

    at = f"/v1/models/{made[0].id}"
    assert client.put(f"{at}/retired").json()["retired"]
    for refused in (client.post("/v1/inspections", **sent), client.put(f"{at}/default")):
        assert (refused.status_code, "is retired" in refused.json()["detail"]) == (409, True)
    refused = client.put(f"/v1/models/{judge}/retired")
    assert (refused.status_code, "this is the default model" in refused.json()["detail"]) == (409, True)
    home, history = client.get("/").text, client.get("/history").text
    assert ">line 9</option>" not in home
    assert ">line 9 (2)</option>" in home
    assert ">line 9 (retired)</option>" in history
    assert client.get(f"/inspections/{verdict['id']}").status_code == 200
    assert verdict["id"] in client.get(f"/history?model={made[0].sha256}").text
    assert ">line 9 (2)</bdi>" in client.post(f"/references/models/{made[1].id}/retire").text
    assert "2 retired" in client.get("/references").text
    for row in made:
        assert client.post(f"/references/models/{row.id}/bring-back").status_code == 200
    assert not client.get(at).json()["retired"]
    assert client.post("/v1/inspections", **sent).status_code == 200


def test_models_of_one_name_are_told_apart_by_their_digests():
    first, second, other = (
        Model(name=name, sha256=sha256 * 32) for name, sha256 in (("a", "12"), ("a", "34"), ("b", "56"))
    )
    models = [first, second, other]
    assert [model_label(each, models) for each in models] == ["a · 12121212", "a · 34343434", "b"]


def test_the_pixel_size_of_a_file_is_kept_and_one_that_is_given_comes_before_it(client, draw):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, draw("fine", 156), resolution=(50_000, 50_000), resolutionunit="CENTIMETER")
    files = [("files", ("a.tif", buffer.getvalue()))]
    sizes = [
        client.post("/v1/inspections", files=files, data=data).json()["results"][0]["inspection"]["pixel_size_um"]
        for data in ({}, {"pixel_size_um": "0.5"})
    ]
    assert sizes == pytest.approx([0.2, 0.5])


def test_the_model_that_a_service_is_started_with_judges_unless_one_enrolled_here_was_chosen(enrolled_folder, tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'records.db'}")

    def shelf(model):
        return Shelf(Settings(data=tmp_path, model=str(model), insecure=True), database)

    line = DiffusionModel.from_pretrained(enrolled_folder)
    line.name = "line 7"
    line.save_pretrained(tmp_path / "line-7")
    first = shelf(enrolled_folder).default().name
    assert first != "line 7"
    assert shelf(tmp_path / "line-7").default().name == "line 7"
    again = shelf(enrolled_folder)
    assert again.default().name == first
    row, _ = again.save(line, "line 8")
    with database.write() as session:
        enter(session, row, None, default=True)
    assert shelf(tmp_path / "line-7").default().name == "line 8"
    database.close()
