"""batch, from the command line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from fusion_diff.batch.cluster import Worker
from fusion_diff.batch.engine import Settings
from fusion_diff.batch.items import Item
from fusion_diff.commands.batch import progress_text, rate_text
from fusion_diff.errors import TrustError


@pytest.fixture
def run(monkeypatch, call_cli, darkness_model, tmp_path, save_micrograph):
    """Runs the command line with the small model, in a folder with three files; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", lambda *_: darkness_model)
    (tmp_path / "in").mkdir()
    save_micrograph(tmp_path / "in" / "a.tif", 0.8)
    save_micrograph(tmp_path / "in" / "b.tif", 0.8, spot=True)
    (tmp_path / "in" / "c.tif").write_bytes(b"nothing")
    return call_cli


def test_a_batch_ends_well_when_every_micrograph_has_its_row(run, tmp_path):
    code, out, err = run("batch", "in", "--out", "out", "--heatmaps", "--rows", "2")
    assert code == 0
    assert err.startswith(f"Error: {tmp_path / 'in' / 'c.tif'}: ")
    assert err.count("\n") == 1
    assert "3 micrographs inspected: 1 authentic, 1 not authentic, 1 could not be inspected; " in out
    assert "Rows: 3, in out" in out
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 2
    assert len(list((tmp_path / "out").glob("heatmaps/*/*.png"))) == 2
    code, out, err = run("batch", "in", "--out", "out", "--heatmaps")
    assert (code, err) == (0, "")
    assert "inspected" not in out
    assert "3 micrographs were skipped: done already or named twice." in out


def test_a_batch_is_recorded_in_a_ledger_that_audit_finds_whole(run, tmp_path):
    code, out, _ = run("batch", "in", "--out", "out", "--record", "verdicts.jsonl")
    assert code == 0
    *entries, last = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text("ascii").splitlines()[1:]]
    assert [Path(entry["file"]).name for entry in (*entries, last)] == ["a.tif", "b.tif", "c.tif"]
    assert f"Ledger: verdicts.jsonl; its head is now {last['hash']}" in out
    assert run("batch", "in", "--out", "out", "--record", "verdicts.jsonl")[0] == 0
    assert run("audit", "verdicts.jsonl", "--expect", last["hash"])[0] == 0


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("in/a.tif", "--record in/a.tif: is one of the inputs|--record in/a.tif: is an existing image"),
        ("list.csv", "--record list.csv: is one of the inputs"),
        ("no.txt", "no.txt: it is not a ledger"),
    ],
)
def test_a_ledger_of_a_batch_overwrites_nothing(run, tmp_path, record, says):
    (tmp_path / "list.csv").write_text("path\nin/a.tif\n")
    (tmp_path / "no.txt").write_text("mine\n")
    before = (tmp_path / record).read_bytes()
    code, out, err = run("batch", "list.csv", "--out", "out", "--record", record)
    assert (code, out) == (3, "")
    assert re.search(says, err)
    assert (tmp_path / record).read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_the_first_files_that_could_not_be_inspected_are_named_with_what_is_wrong(run, tmp_path):
    for index in range(6):
        (tmp_path / "in" / f"torn-{index}.png").write_bytes(b"nothing")
    code, out, err = run("batch", "in", "--out", "out", "--rows", "3")
    assert code == 0
    assert "7 could not be inspected" in out
    *named, last = err.splitlines()
    assert last == "and 2 more; see the column error of the rows"
    assert len(named) == 5
    errors = set(errors_of(tmp_path / "out").values())
    assert {line.removeprefix("Error: ") for line in named} <= errors


def test_several_sources_go_into_one_output_and_a_micrograph_of_two_has_one_row(run, tmp_path, save_micrograph):
    (tmp_path / "other").mkdir()
    save_micrograph(tmp_path / "other" / "a.tif", 0.5)
    code, out, _ = run("batch", "in/a.tif", "in/b.tif", "other", "in/[ab].tif", "in/a.tif", "--out", "out")
    assert code == 0
    assert "3 micrographs inspected: " in out
    paths = sorted(
        row["path"] for part in (tmp_path / "out").glob("*.parquet") for row in parquet.read_table(part).to_pylist()
    )
    assert paths == [str(tmp_path / name) for name in ("in/a.tif", "in/b.tif", "other/a.tif")]


def test_each_of_several_sources_is_checked_before_the_model_is_loaded(run, tmp_path, monkeypatch):
    def load(*_):
        raise AssertionError

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", load)
    (tmp_path / "empty").mkdir()
    for source, says in (("missing", "missing: there is no such file"), ("empty", "empty: contains no images")):
        code, out, err = run("batch", "in", source, "--out", "out")
        assert (code, out) == (3, "")
        assert says in err
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_told_before_the_model_is_loaded(run, monkeypatch):
    def load(*_):
        raise AssertionError

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", load)
    code, out, err = run("batch", "in", "--out", "/proc/rows")
    assert (code, out) == (3, "")
    assert "--out /proc/rows: the folder /proc cannot be written to; check its permissions" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["batch", "missing", "--out", "out"], "missing: there is no such file or folder"),
        (["batch", "in"], "--out"),
        (["batch", "in", "--out", "out", "--rows", "0"], "--rows"),
        (["batch", "in", "--out", "out", "--workers", "2"], "give its address with --cluster"),
        (["batch", "in", "--out", "in/a.tif"], "--out in/a.tif: is a file, but must be a folder"),
        (["batch", "x::y://z", "--out", "out"], "chained address"),
        (["batch", "in", "--out", "s3://bucket/out"], "s3://bucket/out: --out must be a folder on this machine"),
        (["batch", "in", "--out", "out", "--require-signed"], "go together"),
        (["batch", "in", "--out", "out", "--require-signed", "--trusted-key", "K"], "K: cannot be read"),
    ],
)
def test_a_batch_that_cannot_start_exits_with_3_and_says_why(run, tmp_path, words, says):
    code, out, err = run(*words)
    assert (code, out) == (3, "")
    assert says in err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.fixture
def signed(run, tmp_path):
    """The words of a batch of the folder that parses only what `lab` signed; nothing is signed yet."""
    run("keys", "new", "lab")
    return ["batch", "in", "--out", "out", "--require-signed", "--trusted-key", "lab.pub"]


def errors_of(out):
    rows = [row for part in sorted(out.glob("part-*.parquet")) for row in parquet.read_table(part).to_pylist()]
    return {row["path"].rpartition("/")[2]: row["error"] for row in rows}


def test_a_batch_judges_what_is_signed_and_parses_nothing_else(run, signed, tmp_path):
    code, out, err = run(*signed)
    assert (code, out) == (3, "")
    assert "a.tif: it is unsigned" in err
    assert not (tmp_path / "out").exists()
    run("sign", "in", "--key", "lab")
    (tmp_path / "in" / "b.tif").write_bytes(b"no image")
    (tmp_path / "in" / "added.png").write_bytes(b"no image")
    assert run(*signed)[0] == 0
    errors = errors_of(tmp_path / "out")
    assert errors["a.tif"] is None
    assert "b.tif: it was altered after it was signed" in errors["b.tif"]
    assert "added.png: it is not in the signature" in errors["added.png"]
    assert "signed" not in errors["c.tif"]  # signed as it is, and no image
    code, _, err = run("batch", "in", "--out", "out")
    assert code == 3
    assert "the set of trusted keys (ids) was ['" in err


@pytest.mark.parametrize("source", ["in/[ab].tif", "list.csv", "in/a.tif"])
def test_patterns_lists_and_files_are_verified_too(run, signed, tmp_path, source):
    (tmp_path / "list.csv").write_text("path\nin/a.tif\nmemory://line/x.tif\n")
    signed[1] = source
    assert run(*signed)[0] == 3
    run("sign", "in", "--key", "lab")
    assert run(*signed)[0] == 0
    errors = errors_of(tmp_path / "out")
    assert errors["a.tif"] is None
    if source == "list.csv":
        assert "x.tif: it is in a store, where signatures are not supported" in errors["x.tif"]


@pytest.mark.parametrize(
    ("signer", "revoked", "source", "says"),
    [
        ("other", False, "in", "in.sig: it is signed with another key"),
        ("lab", True, "in", "revoked: lost"),
        ("lab", False, "memory://line", "memory://line: it is in a store, where signatures are not supported"),
    ],
)
def test_a_batch_of_what_cannot_be_trusted_does_not_start(run, signed, tmp_path, signer, revoked, source, says):
    run("keys", "new", "other")
    run("sign", "in", "--key", signer)
    if revoked:
        run("keys", "revoke", "lab", "--because", "lost")
    signed[1] = source
    code, out, err = run(*signed)
    assert (code, out) == (3, "")
    assert says in err
    assert not (tmp_path / "out").exists()


def test_a_batch_loads_only_a_signed_model_also_on_the_workers_of_a_cluster(
    call_cli, tmp_path, monkeypatch, checkpoint_folder, save_micrograph
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint_folder, "model")
    (tmp_path / "in").mkdir()
    save_micrograph(tmp_path / "in" / "a.tif", 0.8)
    call_cli("keys", "new", "lab")
    call_cli("sign", "in", "--key", "lab")
    words = ["batch", "in", "--out", "out", "--model", "model", "--require-signed", "--trusted-key", "lab.pub"]
    code, _, err = call_cli(*words)
    assert code == 3
    assert "model: it is unsigned" in err
    worker = Worker(str(tmp_path / "model"), "cpu", Settings(trusted_keys=(str(tmp_path / "lab.pub"),)))
    with pytest.raises(TrustError, match="model: it is unsigned"):
        worker.start()
    call_cli("sign", "model", "--key", "lab")
    assert call_cli(*words)[0] == 0
    assert errors_of(tmp_path / "out") == {"a.tif": None}
    assert len(worker.start()["sha256"]) == 64
    (tmp_path / "in" / "a.tif").write_bytes(b"no image")
    assert "a.tif: it was altered" in worker.judge(Item(str(tmp_path / "in" / "a.tif"))).row["error"]


def test_a_batch_without_its_packages_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run("batch", "in", "--out", "out")
    assert code == 3
    assert "run pip install pyarrow (part of the extra 'batch')" in err


def test_a_cluster_without_ray_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run("batch", "in", "--out", "out", "--cluster", "127.0.0.1:9")
    assert code == 3
    assert "run pip install 'ray[client]' (part of the extra 'ray')" in err


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        (12.34, "12.3 a second"),
        (1, "1.0 a second"),
        (0.9, "54.0 a minute"),
        (1 / 60, "1.0 a minute"),
        (0.01, "36.0 an hour"),
    ],
)
def test_a_rate_is_told_by_the_unit_of_time_that_shows_it(rate, says):
    assert rate_text(rate) == says


def test_progress_tells_the_rate_and_the_time_left():
    assert progress_text(50, None, 20, 0, 10.0) == "50, 2.0 a second"
    assert progress_text(5000, 12_200, 20, 0, 10.0) == "5,000 of 12,200, 2.0 a second, 1 h 00 min left"
    assert progress_text(12_200, 12_200, 20, 3, 10.0).endswith("0 h 00 min left, 3 could not be inspected")
