"""What a benchmark cannot work with is told in a sentence, before hours of work."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def refusal(call, capsys):
    """Calls a benchmark that refuses, and returns what it says."""

    def run(*words):
        with pytest.raises(SystemExit) as stopped:
            call(*words)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return run


def test_a_large_image_is_made_of_whole_patches(refusal):
    assert "--side 20500: give a multiple of 1000" in refusal("large_image", "--side", 20500)


def test_cracks_that_are_missing_are_asked_for(refusal, tmp_path):
    assert f"{tmp_path / 'ebc_micrographs'}: no tile to measure; it takes images/*.png" in refusal(
        "crack_fidelity", "--data", tmp_path
    )


def test_the_toolbox_is_asked_for_before_anything_is_attacked(refusal, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "art", None)
    told = refusal("robustness", "--data", tmp_path / "none", "--out", tmp_path / "run")
    assert "art-pgd and square: adversarial-robustness-toolbox is not installed" in told
    assert not (tmp_path / "run").exists()


def test_shots_that_no_draw_has_are_refused(refusal, coatings, tmp_path):
    words = "--sets", "ebc_crack", "--out", tmp_path / "run", "--shots"
    told = refusal("fewshot", "--data", coatings, *words, 13, 25)
    assert "no draw can be made with 13 or 25 shots" in told
    assert "ebc_crack has 24 authentic images and 24 others of 4 specimens" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--folder", "x", "--authentic", "sound"], "the reference folder x does not exist"),
        (["--data", "x"], "images of one side at least are missing; is the folder of --data the one that holds"),
        (["--folder", "x"], "name its class to verify with --authentic"),
        (["--data", "x", "--authentic", "sound"], "give its --folder instead of --data"),
    ],
)
def test_a_set_of_ones_own_is_asked_for_in_full(refusal, tmp_path, words, told):
    assert told in refusal("fewshot", *words, "--out", tmp_path / "run")


@pytest.mark.parametrize("name", ["throughput", "cold_start"])
def test_of_a_folder_of_exports_one_is_to_be_named(refusal, tmp_path, name):
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8" / "edge.json").touch()
    assert f"{tmp_path}: not an exported model; give {tmp_path / 'int8'}" in refusal(name, tmp_path)


def test_where_nothing_is_in_wrong_order_the_worst_have_no_share_of_it(call, load, coatings, tmp_path, capsys):
    protocol = load("protocol")
    (task,) = protocol.SETS["ebc_crack"](coatings)
    truth = [not image.authentic for image in protocol.draw(task, 1, 0).queries]
    row = {"set": "ebc_crack", "shots": 1, "seed": 0, "method": "FusionDiff", "model": ""}
    row |= {"truth": truth, "scores": [float(flawed) for flawed in truth], "verdicts": truth}
    (tmp_path / "answers.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert call("misses", "--data", coatings, "--run", tmp_path) == 0
    assert "| ebc_crack | 1 | 24 |  |" in capsys.readouterr().out


def test_a_map_is_not_measured_where_no_draw_can_be_made(call, coatings, capsys):
    words = "--data", coatings, "--sets", "ebc_crack", "--shots", 25, "--seeds", 2
    assert call("localisation", *words) == 0
    told = capsys.readouterr()
    assert "ebc_crack: no draw with 25 shots, left out" in told.err
    assert "| ebc_crack |" not in told.out


@pytest.mark.parametrize("readable", [False, True])
def test_images_of_the_gallery_that_cannot_be_read_are_counted(
    call, refusal, load, coatings, monkeypatch, capsys, readable
):
    scope, protocol, rng = load("scope"), load("protocol"), np.random.default_rng(0)
    monkeypatch.setattr(scope, "SETS", {"ebc_crack": protocol.ebc_crack})
    (coatings / "ceramic_sem_gallery").mkdir()
    (coatings / "ceramic_sem_gallery" / "torn.png").write_bytes(b"no picture")
    files = [*coatings.rglob("*.png")] if readable else []
    for file in [each for each in files if each.name != "torn.png"]:
        Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(file)
    words = "scope", "--data", coatings, "--shots", 2, "--seeds", 1, "--images", 4
    if not readable:
        assert "ceramic_sem_gallery: no micrograph to read" in refusal(*words)
        return
    Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(coatings / "ceramic_sem_gallery" / "a.png")
    assert call(*words) == 0
    told = capsys.readouterr()
    assert "1 of 2 images of the gallery cannot be read and are left out" in told.err
    assert "| ebc_crack | ceramic_sem_gallery |" in told.out
