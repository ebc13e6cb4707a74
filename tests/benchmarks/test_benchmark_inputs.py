"""What a benchmark cannot work with is told in a sentence, before hours of work."""

from __future__ import annotations

import json
import sys

import pytest


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
