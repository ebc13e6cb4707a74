"""Fixtures: micrographs for batches, engines, stores, and reading of the written rows."""

from __future__ import annotations

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fusion_diff.batch import items as items_module
from fusion_diff.batch.engine import LocalEngine, Settings


class Failing(MemoryFileSystem):
    """A store in memory that stops answering after `answers` calls."""

    protocol = "failing"
    answers = 10**9
    listings = 0
    store = {}  # noqa: RUF012 (as its base has it)
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("failing://", "memory://"))

    def info(self, path, **kwargs):
        self._answer()
        return super().info(path, **kwargs)

    def _open(self, path, *args, **kwargs):
        self._answer()
        return super()._open(path, *args, **kwargs)

    def ls(self, path, detail=True, **kwargs):
        self._answer()
        type(self).listings += 1
        return super().ls(path, detail, **kwargs)

    @classmethod
    def _answer(cls):
        cls.answers -= 1
        if cls.answers < 0:
            raise ConnectionError("connection refused")


@pytest.fixture
def folder(tmp_path, save_micrograph):
    """A folder of ten micrographs, two of them in a subfolder, and a broken file."""
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    for index in range(8):
        save_micrograph(folder / f"{index}.tif", 0.3 + 0.07 * index)
    save_micrograph(folder / "deeper" / "spot.tif", 0.8, spot=True)
    save_micrograph(folder / "deeper" / "spot.png.tif", 0.7, spot=True)
    (folder / "broken.tif").write_bytes(b"II*\0 not a picture")
    return folder


@pytest.fixture
def engine(darkness_model):
    """An engine with the small model."""
    return LocalEngine(darkness_model, Settings())


@pytest.fixture
def read_rows():
    """A function that returns all rows of an output folder in the order of writing."""
    import pyarrow.parquet as parquet

    def read(out):
        rows = []
        for part in sorted(out.glob("*.parquet")):
            rows += parquet.read_table(part).to_pylist()
        return rows

    return read


@pytest.fixture
def store(folder, monkeypatch):
    """A store that holds the folder under `failing://line`. It answers unless a test limits `answers`."""
    fsspec.register_implementation("failing", Failing, clobber=True)
    monkeypatch.setattr(items_module, "PAUSE_S", 0)
    monkeypatch.setattr(Failing, "answers", 10**9)
    monkeypatch.setattr(Failing, "store", {})
    monkeypatch.setattr(Failing, "pseudo_dirs", [""])
    fsspec.filesystem("failing").put(str(folder), "/line", recursive=True)
    return Failing
