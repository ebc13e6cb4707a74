from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fusion_diff.batch import parts as parts_module
from fusion_diff.batch.done import DoneSet
from fusion_diff.batch.engine import LocalEngine, Settings
from fusion_diff.batch.items import Item
from fusion_diff.batch.parts import ParquetOutput
from fusion_diff.batch.rows import FORMAT, schema
from fusion_diff.batch.run import run_batch
from fusion_diff.checkpoint import EMBEDDED
from fusion_diff.errors import BatchError, CheckpointError, EnrolmentError
from fusion_diff.inspection.run import load_inspector
from fusion_diff.micrograph import storage

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "batch.py"


def test_every_micrograph_has_one_row_and_a_bad_file_has_its_error(folder, tmp_path, engine, read_rows):
    started = datetime.now(UTC)
    done = run_batch(str(folder), tmp_path / "out", engine, rows=4)
    rows = read_rows(tmp_path / "out")
    assert sorted(row["path"] for row in rows) == sorted(str(path) for path in folder.rglob("*.tif"))
    assert (done.finished, done.kept, done.decisions["error"]) == (11, 11, 1)
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 3
    by_name = {Path(row["path"]).name: row for row in rows}
    bad = by_name["broken.tif"]
    assert "broken.tif" in bad["error"]
    assert (bad["score"], bad["decision"], bad["regions"], bad["model_sha256"]) == (None, None, None, "ab" * 32)
    assert done.errors == [bad["error"]]
    assert len(bad["file_sha256"]) == 64
    assert all(started <= row["judged"] <= datetime.now(UTC) for row in rows)
    spot = by_name["spot.tif"]
    assert (spot["decision"], spot["predicted_class"], spot["alpha"], spot["error"]) == (
        "not authentic",
        "dark",
        0.1,
        None,
    )
    assert spot["p_authentic"] == pytest.approx(spot["score"])
    assert 100 < spot["regions"][0]["area_px"] < 256
    assert spot["regions"][0]["area_um2"] is None
    assert spot["key"] == Item(spot["path"]).key
    assert {row["seconds"] for row in rows if row["error"] is None} == {0.01}, "as its verdict has it"
    assert bad["seconds"] is None
    assert all(row["heatmap"] is None for row in rows)


def test_a_file_says_its_format_and_what_its_rows_were_made_with(folder, tmp_path, darkness_model):
    darkness_model.sha256 = "12" * 32
    run_batch(str(folder / "0.tif"), tmp_path / "out", LocalEngine(darkness_model, Settings(0.2, 0.5)))
    found = parquet.read_schema(tmp_path / "out" / "part-000001.parquet")
    assert found.remove_metadata() == schema()
    assert found.metadata[b"fusion_diff.format"] == FORMAT.encode()
    run = json.loads(found.metadata[b"fusion_diff.run"])
    assert (run["model_sha256"], run["alpha"], run["pixel_size_um"]) == ("12" * 32, 0.2, 0.5)


def test_a_row_tells_of_the_file_and_whether_the_score_is_calibrated(tmp_path, engine, read_rows):
    pixels = np.random.default_rng(0).integers(0, 255, (80, 64), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(pixels[::2, ::2], subfiletype=1, metadata=None)
        writer.write(pixels, metadata=None)
    run_batch(str(tmp_path / "a.tif"), tmp_path / "out", engine)
    (row,) = read_rows(tmp_path / "out")
    assert (row["calibrated"], row["page"], row["height"]) == (True, 1, 80)
    assert row["notes"] == [
        "The first page is a thumbnail of 32x40 pixels, so page 1 (counted from 0) of 64x80 pixels was read."
    ]


def test_a_row_has_the_reasons_of_its_verdict(folder, tmp_path, engine, darkness_model, read_rows, monkeypatch):
    judge = darkness_model.inspect
    told = ("Out of scope: it is darker than every reference.", "The score is not calibrated.")
    monkeypatch.setattr(
        darkness_model, "inspect", lambda micrograph, alpha: replace(judge(micrograph, alpha=alpha), reasons=told)
    )
    run_batch([str(folder / "0.tif"), str(folder / "broken.tif")], tmp_path / "out", engine)
    assert [row["reasons"] for row in read_rows(tmp_path / "out")] == [list(told), None]


def test_one_image_under_several_names_is_noted_also_where_an_earlier_run_judged_it(tmp_path, engine, read_rows):
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (80, 64), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "in" / "0.tif", pixels)
    tifffile.imwrite(tmp_path / "in" / "1.tif", pixels.T)
    (tmp_path / "in" / "2.tif").write_bytes(b"nothing")
    (tmp_path / "in" / "3.tif").write_bytes(b"nothing")
    assert run_batch(str(tmp_path / "in"), tmp_path / "out", engine).same == 0
    for copy in ("0b.tif", "0c.tif"):
        (tmp_path / "in" / copy).write_bytes((tmp_path / "in" / "0.tif").read_bytes())
    with pytest.warns(UserWarning, match="2 micrographs have the same bytes as another one"):
        assert run_batch(str(tmp_path / "in"), tmp_path / "out", engine).same == 2
    noted = {Path(row["path"]).name for row in read_rows(tmp_path / "out") if row["notes"]}
    assert noted == {"0b.tif", "0c.tif"}


def test_pictures_of_other_kinds_are_warned_of_once(folder, tmp_path, engine):
    (folder / "a.gif").write_bytes(b"")
    with pytest.warns(UserWarning, match="skipped 1 file of unsupported formats") as caught:
        run_batch(str(folder), tmp_path / "out", engine)
    assert len(caught) == 1


def test_a_heat_map_lies_beside_its_row(folder, tmp_path, darkness_model, read_rows):
    run_batch(str(folder), tmp_path / "out", LocalEngine(darkness_model, Settings(heatmaps=True)))
    rows = read_rows(tmp_path / "out")
    assert {"authentic", "not authentic", None} <= {row["decision"] for row in rows}
    for row in rows:
        if row["error"]:
            assert row["heatmap"] is None
            continue
        with Image.open(tmp_path / "out" / row["heatmap"]) as picture:
            alpha = np.asarray(picture.convert("RGBA"))[:, :, 3]
        assert (alpha.max() > 200) == (row["decision"] == "not authentic")


def test_a_second_run_repeats_nothing_and_adds_what_is_new(folder, tmp_path, engine, save_micrograph, read_rows):
    run_batch(str(folder), tmp_path / "out", engine)
    first = (tmp_path / "out" / "part-000001.parquet").read_bytes()
    save_micrograph(folder / "new.tif", 0.8)
    done = run_batch(str(folder), tmp_path / "out", engine)
    assert (done.skipped, done.finished, done.kept) == (11, 1, 12)
    assert (tmp_path / "out" / "part-000001.parquet").read_bytes() == first
    assert [Path(row["path"]).name for row in read_rows(tmp_path / "out")[11:]] == ["new.tif"]


def test_what_could_not_be_inspected_is_tried_again_where_that_is_asked_for(
    folder, tmp_path, engine, save_micrograph, read_rows
):
    out = tmp_path / "out"
    (folder / "deeper" / "torn.tif").write_bytes(b"II*\0")
    run_batch(str(folder), out, engine, rows=5)
    save_micrograph(folder / "broken.tif", 0.8)
    assert run_batch(str(folder), out, engine).finished == 0
    done = run_batch(str(folder), out, engine, retry=True)
    assert (done.skipped, done.finished, done.kept) == (10, 2, 12)
    rows = {Path(row["path"]).name: row for row in read_rows(out)}
    assert len(read_rows(out)) == len(rows) == 12
    assert rows["broken.tif"]["decision"] == "authentic"
    assert rows["torn.tif"]["error"]
    json.loads(parquet.read_metadata(out / "part-000001.parquet").metadata[b"fusion_diff.run"])
    assert run_batch(str(folder), out, engine).finished == 0


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ESTALE, errno.EMFILE])
def test_where_it_is_the_machine_and_not_the_file_the_run_ends_and_takes_it_up_again(
    folder, tmp_path, engine, read_rows, monkeypatch, no_room, code, remote
):
    source = str(folder)
    if remote:
        fsspec.filesystem("memory").put(source, f"/machine-{code}", recursive=True)
        source = f"memory://machine-{code}"
    monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 1)
    no_room(code, first=3)
    said = "no room for" if code == errno.ENOSPC else "cannot store"
    with pytest.raises(BatchError, match=rf"{said} .*; then run the same command again; \d+ rows? (is|are) kept"):
        run_batch(source, tmp_path / "out", engine)
    monkeypatch.undo()
    run_batch(source, tmp_path / "out", engine)
    assert [Path(row["path"]).name for row in read_rows(tmp_path / "out") if row["error"]] == ["broken.tif"]
    assert len(read_rows(tmp_path / "out")) == 11


def test_a_temporary_folder_that_cannot_be_made_ends_the_run_with_what_to_do(folder, tmp_path, engine, monkeypatch):
    fsspec.filesystem("memory").put(str(folder), "/no-folder", recursive=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(BatchError, match=r"gone: a micrograph cannot be stored there .*; free space, or set TMPDIR to"):
        run_batch("memory://no-folder", tmp_path / "out", engine)


@pytest.mark.parametrize("watched", [False, True])
def test_a_store_is_listed_a_second_time_for_the_total_alone(folder, tmp_path, engine, store, watched):
    totals = []
    before = store.listings
    run_batch(
        "failing://line",
        tmp_path / "out",
        engine,
        progress=(lambda done, total: totals.append(total)) if watched else None,
    )
    listings = store.listings - before
    assert listings > 2 if watched else listings == 2  # a folder in a folder


def test_a_micrograph_that_is_named_twice_has_one_row(folder, tmp_path, engine, read_rows):
    (tmp_path / "list.csv").write_text("path\nin/0.tif\nin/1.tif\nin/../in/0.tif\n")
    done = run_batch(str(tmp_path / "list.csv"), tmp_path / "out", engine)
    assert (done.finished, done.skipped) == (2, 1)
    assert len(read_rows(tmp_path / "out")) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_are_not_unicode_have_rows_of_their_own(tmp_path, engine, save_micrograph, read_rows):
    save_micrograph(tmp_path / "a.tif", 0.8)
    (tmp_path / "in").mkdir()
    for name in (b"\xff.tif", b"\\udcff.tif"):  # the second is the escaped form of the first
        (tmp_path / "in" / os.fsdecode(name)).hardlink_to(tmp_path / "a.tif")
    for _ in range(2):
        run_batch(str(tmp_path / "in"), tmp_path / "out", engine)
    rows = read_rows(tmp_path / "out")
    assert len(rows) == len({row["key"] for row in rows}) == 2


def test_what_comes_from_a_store_is_named_by_its_address(folder, tmp_path, engine, read_rows):
    fsspec.filesystem("memory").put(str(folder), "/batch-run", recursive=True)
    run_batch("memory://batch-run", tmp_path / "out", engine)
    rows = {row["path"]: row for row in read_rows(tmp_path / "out")}
    assert len(rows) == 11
    spot = rows["memory:///batch-run/deeper/spot.tif"]
    assert spot["decision"] == "not authentic"
    bad = rows["memory:///batch-run/broken.tif"]
    assert bad["error"].startswith("memory:///batch-run/broken.tif: ")
    assert len(bad["file_sha256"]) == 64


def test_runs_that_are_killed_at_any_moment_lose_and_repeat_nothing(tmp_path):
    command = [sys.executable, str(BENCHMARK), "--rounds", "0", "--kills", "4", "--images", "80", "--side", "64"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "k.json")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "k.json").read_text())["kills"]
    assert found["kills"] == 4
    assert found["amid_rows"] > 0
    assert (found["lost"], found["repeated"]) == (0, 0)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_told_to_stop_keeps_what_is_done(tmp_path, save_micrograph, read_rows, sent, code):
    (tmp_path / "in").mkdir()
    for index in range(200):
        save_micrograph(tmp_path / "in" / f"{index}.tif", 0.8)
    out = tmp_path / "out"
    words = ["-m", "fusion_diff", "batch", str(tmp_path / "in"), "--out", str(out), "--heatmaps"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    heed = partial(
        signal.signal, sent, signal.SIG_DFL
    )  # what runs in the background may inherit that SIGINT is ignored
    run = subprocess.Popen(
        [sys.executable, *words], env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    )
    while len(list(out.glob("heatmaps/*/*.png"))) < 2:  # the second is drawn after the first row was added
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.01)
    run.send_signal(sent)
    _, said = run.communicate()
    assert run.returncode == code
    assert said.endswith(f"Finished rows are saved in {out}; run the same command again to continue\nStopped.\n")
    assert 1 <= len(read_rows(out)) < 200


def test_rows_that_a_signal_kept_from_being_written_are_written_once(folder, tmp_path, engine, read_rows, monkeypatch):
    whole = parts_module.write_whole

    def interrupted(file, content):
        monkeypatch.setattr(parts_module, "write_whole", whole)
        whole(file, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(parts_module, "write_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_batch(str(folder), tmp_path / "out", engine, rows=4)
    assert len(read_rows(tmp_path / "out")) == 4
    run_batch(str(folder), tmp_path / "out", engine)
    assert len({row["path"] for row in read_rows(tmp_path / "out")}) == len(read_rows(tmp_path / "out")) == 11


def test_what_a_killed_run_was_writing_is_cleared_away(folder, tmp_path, engine):
    out = tmp_path / "out"
    (out / "heatmaps" / "3f").mkdir(parents=True)
    (out / ".part-000001.parquet.abc").write_bytes(b"half")
    (out / "heatmaps" / "3f" / ".3f.png.abc").write_bytes(b"half")
    run_batch(str(folder), out, engine)
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert names == [".lock", "part-000001.parquet"]


@pytest.mark.parametrize("out", ["in/rows", "in"])
@pytest.mark.parametrize("pattern", ["", "/**"])
def test_a_batch_does_not_inspect_its_own_heat_maps(folder, tmp_path, engine, read_rows, save_micrograph, out, pattern):
    (folder / "heatmaps" / "3f").mkdir(parents=True)
    save_micrograph(folder / "heatmaps" / "3f" / "of-the-user.tif", 0.5)
    engine.settings = Settings(heatmaps=True)
    for _ in range(2):
        done = run_batch(f"{folder}{pattern}", tmp_path / out, engine)
        assert (done.finished + done.skipped, done.kept) == (12, 12)
    assert len(list((tmp_path / out / "heatmaps").glob("*/*.png"))) == 11
    assert not [row["path"] for row in read_rows(tmp_path / out) if row["path"].endswith(".png")]


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_an_output_that_is_refused_is_let_go_of(tmp_path):
    with ParquetOutput(tmp_path / "out", {}, 10):
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with pytest.raises(BatchError, match="another run is writing there"):
                ParquetOutput(tmp_path / "out", {}, 10)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_two_runs_on_one_output_refuse_each_other_and_a_dead_one_does_not(folder, tmp_path, engine):
    out = tmp_path / "out"
    program = (
        "import sys, time; from pathlib import Path; from fusion_diff.batch.parts import ParquetOutput;"
        "parts = ParquetOutput(Path(sys.argv[1]), {}, 1); print('held', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            BatchError, match=f"another run is writing there \\(process {other.pid} on .*another folder"
        ):
            run_batch(str(folder), out, engine)
        assert not list(out.glob("*.parquet"))
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert run_batch(str(folder), out, engine).kept == 11


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"alpha": 0.2}, "alpha was 0.1 and is now 0.2"),
        ({"pixel_size_um": 0.5}, "the pixel size was None and is now 0.5"),
        ({"page": 0}, "the page was None and is now 0"),
        ({"sha256": "cd" * 32}, "the model was abab"),
    ],
)
def test_rows_of_another_setting_or_model_are_not_added_to(folder, tmp_path, engine, darkness_model, changed, says):
    run_batch(str(folder), tmp_path / "out", engine)
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    darkness_model.sha256 = changed.pop("sha256", darkness_model.sha256)
    with pytest.raises(BatchError, match=r"part-000001\.parquet") as caught:
        run_batch(str(folder), tmp_path / "out", LocalEngine(darkness_model, Settings(**changed)))
    assert says in str(caught.value)
    assert "choose another folder" in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before


def test_that_nothing_can_be_decided_is_said_before_the_first_micrograph():
    with pytest.warns(UserWarning, match="nothing can be decided: alpha 0.001 needs 999 references on each side"):
        LocalEngine(load_inspector(EMBEDDED, "cpu"), Settings(alpha=0.001))


def test_rows_of_a_model_are_not_added_to_by_an_export_of_it_nor_the_other_way_round(folder, tmp_path, exported_folder):
    model, export = (LocalEngine(load_inspector(str(name), "cpu"), Settings()) for name in (EMBEDDED, exported_folder))
    for number, (first, second) in enumerate([(model, export), (export, model)]):
        out = tmp_path / f"out {number}"
        assert run_batch(str(folder / "[0-1].tif"), out, first).kept == 2
        with pytest.raises(BatchError, match=r"the model was .* and is now .*, and rows of both must not be mixed"):
            run_batch(str(folder), out, second)


def test_a_parquet_of_another_version_or_damaged_is_refused(folder, tmp_path, engine, monkeypatch):
    part = tmp_path / "out" / "part-000001.parquet"
    monkeypatch.setattr(parts_module, "FORMAT", "fusion-diff/batch/4")
    run_batch(str(folder), tmp_path / "out", engine)
    monkeypatch.undo()
    with pytest.raises(
        BatchError,
        match=r"has the format 'fusion-diff/batch/4', .* writes 'fusion-diff/batch/5'; .*the version that wrote it",
    ):
        run_batch(str(folder), tmp_path / "out", engine)
    whole = part.read_bytes()
    for content in (b"", whole[:-20], b"PAR1" + b"\0" * 50 + b"PAR1"):
        part.write_bytes(content)
        with pytest.raises(BatchError, match=r"part-000001\.parquet: damaged, or not a Parquet file"):
            run_batch(str(folder), tmp_path / "out", engine)
    parquet.write_table(pa.table({"a": [1]}), part)
    with pytest.raises(BatchError, match="has the format ''"):
        run_batch(str(folder), tmp_path / "out", engine)


def test_a_store_that_is_lost_amid_a_run_leaves_what_is_done(store, tmp_path, engine, read_rows):
    def lose(done, total):
        store.answers = 0 if done.finished == 7 else store.answers

    with pytest.raises(BatchError, match=r"cannot be reached.*; 7 rows are kept in"):
        run_batch("failing://line", tmp_path / "out", engine, rows=3, progress=lose)
    assert len(read_rows(tmp_path / "out")) == 7
    store.answers = 10**9
    done = run_batch("failing://line", tmp_path / "out", engine)
    assert (done.skipped, done.kept) == (7, 11)


def test_a_full_disk_is_a_clear_error_and_what_is_done_is_kept(folder, tmp_path, engine, read_rows):
    """A limit on file sizes simulates a full disk: the system refuses further writes."""
    run_batch(str(folder / "[0-3].tif"), tmp_path / "out", engine, rows=2)
    kept = read_rows(tmp_path / "out")
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(BatchError, match=r"part-000003\.parquet: cannot be written .*4 rows are kept in"):
            run_batch(str(folder), tmp_path / "out", engine)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert read_rows(tmp_path / "out") == kept
    assert not list((tmp_path / "out").glob(".part-*"))
    assert run_batch(str(folder), tmp_path / "out", engine).finished == 7


@pytest.mark.parametrize("fault", [CheckpointError("graph.onnx: cannot be run; use the CPU"), EnrolmentError("no")])
def test_a_fault_of_the_model_ends_the_run_and_is_no_row(folder, tmp_path, engine, darkness_model, read_rows, fault):
    judge, judged = darkness_model.inspect, []

    def inspect(micrograph, *, alpha):
        judged.append(micrograph)
        if len(judged) > 4:
            raise fault
        return judge(micrograph, alpha=alpha)

    darkness_model.inspect = inspect
    with pytest.raises(BatchError, match=re.escape(str(fault))):
        run_batch(str(folder / "[0-7].tif"), tmp_path / "out", engine)
    assert [row["error"] for row in read_rows(tmp_path / "out")] == [None] * 4


def test_a_model_without_references_does_not_start(darkness_model):
    darkness_model.enrolment, darkness_model.name = None, "line-7"
    with pytest.raises(EnrolmentError, match="line-7: it has no enrolled references; enrol some first"):
        LocalEngine(darkness_model, Settings())


def test_rows_are_written_after_a_time_though_there_be_few(folder, tmp_path, engine, monkeypatch):
    monkeypatch.setattr("fusion_diff.batch.run.FLUSH_S", 0)
    run_batch(str(folder), tmp_path / "out", engine)
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 11


def test_progress_is_told_row_by_row_with_the_total_once_it_is_known(folder, tmp_path, engine):
    told = []
    run_batch(str(folder), tmp_path / "out", engine, progress=lambda done, total: told.append((done.finished, total)))
    assert [finished for finished, _ in told] == list(range(1, 12))
    assert told[-1][1] in (11, None)


def test_few_rows_are_in_memory_however_many_there_are(folder, tmp_path, engine):
    waiting = []

    class Watched(ParquetOutput):
        def add(self, finished):
            super().add(finished)
            waiting.append(len(self._rows))

    from fusion_diff.batch import run

    original, run.ParquetOutput = run.ParquetOutput, Watched
    try:
        run_batch(str(folder), tmp_path / "out", engine, rows=3)
    finally:
        run.ParquetOutput = original
    assert max(waiting) == 2


@given(st.lists(st.binary(min_size=16, max_size=16).map(lambda key: key[:14] + b"\0\0"), max_size=60))
def test_a_done_set_knows_just_what_was_added(keys):
    from fusion_diff.batch import done as done_module

    done, known, before = DoneSet(), set(), done_module._RECENT
    done_module._RECENT = 7
    try:
        for key in keys:
            assert (key in done) == (key in known)
            assert done.add(key) == (key not in known)
            known.add(key)
    finally:
        done_module._RECENT = before
    assert len(done) == len(known)
    assert all(key in done for key in known)
