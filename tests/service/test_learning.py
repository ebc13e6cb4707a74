"""Audits and enrolments as jobs: beside inspections, one at a time, and with an end whatever happens."""

from __future__ import annotations

import io
import re
import time
import uuid
from datetime import timedelta
from functools import partial
from threading import Event

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import create_engine, text

from fusion_diff.micrograph.storage import file_behind
from fusion_diff.references import ReferenceSet
from fusion_diff.service import collecting, jobs, keys
from fusion_diff.service.tables import now


@pytest.fixture
def serve_slow(serve, whole_folder):
    """Runs a service whose jobs take long enough to look at while they run."""
    return partial(serve, model=str(whole_folder))


@pytest.fixture
def collect(micrograph):
    """Begins a set with two fine and two coarse references of these seeds, and returns its id."""

    def begin(client, name="lot 7", seeds=(0, 1)):
        made = client.post("/v1/reference-sets", json={"name": name, "authentic": "fine"}).json()["id"]
        for label in ("fine", "coarse"):
            files = [("files", (f"{label} {seed}.tif", micrograph(label, seed))) for seed in seeds]
            client.post(f"/v1/reference-sets/{made}/images", files=files, data={"label": label})
        return made

    return begin


def begin(client, set_id):
    """Record an audit as begun that nobody works on yet."""
    with client.app.state.service.database.write() as session:
        return jobs.begin(session, "audit", set_id, "0" * 64, 4)


def test_while_one_set_is_learned_micrographs_are_inspected_and_no_other_set_is_learned(
    serve_slow, collect, micrograph, finished
):
    with serve_slow() as client:
        at = f"/v1/reference-sets/{collect(client)}"
        job = client.post(f"{at}/enrol", json={"name": "line 7", "difference": "whole"}).json()
        assert (job["state"], job["done"], job["total"]) == ("running", 0, 4)
        answer = client.post("/v1/inspections", files={"files": ("a.tif", micrograph("fine", 190))})
        assert answer.json()["results"][0]["inspection"]
        for what, body in (("audit", None), ("enrol", {"name": "x"})):
            busy = client.post(f"{at}/{what}", json=body)
            assert (busy.status_code, busy.headers["retry-after"]) == (429, "10")
        assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "running"
        assert client.delete(at).status_code == 204
        job = finished(client, job["id"])
        assert (job["state"], job["done"], job["model"]["name"]) == ("done", 4, "line 7")
        assert job["model"]["figures"]["weight of pooled"] == pytest.approx(0.8)
        assert (job["reference_set"], job["model"]["reference_set"]) == (None, None), "the set was removed meanwhile"


@pytest.mark.parametrize("revoked", [False, True])
def test_the_key_that_asked_for_a_default_model_has_to_be_valid_when_the_model_is_there(
    serve_slow, collect, finished, revoked
):
    with serve_slow(insecure=False) as guarded:
        database = guarded.app.state.service.database
        with database.write() as session:
            asking, looking = (keys.new_key(session, "somebody", ["admin"]) for _ in range(2))
        guarded.headers["Authorization"] = f"Bearer {asking}"
        told = {"name": "line 7", "default": True}
        at = f"/v1/reference-sets/{collect(guarded, f'default {revoked}')}"
        job = guarded.post(f"{at}/enrol", json=told).json()
        guarded.headers["Authorization"] = f"Bearer {looking}"
        if revoked:
            with database.write() as session:
                keys.revoke(session, keys.id_of(asking))
        job = finished(guarded, job["id"])
        assert (job["state"], job["model"]["is_default"]) == ("done", not revoked)
        assert (job["note"] is None) == (not revoked)
        assert ("was revoked meanwhile" in guarded.get(f"/references/jobs/{job['id']}").text) == revoked


def test_how_far_a_job_is_is_told_as_long_as_someone_works_on_it(serve, database_url, collect):
    with serve(database_url=database_url) as client:
        database = client.app.state.service.database
        job = begin(client, collect(client))
        with jobs.Pulse(database, job.id, 4) as pulse:
            pulse.done, pulse.total = 3, 8
            while (told := client.get(f"/v1/jobs/{job.id}").json())["done"] == 0:
                assert told["state"] == "running"
            assert (told["done"], told["total"]) == (3, 8)


def test_a_job_whose_process_was_killed_has_failed_and_another_can_begin(serve, database_url, collect, learn):
    with serve(database_url=database_url) as client:
        set_id = collect(client)
        with client.app.state.service.database.write() as session:
            job = jobs.begin(session, "enrolment", set_id, "0" * 64, 4)
            job.heard = now() - timedelta(seconds=jobs.SILENT_SECONDS + 1)
    with serve(database_url=database_url) as client:
        told = client.get(f"/v1/jobs/{job.id}").json()
        assert (told["state"], told["problem"]["status"]) == ("failed", 503)
        assert "start it again" in told["problem"]["detail"]
        assert job.id not in client.get(f"/references/{set_id}").text
        assert learn(client, set_id, name="again")["state"] == "done"


def test_a_job_that_cannot_begin_has_failed_and_leaves_its_turn_to_another(
    client, collect, learn, finished, monkeypatch
):
    set_id = collect(client, name="no threads")

    def exhausted(pulse):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(jobs.Pulse, "__enter__", exhausted)
        job = client.post(f"/v1/reference-sets/{set_id}/enrol", json={"name": "none"}).json()
        assert finished(client, job["id"])["state"] == "failed"
    assert learn(client, set_id, name="after no threads")["state"] == "done"


@pytest.fixture
def recording(client, monkeypatch):
    """Jobs that are about to be recorded as ended set the first event, and wait for the second."""
    learning = client.app.state.service.learning
    write_down, reached, go = learning._write_down, Event(), Event()

    def write_down_when_told(*what):
        reached.set()
        assert go.wait(60)
        write_down(*what)

    monkeypatch.setattr(learning, "_write_down", write_down_when_told)
    return reached, go


@pytest.mark.parametrize("fault", [False, True])
def test_no_job_begins_before_the_last_one_is_recorded_as_ended(
    client, collect, finished, recording, monkeypatch, fault
):
    learning, (reached, go) = client.app.state.service.learning, recording
    if fault:
        monkeypatch.setattr(client.app.state.service.shelf, "base", None)
    at = f"/v1/reference-sets/{collect(client, f'recorded {fault}')}"
    job = client.post(f"{at}/enrol", json={"name": "x"}).json()
    assert reached.wait(60)
    thread = learning._thread
    try:
        assert client.post(f"{at}/enrol", json={"name": "y"}).status_code == 429
        assert learning._thread is thread, "the service that stops waits for the job that still writes"
    finally:
        go.set()
    assert finished(client, job["id"])["state"] == ("failed" if fault else "done")


def test_another_job_begins_as_soon_as_callers_see_that_the_last_one_ended(client, collect, learn, monkeypatch):
    set_id = collect(client, "at once")
    leave = jobs.Pulse.__exit__

    def leave_late(*what):
        time.sleep(0.3)
        leave(*what)

    with monkeypatch.context() as patched:
        patched.setattr(jobs.Pulse, "__exit__", leave_late)
        assert learn(client, set_id, name="x")["state"] == "done"
        assert learn(client, set_id, name="y")["state"] == "done"


def test_a_job_is_cancelled_keeps_nothing_and_leaves_its_turn_to_another(client, collect, learn, monkeypatch):
    set_id = collect(client, "cancelled", seeds=(4, 5))
    at_work, go = Event(), Event()
    references = client.app.state.service.learning._references

    def wait_at_the_last(collected, progress, **options):
        found = references(collected, progress, **options)
        at_work.set()
        assert go.wait(60)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(client.app.state.service.learning, "_references", wait_at_the_last)
        job = client.post(f"/v1/reference-sets/{set_id}/enrol", json={"name": "nobody wants it"}).json()
        assert at_work.wait(60)
        assert f"/references/jobs/{job['id']}/cancel" in client.get(f"/references/{set_id}").text
        told = client.post(f"/v1/jobs/{job['id']}/cancel").json()
        assert (told["state"], told["problem"]["type"]) == ("failed", "urn:fusion-diff:problem:cancelled")
        assert client.get("/v1/jobs?limit=1").json()["items"] == [told]
        go.set()
        assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 409
        client.app.state.service.learning._thread.join(60)
    assert learn(client, set_id, name="wanted")["state"] == "done"
    assert client.get(f"/v1/jobs/{job['id']}").json() == told
    assert "nobody wants it" not in [each["name"] for each in client.get("/v1/models").json()["items"]]


def test_a_model_that_is_saved_when_its_job_is_cancelled_is_removed(client, collect, finished, recording):
    models, (saved, go) = client.app.state.service.settings.models, recording
    before = set(models.iterdir())
    job = client.post(f"/v1/reference-sets/{collect(client, 'too late')}/enrol", json={"name": "too late"}).json()
    assert saved.wait(60)
    assert set(models.iterdir()) > before
    assert client.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "failed"
    go.set()
    client.app.state.service.learning._thread.join(60)
    assert set(models.iterdir()) == before
    assert finished(client, job["id"])["problem"]["type"] == "urn:fusion-diff:problem:cancelled"


def test_the_process_that_works_on_a_job_finds_that_it_was_cancelled(serve, database_url, collect):
    with serve(database_url=database_url) as client:
        database = client.app.state.service.database
        job = begin(client, collect(client))
        with jobs.Pulse(database, job.id, 4) as pulse:
            time.sleep(2 * jobs._BEAT_SECONDS)
            assert not pulse.cancelled
            assert client.post(f"/v1/jobs/{job.id}/cancel").status_code == 200
            deadline = time.monotonic() + 60
            while not pulse.cancelled:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_a_service_that_stops_gives_up_what_it_learns_and_says_so(serve_slow, collect):
    with serve_slow() as client:
        job = client.post(f"/v1/reference-sets/{collect(client)}/enrol", json={"name": "x"}).json()
    with serve_slow() as client:
        told = client.get(f"/v1/jobs/{job['id']}").json()
        assert (told["state"], told["problem"]["detail"]) == (
            "failed",
            "the service was shut down before this was done; start it again",
        )
        assert "x" not in [each["name"] for each in client.get("/v1/models").json()["items"]]


def test_a_fault_while_learning_is_told_and_is_in_the_log_under_the_id_of_the_request(
    client, collect, learn, monkeypatch, caplog
):
    before = _faults(client)  # other tests share this service
    monkeypatch.setattr(client.app.state.service.shelf, "base", None)  # breaks what nobody expects to break
    set_id = collect(client, "fault")
    job = learn(client, set_id, name="x")
    assert (job["state"], job["problem"]["status"], job["model"]) == ("failed", 500, None)
    assert "callable" not in job["problem"]["detail"]
    record = next(each for each in caplog.records if each.message == "fault")
    assert record.request_id == job["problem"]["request_id"]
    assert _faults(client) == before + 1
    assert learn(client, set_id, name="x")["problem"]["status"] == 500, "nothing is left in the way"


def _faults(client):
    found = re.search(r'fusion_diff_faults_total\{kind="fault"\} (\S+)', client.get("/metrics").text)
    return 0 if found is None else float(found[1])


@pytest.mark.parametrize(("what", "seed"), [("micrograph", 191), ("mark", 198)])
def test_what_was_altered_in_the_store_is_neither_learned_nor_shown(client, collect, learn, micrograph, what, seed):
    """Bytes that nobody sent are not learned under the digest of those that somebody did."""
    set_id = collect(client, f"altered {what}")
    at = f"/v1/reference-sets/{set_id}/images"
    drawn = io.BytesIO()
    Image.fromarray(np.eye(64, k=seed % 10, dtype=np.uint8) * 255).save(drawn, "PNG")
    files = {"files": ("crack.tif", micrograph("coarse", seed)), "mark": ("m.png", drawn.getvalue())}
    image = client.post(at, files=files, data={"label": "crack"}).json()["results"][0]["reference"]["id"]
    service = client.app.state.service
    with service.database.read() as session:
        row = collecting.get_image(session, set_id, image)
    Image.new("L", (64, 64), 255).save(drawn := io.BytesIO(), "PNG")
    with service.store.file(row.sha256 if what == "micrograph" else row.mark_sha256) as path:
        path.write_bytes(micrograph("coarse", 192) if what == "micrograph" else drawn.getvalue())
    job = learn(client, set_id, name="x")
    assert (job["state"], job["problem"]["status"], job["model"]) == ("failed", 500, None)
    assert "was altered in the store" in job["problem"]["detail"]
    shown = [client.get(f"{at}/{image}/{each}.png") for each in ("micrograph", "mark")]
    assert [each.status_code for each in shown] == ([500, 500] if what == "micrograph" else [200, 500])


@pytest.mark.parametrize("held", [64 * 64 * 2, 2**29])
def test_references_beyond_what_a_job_may_hold_in_memory_are_held_in_files_and_give_the_same_model(
    client, collect, learn, monkeypatch, held
):
    monkeypatch.setattr("fusion_diff.service.learning._HELD_BYTES", held)
    seen, from_micrographs = [], ReferenceSet.from_micrographs

    def look(micrographs, *args, **options):
        seen.extend(file_behind(each.levels) is not None for each in micrographs)
        return from_micrographs(micrographs, *args, **options)

    monkeypatch.setattr(ReferenceSet, "from_micrographs", look)
    job = learn(client, collect(client, f"held {held}"), name=f"held {held}")
    assert job["state"] == "done"
    assert seen == [False, *[held < 2**29] * 3]
    models = [each for each in client.get("/v1/models").json()["items"] if each["name"].startswith("held")]
    assert len({each["references_sha256"] for each in models}) == 1


def test_a_window_of_what_was_altered_in_the_store_is_not_shown(client, micrograph):
    files = {"files": ("a.tif", micrograph("fine", 193))}
    it = client.post("/v1/inspections", files=files).json()["results"][0]["inspection"]
    with client.app.state.service.store.file(it["file_sha256"]) as path:
        path.write_bytes(micrograph("fine", 194))
    answer = client.get(f"/v1/inspections/{it['id']}/micrograph.png?top=0")
    assert (answer.status_code, "was altered" in answer.json()["detail"]) == (500, True)


def test_references_without_an_authentic_one_keep_no_others_waiting(client, collect, learn, micrograph):
    made = client.post("/v1/reference-sets", json={"name": "cracks", "authentic": "fine"}).json()["id"]
    files = {"files": ("a.tif", micrograph("coarse", 197))}
    client.post(f"/v1/reference-sets/{made}/images", files=files, data={"label": "crack"})
    for what, body in (("audit", None), ("enrol", {"name": "x"})):
        refused = client.post(f"/v1/reference-sets/{made}/{what}", json=body)
        assert (refused.status_code, "no authentic reference" in refused.json()["detail"]) == (409, True)
    assert learn(client, collect(client, "free"))["state"] == "done"


def test_a_job_that_is_none_is_a_problem(client):
    assert client.get(f"/v1/jobs/{'0' * 32}").status_code == 404


@pytest.fixture
def reached(postgresql):
    """Makes a PostgreSQL database, gives its URL, and has it answer or not."""
    engine = create_engine(postgresql.replace("/NAME", "/postgres"), isolation_level="AUTOCOMMIT")
    name = f"test_{uuid.uuid4().hex}"

    def answer(whether):
        with engine.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {whether}"))
            if not whether:
                cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
                connection.execute(text(cut), {"name": name})

    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield postgresql.replace("/NAME", f"/{name}"), answer
    answer(True)
    engine.dispose()


def test_a_model_that_was_learned_while_the_records_are_away_is_recorded_when_they_are_back(
    serve, reached, collect, finished, caplog, monkeypatch
):
    url, answer = reached
    with serve(database_url=url) as client:
        service = client.app.state.service
        save = service.shelf.save

        def save_and_lose(*what):
            saved = save(*what)
            answer(False)
            return saved

        monkeypatch.setattr(service.shelf, "save", save_and_lose)
        job = client.post(f"/v1/reference-sets/{collect(client)}/enrol", json={"name": "line 7"}).json()
        while not any(each.message == "result of a job not recorded yet; trying again" for each in caplog.records):
            service.learning._thread.join(0.05)
            assert service.learning._thread.is_alive()
        answer(True)
        done = finished(client, job["id"])
        assert (done["state"], done["model"]["name"]) == ("done", "line 7")
        assert client.put(f"/v1/models/{done['model']['id']}/default").status_code == 200


def test_a_service_that_stops_while_the_records_are_away_says_where_the_model_is(
    serve, reached, collect, caplog, monkeypatch
):
    url, answer = reached
    with serve(database_url=url) as client:
        service = client.app.state.service
        save, saved = service.shelf.save, []

        def save_and_lose(*what):
            saved.append(save(*what))
            answer(False)
            return saved[0]

        monkeypatch.setattr(service.shelf, "save", save_and_lose)
        client.post(f"/v1/reference-sets/{collect(client)}/enrol", json={"name": "line 7"})
        while not any(each.message == "result of a job not recorded yet; trying again" for each in caplog.records):
            service.learning._thread.join(0.05)
    folder = saved[0][1]
    assert (folder / "manifest.json").is_file()
    assert f"{folder}: this model is saved, but may not be recorded" in [each.message for each in caplog.records]


def test_a_model_that_cannot_be_entered_into_the_records_leaves_no_folder(client, collect, learn, monkeypatch):
    service = client.app.state.service
    save, before = service.shelf.save, sorted(service.settings.models.iterdir())

    def save_under_a_name_that_is_taken(*what):
        row, folder = save(*what)
        with service.database.read() as session:
            row.number = service.shelf.get(session, None).number
        return row, folder

    monkeypatch.setattr(service.shelf, "save", save_under_a_name_that_is_taken)
    assert learn(client, collect(client, "taken"), name="x")["problem"]["status"] == 500
    assert sorted(service.settings.models.iterdir()) == before
