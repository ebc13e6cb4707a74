"""Which faults are a micrograph's own and become its row, and which end the run, so that the next tries again."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import pytest

from fusion_diff.batch.engine import MOST_GIVEN_UP
from fusion_diff.batch.run import run_batch
from fusion_diff.errors import BatchError
from fusion_diff.micrograph import storage

MANY = 2 * MOST_GIVEN_UP


@pytest.fixture
def listing(tmp_path, folder):
    """A function that writes a list of micrographs in `folder` and returns its path."""

    def write(*names):
        (tmp_path / "list.csv").write_text("\n".join(["path", *(f"in/{name}.tif" for name in names)]) + "\n")
        return str(tmp_path / "list.csv")

    return write


@pytest.fixture
def failed(tmp_path, read_rows):
    """A function that returns the names in the output by whether they have an error: without, and with."""

    def split():
        rows = {Path(row["path"]).stem: row["error"] for row in read_rows(tmp_path / "out")}
        return sorted(name for name in rows if not rows[name]), sorted(name for name in rows if rows[name])

    return split


@pytest.fixture
def refusing(store, monkeypatch):
    """The names that the store refuses to give, as it does without valid credentials."""
    names, real = set(), store._open

    def refuse(self, path, *args, **kwargs):
        if Path(path).stem in names:
            raise PermissionError(errno.EACCES, "Access Denied")
        return real(self, path, *args, **kwargs)

    monkeypatch.setattr(store, "_open", refuse)
    return names


def test_a_store_that_refuses_everything_ends_the_run_and_no_micrograph_counts_as_done(
    refusing, tmp_path, engine, failed
):
    refusing.update("01234567", ["spot", "spot.png"])
    with pytest.raises(BatchError, match=r"no micrograph can be inspected any more.*Access Denied.*1 row is kept in"):
        run_batch(["failing://line/broken.tif", "failing://line"], tmp_path / "out", engine)
    assert failed() == ([], ["broken"])
    refusing.clear()
    assert run_batch("failing://line", tmp_path / "out", engine).kept == 11
    assert failed()[1] == ["broken"]


def test_a_store_that_refuses_from_some_time_on_leaves_what_was_done_before(refusing, tmp_path, engine, failed):
    def refuse(done, total):
        if done.finished == 4:
            refusing.update("01234567", ["spot", "spot.png", "broken"])

    with pytest.raises(BatchError, match=r"no micrograph can be inspected any more.*4 rows are kept in"):
        run_batch("failing://line", tmp_path / "out", engine, progress=refuse)
    assert sum(map(len, failed())) == 4


@pytest.mark.parametrize("name", ["0", "4", "7"])
def test_a_file_that_is_refused_among_others_is_an_error_in_its_row(refusing, tmp_path, engine, failed, name):
    refusing.add(name)
    run_batch("failing://line/[0-7].tif", tmp_path / "out", engine)
    assert failed() == (sorted(set("01234567") - {name}), [name])


def test_files_of_a_share_that_is_not_mounted_are_not_done(tmp_path, folder, listing, engine, failed):
    table = listing("0", "1")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(BatchError, match=r"no micrograph can be inspected any more.*there is no such file"):
        run_batch(table, tmp_path / "out", engine)
    assert failed() == ([], [])
    (tmp_path / "elsewhere").rename(folder)
    run_batch(table, tmp_path / "out", engine)
    assert failed() == (["0", "1"], [])


def test_a_missing_file_is_an_error_in_its_row_also_where_all_others_were_done_before(
    tmp_path, listing, engine, failed
):
    run_batch(listing("0"), tmp_path / "out", engine)
    run_batch(listing("0", "gone"), tmp_path / "out", engine)
    assert failed() == (["0"], ["gone"])


def test_many_missing_files_do_not_end_a_run_that_can_still_inspect_others(tmp_path, listing, engine, failed):
    gone = sorted(f"gone-{index}" for index in range(MANY))
    run_batch(listing("0", *gone, "1"), tmp_path / "out", engine)
    assert failed() == (["0", "1"], gone)


def test_a_run_that_begins_with_many_missing_files_ends_soon(tmp_path, listing, engine, darkness_model):
    judged = []
    darkness_model.inspect = lambda micrograph, alpha: judged.append(micrograph)
    with pytest.raises(BatchError, match="no micrograph can be inspected any more"):
        run_batch(listing(*(f"gone-{index}" for index in range(MANY)), "0"), tmp_path / "out", engine)
    assert not judged


@pytest.mark.parametrize("name", ["0", "4", "7"])
def test_a_micrograph_that_there_is_no_room_for_does_not_keep_others_from_being_inspected(
    folder, tmp_path, engine, save_micrograph, failed, monkeypatch, no_room, name
):
    save_micrograph(folder / f"{name}.tif", 0.5, side=256)
    monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 2**16)
    no_room()
    run_batch(str(folder / "[0-7].tif"), tmp_path / "out", engine)
    assert failed() == (sorted(set("01234567") - {name}), [name])


def test_a_micrograph_at_which_the_program_fails_is_told_with_the_place(
    folder, tmp_path, engine, darkness_model, read_rows
):
    judge, calls = darkness_model.inspect, itertools.count()

    def inspect(micrograph, *, alpha):
        if next(calls) < 2:
            raise ZeroDivisionError("division by zero")
        return judge(micrograph, alpha=alpha)

    darkness_model.inspect = inspect
    run_batch(str(folder / "[0-7].tif"), tmp_path / "out", engine)
    errors = [row["error"] for row in read_rows(tmp_path / "out") if row["error"]]
    assert len(errors) == 2
    said = "tif: the program failed at it (ZeroDivisionError: division by zero; test_batch_faults.py, line "
    assert all(said in error for error in errors)


def test_rows_with_an_error_stay_until_their_micrographs_are_looked_at_again(
    tmp_path, folder, listing, engine, failed, save_micrograph
):
    out = tmp_path / "out"
    run_batch(str(folder), out, engine)
    assert run_batch(listing("0"), out, engine, retry=True).kept == 11
    assert failed()[1] == ["broken"]
    (folder / "broken.tif").rename(folder / "moved.tif")
    assert run_batch(str(folder), out, engine, retry=True).kept == 12
    assert failed()[1] == ["broken", "moved"]
    save_micrograph(folder / "moved.tif", 0.8)
    done = run_batch(str(folder), out, engine, retry=True)
    assert (done.finished, done.kept) == (1, 12)
    assert failed()[1] == ["broken"]


def test_rows_with_an_error_stay_where_trying_again_ends_in_an_error(refusing, tmp_path, engine, failed):
    refusing.add("0")
    run_batch("failing://line", tmp_path / "out", engine)
    refusing.update("01234567", ["spot", "spot.png", "broken"])
    with pytest.raises(BatchError, match="11 rows are kept"):
        run_batch("failing://line/0.tif", tmp_path / "out", engine, retry=True)
    assert failed()[1] == ["0", "broken"]
