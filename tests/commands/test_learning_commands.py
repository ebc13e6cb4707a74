from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fusion_diff import cli
from fusion_diff.commands import demo, enroll


@pytest.fixture
def model(monkeypatch, darkness_model):
    """The darkness model, which keeps the references it is shown, in place of the embedded one."""

    def learn(references):
        darkness_model.references = references
        return SimpleNamespace(figures={"auroc": 0.98765}, warnings=["few references"], seconds=1.25)

    darkness_model.enroll = learn
    darkness_model.save_pretrained = lambda folder: folder.mkdir()
    for module in (demo, enroll):
        monkeypatch.setattr(module, "load_model", lambda name, device: darkness_model)
    return darkness_model


@pytest.fixture
def references(tmp_path, save_micrograph):
    folder = tmp_path / "refs"
    for kind, level in (("sound", 0.8), ("crack", 0.2)):
        (folder / kind).mkdir(parents=True)
        for index in range(3):
            save_micrograph(folder / kind / f"s{index // 2}_{index}.tif", level + 0.01 * index)
    return folder


def test_enroll_shows_the_counts_and_figures_and_saves_the_model(model, references, tmp_path, capsys):
    words = ["enroll", str(references), "--authentic", "sound", "--out", str(tmp_path / "m"), "--shots", "2"]
    assert cli.main([*words, "--groups", "^(s[0-9])_", "--pixel-size", "0.25"]) == 0
    out = capsys.readouterr().out
    for text in ("sound", "crack", "auroc", "0.988", "few references", "1.2 s", str(tmp_path / "m")):
        assert text in out
    assert model.references.counts == {"sound": 2, "crack": 2}
    assert {reference.micrograph.pixel_size_um for reference in model.references} == {0.25}
    assert all("s0" in reference.group for reference in model.references)
    assert (tmp_path / "m").is_dir()


def test_enroll_reads_a_csv_file_and_marks(model, references, tmp_path):
    mark = np.zeros((64, 64), dtype=np.uint8)
    mark[10:20, 10:20] = 255
    (tmp_path / "marks" / "crack").mkdir(parents=True)
    Image.fromarray(mark).save(tmp_path / "marks" / "crack" / "s0_0.png")
    words = ["enroll", str(references), "--authentic", "sound", "--marks", str(tmp_path / "marks")]
    assert cli.main([*words, "--out", str(tmp_path / "a")]) == 0
    assert sum(reference.mark is not None for reference in model.references) == 1
    table = references / "table.csv"
    table.write_text("file,label\nsound/s0_0.tif,sound\ncrack/s0_0.tif,crack\n")
    assert cli.main(["enroll", str(table), "--authentic", "sound", "--out", str(tmp_path / "b")]) == 0
    assert len(model.references) == 2


def test_the_demo_writes_everything_and_sets_the_truth_beside(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "SAMPLES_PER_CLASS", 2)
    out = tmp_path / "new" / "demo"
    assert cli.main(["demo", "--out", str(out), "--shots", "1", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert str(out / "index.html") in said
    assert "Against the truth:" in said
    assert "counterfeit-02.tif" in said
    assert model.references.authentic == "sound"
    with (out / "references.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(model.references) == 3
    records = [json.loads(line) for line in (out / "inspections.jsonl").read_text().splitlines()]
    assert len(records) == 6
    assert all(record["pixel_size_um"] > 0 for record in records)
    seen = {reference.micrograph.sha256 for reference in model.references}
    assert not seen & {record["file_sha256"] for record in records}
