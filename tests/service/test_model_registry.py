"""Which model judges: the one that was asked for, by its digest, and never what lies in its place by now."""

from __future__ import annotations

import shutil
import threading
from contextlib import contextmanager
from functools import partial

import pytest
from sqlalchemy import select

from fusion_diff.errors import CheckpointError, EnrolmentError
from fusion_diff.model import DiffusionModel
from fusion_diff.service.database import Database
from fusion_diff.service.model_registry import Shelf, enter
from fusion_diff.service.problems import ConflictError
from fusion_diff.service.settings import Settings
from fusion_diff.service.tables import Model


@pytest.fixture(scope="module")
def saved(enrolled_folder, tmp_path_factory):
    """A folder with one model under two names, `first` and `second`, whose digests differ."""
    folder = tmp_path_factory.mktemp("saved")
    model = DiffusionModel.from_pretrained(enrolled_folder)
    for model.name in ("first", "second"):
        model.save_pretrained(folder / model.name)
    return folder


@pytest.fixture
def put(saved, tmp_path):
    """Puts one of them into the folder `line`, in the place of what is there."""

    def put_there(name):
        shutil.rmtree(tmp_path / "line", ignore_errors=True)
        shutil.copytree(saved / name, tmp_path / "line")

    return put_there


@pytest.fixture
def shelf(tmp_path):
    """Starts processes on the same records; gives the shelf of each."""
    opened = []

    def start():
        opened.append(Database(f"sqlite:///{tmp_path / 'records.db'}"))
        return Shelf(Settings(data=tmp_path, model=str(tmp_path / "line"), insecure=True), opened[-1])

    yield start
    for database in opened:
        database.close()


def files(micrograph):
    return [("files", ("a.tif", micrograph("fine", 171)))]


def test_a_request_that_names_a_model_is_not_answered_by_another_in_its_place(serve, put, tmp_path, micrograph):
    put("first")
    with serve(model=str(tmp_path / "line")) as client:
        old = client.get("/v1/models").json()["items"][0]
    put("second")
    with serve(model=str(tmp_path / "line")) as client:
        shown = client.get("/v1/models").json()["items"]
        assert [(each["name"], each["is_default"]) for each in shown] == [("second", True), ("first", False)]
        answer = client.post("/v1/inspections", files=files(micrograph), data={"model": old["id"]})
        told = answer.json()["results"][0]["problem"]
        assert (told["status"], told["type"]) == (409, "urn:fusion-diff:problem:conflict")
        assert "another model has been put in its place; choose another one" in told["detail"]
        assert client.put(f"/v1/models/{old['id']}/default").status_code == 409
        answer = client.post("/v1/inspections", files=files(micrograph))
        assert answer.json()["results"][0]["inspection"]["model_sha256"] == shown[0]["sha256"]


def test_a_model_that_is_replaced_under_a_service_does_not_teach(shelf, put):
    put("first")
    running = shelf()
    put("second")
    with pytest.raises(ConflictError, match="another model has been put in its place"):
        running.base()
    running.check()  # it judges on with what it holds
    running._held.clear()
    with pytest.raises(ConflictError, match="another model has been put in its place"):
        running.check()


def test_in_a_rolling_update_each_process_judges_with_what_it_was_started_with(shelf, put, tmp_path):
    put("first")
    old = shelf()
    put("second")
    new = shelf()
    assert (old.default().name, new.default().name) == ("first", "second")
    old.check()
    new.check()
    row, _ = new.save(new.base(), "line 8")
    with new._database.write() as session:
        enter(session, row, None, default=True)
    assert old.default().name == new.default().name == "line 8"
    old.check()
    with old._database.write() as session:
        assert old.choose(session, old._base_id).name == "first"
    assert (old.default().name, new.default().name) == ("first", "second")
    with new._database.write() as session, pytest.raises(ConflictError, match=r"start it with --model .*line again"):
        new.choose(session, old._base_id)


def test_a_default_that_an_earlier_version_left_on_a_model_it_was_started_with_is_passed_over(shelf, put):
    put("first")
    old = shelf()
    with old._database.write() as session:
        session.get_one(Model, 1).is_default = True
    put("second")
    assert shelf().default().name == "second"


def test_processes_that_start_together_enter_their_model_once(enrolled_folder, database_url, tmp_path, at_once):
    databases, shelves, barrier = [Database(database_url) for _ in range(3)], [], threading.Barrier(3)

    class Together(Database):
        """Begins to write when all do."""

        def __init__(self, database):
            self._database = database

        @contextmanager
        def write(self):
            barrier.wait()
            with self._database.write() as session:
                yield session

    def start(database):
        settings = Settings(data=tmp_path, model=str(enrolled_folder), insecure=True)
        shelves.append(Shelf(settings, Together(database)))

    at_once(*(partial(start, each) for each in databases))
    assert len(shelves) == 3
    with databases[0].read() as session:
        assert len(session.scalars(select(Model)).all()) == 1
    for database in databases:
        database.close()


def test_without_references_a_service_is_not_ready_until_a_model_that_has_some_judges(
    serve, enrolled_folder, tmp_path, micrograph
):
    bare = DiffusionModel.from_pretrained(enrolled_folder)
    bare.enrolment = None
    bare.save_pretrained(tmp_path / "bare")
    with serve(model=str(tmp_path / "bare")) as client:
        assert client.get("/readyz").status_code == 503
        service = client.app.state.service
        with pytest.raises(EnrolmentError, match=r"has no references.*fusion-diff enroll"):
            service.shelf.check()
        files = [("files", ("a.tif", micrograph("fine", 160)))]
        answer = client.post("/v1/inspections", files=files)
        assert answer.status_code == 409, "no file is at fault"
        assert "enrol references here" in answer.json()["detail"]
        row, _ = service.shelf.save(DiffusionModel.from_pretrained(enrolled_folder), "line 7")
        with service.database.write() as session:
            enter(session, row, None, default=True)
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/inspections", files=files).status_code == 200


def test_models_in_memory_are_found_while_another_is_loaded(shelf, put, saved, monkeypatch):
    put("first")
    running = shelf()
    row, _ = running.save(running.base(), "line 8")
    with running._database.write() as session:
        enter(session, row, None, default=False)
    begun, go_on, load = threading.Event(), threading.Event(), DiffusionModel.from_pretrained

    def slowly(place):
        begun.set()
        assert go_on.wait(60)
        return load(place)

    monkeypatch.setattr(DiffusionModel, "from_pretrained", slowly)
    found = []
    loading = [threading.Thread(target=lambda: found.append(running.find(row.id))) for _ in range(2)]
    quick = threading.Thread(target=running.find, args=(running.default().id,), daemon=True)
    for thread in loading:
        thread.start()
    assert begun.wait(60)
    quick.start()
    quick.join(30)
    stalled = quick.is_alive()
    go_on.set()
    for thread in loading:
        thread.join(60)
    assert not stalled
    assert found[0] is found[1], "two requests load it once"


def test_a_model_that_was_removed_is_told_as_before(shelf, put, tmp_path):
    put("first")
    running = shelf()
    shutil.rmtree(tmp_path / "line")
    with pytest.raises(CheckpointError):
        running.base()
