"""Files of removed references: deleted a day later, unless something refers to them or is about to."""

from __future__ import annotations

import hashlib
import threading
from datetime import timedelta

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from fusion_diff.service import discarding, jobs
from fusion_diff.service.database import Database
from fusion_diff.service.discarding import Sweeper, delete_next, discard, renew, store_uploads
from fusion_diff.service.store import Store
from fusion_diff.service.tables import Discarded, Job, ReferenceImage, ReferenceSet, now
from fusion_diff.service.uploads import Upload

AT_ONCE = timedelta(0)


@pytest.fixture
def database(database_url):
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "blobs"))


def files(service_or_store):
    store = getattr(service_or_store, "store", service_or_store)
    return {path.replace(f"{store._root}/", "").replace("/", "") for path in store._files.find(store._root)}


def sweep(service):
    while delete_next(service.database, service.store, AT_ONCE):
        pass
    return files(service)


def digest(content):
    return hashlib.sha256(content).hexdigest()


def png(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "mark.png")
    return (tmp_path / "mark.png").read_bytes()


def new_set(client, name):
    made = client.post("/v1/reference-sets", json={"name": name, "authentic": "fine"})
    return f"/v1/reference-sets/{made.json()['id']}"


def add(client, at, content, mark=None, label="crack"):
    sent = {"files": ("a.tif", content)} | ({} if mark is None else {"mark": ("m.png", mark)})
    return client.post(f"{at}/images", files=sent, data={"label": label}).json()["results"][0]


def test_files_of_removed_references_are_deleted_unless_something_refers_to_them(serve, micrograph, tmp_path):
    one, two, three = (micrograph("coarse", seed) for seed in (180, 181, 182))
    marks = [png(tmp_path, np.full((64, 64), level, np.uint8)) for level in (255, 254)]
    with serve() as client:
        service = client.app.state.service
        at, other = new_set(client, "line 7"), new_set(client, "line 8")
        first = add(client, at, one, marks[0])["reference"]
        for where, content in ((at, two), (at, three), (other, two)):
            add(client, where, content)
        inspected = client.post("/v1/inspections", files={"files": ("c.tif", three)}).json()["results"][0]["inspection"]
        kept = sweep(service)
        assert {digest(each) for each in (one, two, three, marks[0])} < kept

        client.put(f"{at}/images/{first['id']}/mark", files={"mark": ("m.png", marks[1])})
        assert kept - sweep(service) == {digest(marks[0])}, "the mark that was replaced"
        client.delete(f"{at}/images/{first['id']}/mark")
        assert digest(marks[1]) not in sweep(service)
        assert client.delete(f"{at}/images/{first['id']}").status_code == 204
        assert not delete_next(service.database, service.store), "not before a day has passed"
        assert digest(one) in files(service)
        kept = sweep(service)
        assert digest(one) not in kept

        assert client.delete(at).status_code == 204
        assert sweep(service) == kept, "another set and an inspection refer to what is left"
        client.delete(other)
        assert kept - sweep(service) == {digest(two)}
        place = f"/v1/inspections/{inspected['id']}/micrograph.png"
        assert client.get(f"{place}?top=0&left=0").status_code == 200
        with service.database.read() as session:
            assert session.scalars(select(Discarded)).all() == []


@pytest.mark.parametrize("page", [False, True])
def test_whichever_way_references_are_removed_their_files_are_deleted(serve, micrograph, page):
    with serve() as client:
        service = client.app.state.service
        at = new_set(client, "line 7")
        shown = f"/references/{at.rpartition('/')[2]}"
        one, two, _ = (add(client, at, micrograph("coarse", seed))["reference"]["id"] for seed in (185, 186, 187))
        if page:
            chosen = {"image": [one, two, one]}
            assert client.post(f"{shown}/images/chosen/remove", data=chosen).is_success
        else:
            assert all(client.delete(f"{at}/images/{each}").is_success for each in (one, two))
        assert sweep(service) == {digest(micrograph("coarse", 187))}
        client.delete(shown if page else at)
        assert sweep(service) == set()


def test_a_thumbnail_that_was_also_a_reference_stays(serve, micrograph):
    with serve() as client:
        service = client.app.state.service
        done = client.post("/v1/inspections", files={"files": ("c.tif", micrograph("fine", 183))})
        place = f"/v1/inspections/{done.json()['results'][0]['inspection']['id']}/micrograph.png"
        at = new_set(client, "line 7")
        assert add(client, at, client.get(place).content)["reference"]
        client.delete(at)
        sweep(service)
        assert client.get(place).status_code == 200


def test_files_of_references_that_were_refused_are_deleted(serve, micrograph, monkeypatch):
    with serve() as client:
        monkeypatch.setattr("fusion_diff.service.collecting.MAX_REFERENCES", 0)
        told = add(client, new_set(client, "line 7"), micrograph("coarse", 184))["problem"]
        assert told["status"] == 422
        assert files(client.app.state.service) == {digest(micrograph("coarse", 184))}
        assert sweep(client.app.state.service) == set()


def upload(tmp_path, content):
    path = tmp_path / f"upload-{digest(content)[:8]}"
    path.write_bytes(content)
    return Upload(path, "a.tif", digest(content), len(content))


def old(database, content):
    """Discard this content as if it were two days ago."""
    with database.write() as session:
        discard(session, [digest(content)])
        session.get_one(Discarded, digest(content)).since = now() - timedelta(days=2)


def test_what_is_stored_again_while_it_is_deleted_is_there_afterwards(database, store, tmp_path):
    """The file is deleted just after somebody else wanted to store the same content, who then has to wait."""
    store.put(b"same")
    old(database, b"same")
    again = threading.Thread(target=store_uploads, args=(database, store, [upload(tmp_path, b"same")]))
    remove = store.remove

    def slowly(sha256):
        again.start()
        again.join(1)
        assert again.is_alive(), "it waits for the row"
        remove(sha256)

    store.remove = slowly
    assert delete_next(database, store)
    again.join(60)
    assert store.get(digest(b"same")) == b"same"
    assert not delete_next(database, store)


@pytest.mark.parametrize("keep", ["discard", "renew", "reference", "job"])
def test_what_was_stored_again_or_is_in_use_is_not_deleted(database, store, keep):
    store.put(b"same")
    old(database, b"same")
    with database.write() as session:
        if keep == "renew":
            renew(session, [digest(b"same"), digest(b"other")])
        elif keep == "discard":
            discard(session, [digest(b"same"), None])
        elif keep == "job":
            session.add(Job(kind="audit", subject="", total=1, model=None))
        else:
            images = [ReferenceImage(name="a", label="b", group="c", sha256="0" * 64, mark_sha256=digest(b"same"))]
            session.add(ReferenceSet(name="line 7", authentic="fine", images=images))
    assert delete_next(database, store) == (keep == "reference"), "which is then no longer discarded"
    assert not delete_next(database, store)
    assert files(store) == {digest(b"same")}
    if keep == "job":
        with database.write() as session:
            session.scalars(select(Job)).one().heard = now() - timedelta(seconds=2 * jobs.SILENT_SECONDS)
        assert delete_next(database, store), "the process of the job is gone"
        assert files(store) == set()


def test_a_file_that_cannot_be_deleted_keeps_no_others(database, store, tmp_path):
    for content in (b"first", b"second"):
        store.put(content)
        old(database, content)
    with database.write() as session:
        session.get_one(Discarded, digest(b"first")).since -= timedelta(days=1)
    (place,) = (tmp_path / "blobs").glob(f"{digest(b'first')[:2]}/*")
    place.unlink()
    place.mkdir()  # which the store does not delete as a file
    assert not delete_next(database, store)
    assert delete_next(database, store)
    assert not (tmp_path / "blobs" / digest(b"second")[:2] / digest(b"second")[2:]).exists()
    with database.read() as session:
        assert [each.sha256 for each in session.scalars(select(Discarded))] == [digest(b"first")]


def test_deleting_goes_on_where_a_killed_process_left_off(database, store):
    store.put(b"same")
    old(database, b"same")
    remove = store.remove

    def killed(sha256):
        remove(sha256)
        raise KeyboardInterrupt

    store.remove = killed
    with pytest.raises(KeyboardInterrupt):
        delete_next(database, store)
    store.remove = remove
    assert delete_next(database, store)
    assert not delete_next(database, store)


def test_a_service_deletes_by_itself(database, store, monkeypatch):
    monkeypatch.setattr(discarding, "_EVERY_SECONDS", 0.01)
    store.put(b"same")
    old(database, b"same")
    sweeper = Sweeper(database, store)
    for _ in range(600):
        if not files(store):
            break
        threading.Event().wait(0.05)
    assert not files(store)
    sweeper.close(60)
    assert not sweeper._thread.is_alive()


def test_a_store_that_hangs_does_not_keep_the_service_from_ending(database, store, monkeypatch):
    monkeypatch.setattr(discarding, "_EVERY_SECONDS", 0.01)
    old(database, b"same")
    begun, go_on = threading.Event(), threading.Event()
    store.remove = lambda _: (begun.set(), go_on.wait(60))
    sweeper = Sweeper(database, store)
    assert begun.wait(60)
    sweeper.close(0)
    assert sweeper._thread.is_alive()
    go_on.set()
    sweeper.close(60)
    assert not sweeper._thread.is_alive()
