"""Files that no record names are found in the store, and deleted when an operator asks for it."""

from __future__ import annotations

import os
import time

import pytest

from fusion_diff.cli import main
from fusion_diff.errors import ServiceError
from fusion_diff.service.database import Database
from fusion_diff.service.pruning import SPARED_SECONDS, unused
from fusion_diff.service.store import Store


@pytest.fixture
def prune(tmp_path, capsys):
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["service-prune", "--data", str(tmp_path), *words])
        return code, *capsys.readouterr()

    return run


def age(store):
    """Let all that is stored have been there for longer than a file is spared."""
    then = time.time() - SPARED_SECONDS - 60
    for sha256 in store.sizes():
        os.utime(store._place(sha256), (then, then))


@pytest.fixture
def removed(serve, micrograph, tmp_path):
    """A data folder with one inspection, whose micrograph was a reference too, and files of a set that was removed."""
    with serve(data=tmp_path) as client:
        yield _without_its_set(client, micrograph)


def _without_its_set(client, micrograph):
    made = client.post("/v1/reference-sets", json={"name": "line 7", "authentic": "fine"}).json()["id"]
    files = [("files", (f"{seed}.tif", micrograph("fine", seed))) for seed in range(3)]
    assert client.post(f"/v1/reference-sets/{made}/images", data={"label": "fine"}, files=files).status_code == 200
    assert client.post("/v1/inspections", files=files[:1]).status_code == 200
    assert client.delete(f"/v1/reference-sets/{made}").status_code == 204
    return client


def test_what_no_record_names_is_counted_and_deleted_only_when_that_is_asked_for(removed, prune, tmp_path):
    store = Store(str(tmp_path / "blobs"))
    (tmp_path / "blobs" / "notes.txt").write_text("mine")
    before = store.sizes()
    code, out, _ = prune()
    assert code == 0
    assert out.startswith("No record names 2 files of 0.")
    assert store.sizes() == before
    code, out, _ = prune("--delete")
    assert code == 0
    assert out.startswith("Deleted: 0 files of 0.0 MiB that no record named. 2 files put there within a day stayed")
    assert store.sizes() == before, "records may be about to name them"
    age(store)
    code, out, _ = prune("--delete")
    assert code == 0
    assert out.startswith("Deleted: 2 files of 0.")
    assert "stayed" not in out
    assert len(store.sizes()) == len(before) - 2 == 3, "micrograph, evidence and thumbnail of the inspection"
    assert (tmp_path / "blobs" / "notes.txt").is_file()
    assert prune()[1].startswith("No record names 0 files")
    (row,) = removed.get("/v1/inspections").json()["items"]
    assert removed.get(f"/v1/inspections/{row['id']}/micrograph.png").status_code == 200


def test_what_a_running_service_is_about_to_name_again_stays(removed, prune, micrograph, tmp_path, monkeypatch):
    """Each step of another process comes at the worst moment: when the old files have been found to be in no record."""
    store, found, sent = Store(str(tmp_path / "blobs")), Store.sizes, []
    age(store)

    def send_meanwhile(self):
        listed = found(self)
        if not sent:
            sent.append(removed.post("/v1/inspections", files={"files": ("1.tif", micrograph("fine", 1))}).json())
        return listed

    monkeypatch.setattr(Store, "sizes", send_meanwhile)
    code, out, _ = prune("--delete")
    assert code == 0
    assert out.startswith("Deleted: 1 file of 0.")
    it = sent[0]["results"][0]["inspection"]["id"]
    assert removed.get(f"/v1/inspections/{it}/micrograph.png").status_code == 200
    monkeypatch.undo()
    assert prune()[1].startswith("No record names 0 files")


def test_nothing_is_deleted_where_database_and_store_do_not_belong_together(removed, prune, tmp_path):
    store = Store(str(tmp_path / "blobs"))
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    with other.read() as session, pytest.raises(ServiceError, match="names no file at all"):
        unused(session, store)
    other.close()
    gone = next(iter(store.sizes().keys() - _unnamed(tmp_path, store)))
    store.remove(gone)
    before = store.sizes()
    code, _, err = prune("--delete")
    assert code == 3
    assert "names 1 file that the store does not have" in err
    assert f"{gone} of 0.tif" in err
    assert store.sizes() == before


def _unnamed(folder, store) -> set[str]:
    database = Database(f"sqlite:///{folder / 'records.db'}")
    try:
        with database.read() as session:
            return set(unused(session, store))
    finally:
        database.close()
