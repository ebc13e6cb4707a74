"""batch, from the command line."""

from __future__ import annotations

import sys

import pytest

from fusion_diff.batch import judging
from fusion_diff.commands.batch import progress_text


@pytest.fixture
def run(monkeypatch, call_cli, darkness_model, tmp_path, save_micrograph):
    """Runs the command line with the small model, in a folder with three files; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(judging, "load_inspector", lambda name, device: darkness_model)
    (tmp_path / "in").mkdir()
    save_micrograph(tmp_path / "in" / "a.tif", 0.8)
    save_micrograph(tmp_path / "in" / "b.tif", 0.8, spot=True)
    (tmp_path / "in" / "c.tif").write_bytes(b"nothing")
    return call_cli


def test_a_batch_ends_well_when_every_micrograph_has_its_row(run, tmp_path):
    code, out, err = run("batch", "in", "--out", "out", "--heatmaps", "--rows", "2")
    assert (code, err) == (0, "")
    assert "3 micrographs inspected: 1 authentic, 1 not authentic, 1 could not be inspected; " in out
    assert "Rows: 3, in out" in out
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 2
    assert len(list((tmp_path / "out").glob("heatmaps/*/*.png"))) == 2
    code, out, _ = run("batch", "in", "--out", "out", "--heatmaps")
    assert code == 0
    assert "0 micrographs inspected: none" in out
    assert "3 were done already." in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["batch", "missing", "--out", "out"], "missing: there is no such file or folder"),
        (["batch", "in"], "--out"),
        (["batch", "in", "--out", "out", "--rows", "0"], "--rows"),
        (["batch", "in", "--out", "out", "--workers", "2"], "name one with --cluster"),
        (["batch", "in", "--out", "in/a.tif"], "in/a.tif: cannot be written"),
        (["batch", "x::y://z", "--out", "out"], "chained address"),
    ],
)
def test_a_batch_that_cannot_start_exits_with_3_and_says_why(run, tmp_path, words, says):
    code, out, err = run(*words)
    assert (code, out) == (3, "")
    assert says in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_batch_without_its_packages_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run("batch", "in", "--out", "out")
    assert code == 3
    assert "pip install 'fusion-diff[batch]'" in err


def test_a_cluster_without_ray_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run("batch", "in", "--out", "out", "--cluster", "127.0.0.1:9")
    assert code == 3
    assert "pip install 'fusion-diff[ray]'" in err


def test_progress_tells_the_rate_and_the_time_left():
    assert progress_text(50, None, 20, 0, 10.0) == "50, 2.0 a second"
    assert progress_text(5000, 12_200, 20, 0, 10.0) == "5,000 of 12,200, 2.0 a second, 1 h 00 min left"
    assert progress_text(12_200, 12_200, 20, 3, 10.0).endswith("0 h 00 min left, 3 could not be inspected")
