"""The store: bytes under their sha256, on disk and elsewhere."""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import sys
import tempfile
import uuid
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.errors import DependencyError, ServiceError
from fusion_diff.service.store import Store, packed, unpacked
from fusion_diff.service.uploads import claim


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "blobs") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


def test_what_is_put_comes_back_under_its_digest(store, tmp_path):
    sha256 = store.put(b"evidence")
    assert sha256 == hashlib.sha256(b"evidence").hexdigest()
    assert store.put(b"evidence") == sha256
    assert store.get(sha256) == b"evidence"
    with store.file(sha256) as path:
        assert path.read_bytes() == b"evidence"
    store.check()


def test_what_is_fetched_from_an_object_store_lies_in_the_folder_of_uploads_until_it_is_read(tmp_path):
    folder = tmp_path / "incoming"
    claim(folder).close()
    store = Store(f"memory://{uuid.uuid4().hex}", folder)
    sha256 = store.put(b"evidence")
    fetching = store.file(sha256)
    path = fetching.__enter__()
    assert path.read_bytes() == b"evidence"
    assert path.is_relative_to(folder)
    claim(folder).close()
    assert not path.exists(), "what a killed process fetched does not stay"
    fetching.__exit__(None, None, None)
    with store.file(sha256):
        pass
    assert not any(folder.iterdir())


def test_a_file_is_put_whole(store, tmp_path):
    content = os.urandom(3_000_000)
    sha256 = hashlib.sha256(content).hexdigest()
    for _ in range(2):
        (tmp_path / "upload").write_bytes(content)
        store.put_file(tmp_path / "upload", sha256)
    assert store.get(sha256) == content


def test_a_file_that_windows_holds_for_a_moment_is_moved_then(tmp_path, monkeypatch):
    from pathlib import Path

    store, replace, tries = Store(str(tmp_path / "blobs")), Path.replace, []

    def held(self, target):
        tries.append(self.name)
        if len(tries) == 1:
            raise PermissionError(13, "Access is denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", held)
    monkeypatch.setattr(sys, "platform", "win32")
    (tmp_path / "upload").write_bytes(b"held")
    sha256 = hashlib.sha256(b"held").hexdigest()
    store.put_file(tmp_path / "upload", sha256)
    assert store.get(sha256) == b"held"
    assert tries == ["upload", "upload"], "moved, not copied"


def test_a_file_on_another_disk_is_copied(tmp_path, monkeypatch):
    from pathlib import Path

    store, replace = Store(str(tmp_path / "blobs")), Path.replace

    def across(self, target):
        if self.name == "upload":
            raise OSError(18, "Invalid cross-device link")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", across)
    (tmp_path / "upload").write_bytes(b"far")
    sha256 = hashlib.sha256(b"far").hexdigest()
    store.put_file(tmp_path / "upload", sha256)
    assert store.get(sha256) == b"far"
    assert len([file for file in (tmp_path / "blobs").rglob("*") if file.is_file()]) == 1


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "0" * 63, "G" * 64, "0" * 62 + "/x"])
def test_what_is_no_digest_is_not_looked_for(store, name):
    for ask in (store.get, lambda name: store.file(name).__enter__(), lambda name: store.put_file(None, name)):
        with pytest.raises(ServiceError, match="not a hexadecimal SHA-256 digest"):
            ask(name)


def test_what_is_not_there_or_was_altered_is_an_error(store, tmp_path):
    with pytest.raises(ServiceError, match="not in the store"):
        store.get("0" * 64)
    with pytest.raises(ServiceError, match="not in the store"), store.file("0" * 64):
        pass
    sha256 = store.put(b"whole")
    store._files.pipe_file(f"{store._root}/{sha256[:2]}/{sha256[2:]}", b"altered")
    with pytest.raises(ServiceError, match="altered"):
        store.get(sha256)


@pytest.mark.parametrize("damaged", [b"whale", b"who", b"", None])
def test_what_was_damaged_or_removed_is_mended_by_storing_it_again(store, tmp_path, damaged):
    sha256 = hashlib.sha256(b"whole").hexdigest()

    def put_file():
        (tmp_path / "upload").write_bytes(b"whole")
        store.put_file(tmp_path / "upload", sha256)

    for put in (lambda: store.put(b"whole"), put_file):
        put()
        if damaged is None:
            store.remove(sha256)
            store.remove(sha256)
        else:
            store._files.pipe_file(f"{store._root}/{sha256[:2]}/{sha256[2:]}", damaged)
        with pytest.raises(ServiceError):
            store.get(sha256)
        put()
        assert store.get(sha256) == b"whole"


def test_storing_content_again_renews_its_age(store, tmp_path):
    sha256 = hashlib.sha256(b"whole").hexdigest()
    assert store.seconds_since_put(sha256) == math.inf

    def put_file():
        (tmp_path / "upload").write_bytes(b"whole")
        store.put_file(tmp_path / "upload", sha256)

    for put in (lambda: store.put(b"whole"), put_file):
        put()
        if store._local:
            os.utime(store._place(sha256), (1e9, 1e9))
        else:
            store._files.store[store._place(sha256)].modified = datetime.fromtimestamp(1e9, UTC)
        assert store.seconds_since_put(sha256) > 86_400
        put()
        assert store.seconds_since_put(sha256) < 86_400


def test_a_folder_that_takes_no_file_is_told_where_that_matters(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "blobs"))
    store.check(writing=True)
    assert list((tmp_path / "blobs").iterdir()) == []

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    with pytest.raises(ServiceError, match=r"No space left.*free space"):
        store.check(writing=True)
    store.check()


def test_a_url_that_cannot_be_used_is_an_error():
    with pytest.raises((ServiceError, DependencyError)):
        Store("nothing://anywhere")


@given(st.lists(st.floats(width=32), min_size=1, max_size=30))
def test_evidence_comes_back_bit_by_bit(values):
    array = np.array([values], dtype=np.float32)
    back = unpacked(packed(array))
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()


def test_a_pickle_is_not_unpacked():
    buffer = io.BytesIO()
    np.save(buffer, np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        unpacked(buffer.getvalue())
