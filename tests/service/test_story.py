"""The whole story through HTTP: collect, enrol, inspect, overrule, learn again; and the same after a restart."""

from __future__ import annotations

import io
import re
from datetime import datetime

import numpy as np
from PIL import Image

from fusion_diff import __version__
from fusion_diff.service import records


def send(client, *contents, **form):
    """Inspect files named by their place, and return the results."""
    files = [("files", (f"lot 7/{index}.tif", content)) for index, content in enumerate(contents)]
    answer = client.post("/v1/inspections", files=files, data=form)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def collect(client, micrograph):
    """Collect two fine and two coarse references, and return the set's id."""
    made = client.post("/v1/reference-sets", json={"name": "lot 7", "authentic": "fine"})
    assert made.status_code == 201, made.text
    for label in ("fine", "coarse"):
        files = [("files", (f"{label} {seed}.tif", micrograph(label, seed))) for seed in range(2)]
        added = client.post(f"/v1/reference-sets/{made.json()['id']}/images", files=files, data={"label": label})
        assert all(each["problem"] is None for each in added.json()["results"]), added.text
    return made.json()["id"]


def test_micrographs_are_inspected_and_overruled_and_the_next_enrolment_learns_from_them(
    serve, database_url, micrograph, learn, call_cli, tmp_path
):
    with serve(database_url=database_url) as client:
        fine, coarse = send(client, micrograph("fine", 100), micrograph("coarse", 102), alpha="0.4")
        assert fine["name"] == "lot 7/0.tif"
        assert fine["inspection"]["score"] > coarse["inspection"]["score"]
        first = coarse["inspection"]["decision"]
        assert first != "authentic"

        wrong = coarse["inspection"]["id"]
        told = {"decision": "authentic", "reason": "new lot"}
        overruled = client.post(f"/v1/inspections/{wrong}/overrule", json=told).json()
        assert overruled["overruled"] == told | {"by": "anybody", "at": overruled["overruled"]["at"]}
        assert overruled["decision"] == first, "what was decided first stays"

        references = collect(client, micrograph)
        to = {"reference_set": references, "label": "fine"}
        added = client.post(f"/v1/inspections/{wrong}/add-to-references", json=to)
        assert added.status_code == 201, added.text
        again = client.post(f"/v1/inspections/{wrong}/add-to-references", json=to | {"label": "coarse"})
        assert again.status_code == 409
        assert "already" in again.json()["detail"]

        job = learn(client, references, name="line 7", default=True)
        assert (job["kind"], job["state"], job["done"], job["total"]) == ("enrolment", "done", 5, 5)
        model = job["model"]
        assert model["counts"] == {"fine": 3, "coarse": 2}
        assert 0 <= model["figures"]["auroc"] <= 1
        assert model["warnings"], "three references are few"
        judged = send(client, micrograph("coarse", 102))[0]["inspection"]
        assert (judged["model_name"], judged["model_sha256"]) == ("line 7", model["sha256"])
        assert judged["score"] > coarse["inspection"]["score"]

    with serve(database_url=database_url) as client:  # started again
        assert client.get(f"/v1/jobs/{job['id']}").json() == job
        assert client.get(f"/v1/inspections/{wrong}").json()["overruled"]["reason"] == "new lot"
        models = client.get("/v1/models").json()["items"]
        assert [each["name"] for each in models if each["is_default"]] == ["line 7"]
        assert send(client, micrograph("fine", 102))[0]["inspection"]["model_sha256"] == model["sha256"]
        head = client.get("/v1/ledger/head")
        (tmp_path / "verdicts.jsonl.head").write_bytes(head.content)
        lines = client.get("/v1/ledger", params={"through": head.json()["count"]}).content
        (tmp_path / "verdicts.jsonl").write_bytes(lines)
    code, out, err = call_cli("audit", tmp_path / "verdicts.jsonl", "--expect", head.json()["hash"])
    assert (code, err) == (0, "")
    assert "overruled" in out


def test_an_inspection_has_its_pictures_and_its_report(client, micrograph):
    it = send(client, micrograph("coarse", 110, 96))[0]["inspection"]
    small = Image.open(io.BytesIO(client.get(f"/v1/inspections/{it['id']}/micrograph.png").content))
    assert small.size == (96, 96)
    corner = client.get(f"/v1/inspections/{it['id']}/micrograph.png?top=90&left=10&height=50&width=20")
    window = Image.open(io.BytesIO(corner.content))
    assert window.size == (20, 6), "cut off at the edge"
    assert np.array_equal(np.asarray(window), np.asarray(small)[90:, 10:30])
    assert client.get(f"/v1/inspections/{it['id']}/micrograph.png?top=96").status_code == 404
    heat = Image.open(io.BytesIO(client.get(f"/v1/inspections/{it['id']}/heatmap.png").content))
    assert heat.size == (96, 96)
    report = client.get(f"/v1/inspections/{it['id']}/report.html")
    assert "lot 7/0.tif" in report.text
    assert it["file_sha256"][:12] in report.text
    assert it["model_sha256"][:12] in report.text
    assert "sandbox" in report.headers["content-security-policy"]


def test_a_report_tells_when_by_whom_and_by_which_version_it_was_judged_whoever_prints_it(
    client, micrograph, monkeypatch
):
    it = send(client, micrograph("coarse", 113))[0]["inspection"]
    monkeypatch.setattr("fusion_diff.inspection.report.__version__", "99.0")
    report = client.get(f"/v1/inspections/{it['id']}/report.html").text
    judged = datetime.fromisoformat(it["created"])
    assert f"<dd>{judged:%Y-%m-%d %H:%M:%S} UTC by <bdi>{it['by']}</bdi> with FusionDiff {__version__}</dd>" in report
    assert f"<code>{it['id']}</code>, sequence {it['ledger_sequence']} of" in report
    assert re.search(r"Printed 20[-0-9]+ [0-9:]+ UTC by FusionDiff 99\.0 · 1 micrograph<", report)


def test_a_list_tells_of_an_inspection_what_it_tells_of_itself(client, micrograph):
    it = send(client, micrograph("coarse", 111))[0]["inspection"]
    assert client.get(f"/v1/inspections/{it['id']}").json() == it
    (listed,) = [each for each in client.get("/v1/inspections").json()["items"] if each["id"] == it["id"]]
    assert listed.items() <= it.items()
    assert {"score", "calibrated", "in_scope", "decision"} <= listed.keys()


def test_bytes_that_were_inspected_under_another_name_have_a_note_of_it(client, micrograph):
    image = micrograph("coarse", 114)
    first, second = (each["inspection"] for each in send(client, image, image))
    *before, note = second["notes"]
    assert first["notes"] == before
    assert note == f"The same bytes were inspected before under another name, as inspection {first['id']}."
    assert note in client.get(f"/v1/inspections/{second['id']}/report.html").text


def test_doubts_about_the_references_stand_on_the_page_and_in_the_report(client, micrograph):
    it = send(client, micrograph("coarse", 112))[0]["inspection"]
    with client.app.state.service.database.write() as session:
        row = records.get_inspection(session, it["id"])
        compared = row.result["compared_with"] | {"doubts": ["little <better> than chance"]}
        row.result = row.result | {"compared_with": compared}
    for address in (f"/v1/inspections/{it['id']}/report.html", f"/inspections/{it['id']}"):
        assert "Warning: little &lt;better&gt; than chance." in client.get(address).text


def test_a_verdict_is_that_of_the_model_called_from_python(client, micrograph, enrolled_folder, tmp_path):
    from fusion_diff import DiffusionModel, load_microstructure_data

    (tmp_path / "a.tif").write_bytes(micrograph("fine", 111))
    expected = DiffusionModel.from_pretrained(enrolled_folder).inspect(load_microstructure_data(tmp_path / "a.tif"))
    it = send(client, micrograph("fine", 111))[0]["inspection"]
    assert it["score"] == expected.score
    assert it["p_values"] == expected.p_values
    assert it["reasons"] == list(expected.reasons)
    assert it["file_sha256"] == expected.file_sha256


def test_the_same_file_sent_twice_is_stored_once_and_inspected_twice(client, micrograph):
    first, second = send(client, micrograph("fine", 112), micrograph("fine", 112))
    assert first["inspection"]["id"] != second["inspection"]["id"]
    assert first["inspection"]["file_sha256"] == second["inspection"]["file_sha256"]
    stored = client.app.state.service.settings.data / "blobs"
    sha256 = first["inspection"]["file_sha256"]
    assert (stored / sha256[:2] / sha256[2:]).read_bytes() == micrograph("fine", 112)
    assert list(client.app.state.service.settings.incoming.iterdir()) == []


def test_images_may_lie_elsewhere_than_on_disk(serve, micrograph):
    with serve(store_url="memory://elsewhere") as client:
        it = send(client, micrograph("fine", 114))[0]["inspection"]
        for picture in ("heatmap.png", "micrograph.png", "micrograph.png?top=0&left=0", "report.html"):
            assert client.get(f"/v1/inspections/{it['id']}/{picture}").status_code == 200, picture
        assert list(client.app.state.service.settings.incoming.iterdir()) == []
        assert client.get("/readyz").status_code == 200


def test_the_description_is_openapi_3_1_and_has_every_route(client):
    schema = client.get("/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    assert {"/v1/inspections", "/v1/reference-sets/{set_id}/enrol", "/v1/models/{model_id}/default", "/metrics"} <= set(
        schema["paths"]
    )
    problem = schema["paths"]["/v1/inspections"]["post"]["responses"]["429"]["content"]
    assert list(problem) == ["application/problem+json"]
    assert "detail" in schema["components"]["schemas"]["Problem"]["properties"]


def test_metrics_count_decisions_refusals_and_time(client, micrograph):
    before = client.get("/metrics").text
    send(client, micrograph("fine", 113), b"nothing")
    after = client.get("/metrics").text

    def total(text, name):
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    for name in ("fusion_diff_decisions_total", "fusion_diff_inspection_seconds_count", "fusion_diff_score_count"):
        assert total(after, name) == total(before, name) + 1
    assert total(after, 'fusion_diff_refusals_total{status="422"}') == (
        total(before, 'fusion_diff_refusals_total{status="422"}') + 1
    )
    assert total(after, "fusion_diff_queue_depth") == 0
    assert 'route="/v1/inspections"' in after


def test_the_service_says_when_it_is_ready(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
