"""`fusion-diff certify`, `inspect --purify` and `--detect-attacks` from the command line."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from fusion_diff.cli import main
from fusion_diff.model import DiffusionModel
from fusion_diff.synthetic import builtin_samples


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn, labels = builtin_samples(1)
    path = tmp_path_factory.mktemp("samples") / "counterfeit.tif"
    pixels = drawn[labels.index("counterfeit")].pixels
    tifffile.imwrite(path, np.rint(pixels * 65535).astype(np.uint16))
    return path


def test_certify_prints_a_certificate_and_its_exit_code_is_the_side(
    sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["certify", str(sample), "--sigma", "0.05", "--samples", "10", "--confidence", "0.9", "--seed", "0"])
    said = capsys.readouterr().out
    assert code == 1
    assert "not authentic" in said
    assert "8 of 8" in said
    assert re.search(r"seed of the noise *│? *0 *", said)
    assert "No change of its working pixels with an L2 norm below 0.0" in said
    assert re.search(r"in scope *│? *yes", said)
    assert "A change of the file that moves its contrast range is not covered" in " ".join(said.split())


def test_a_certificate_is_worth_nothing_where_noise_hides_what_the_model_sees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, labels = builtin_samples(1)
    path = tmp_path / "sound.tif"
    tifffile.imwrite(path, drawn[labels.index("sound")].pixels)
    code = main(["certify", str(path), "--sigma", "0.9", "--samples", "10", "--confidence", "0.9", "--seed", "0"])
    said = " ".join(capsys.readouterr().out.split())
    assert code == 2
    assert "changes the smoothed choice, not authentic" in said
    assert "Without noise the model chooses authentic: the noise hides what the model sees" in said


def test_what_is_out_of_scope_is_certified_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "noise.tif"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8))
    assert main(["certify", str(path), "--samples", "10", "--confidence", "0.9", "--seed", "0"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "changes the smoothed choice, not authentic" in said
    assert "Without noise" not in said
    assert re.search(r"in scope *│? *no", said)
    assert "Out of scope: as a whole it is unlike every reference" in said


def test_certify_refuses_what_it_cannot_do(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = tmp_path / "wide.tif"
    tifffile.imwrite(wide, np.random.default_rng(0).integers(0, 255, (224, 4000)).astype(np.uint8))
    assert main(["certify", str(wide)]) == 3
    assert "crop it, for example to 224x224" in " ".join(capsys.readouterr().err.split())
    assert main(["certify", str(sample), "--sigma", "0"]) == 3
    assert main(["certify", str(sample), "--samples", "3"]) == 3
    capsys.readouterr()
    assert main(["certify", str(tmp_path / "not even looked for"), "--samples", "10"]) == 3
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "nothing can be certified at a confidence of 0.999; give at least 12, or lower --confidence" in said


@pytest.mark.parametrize(
    "words",
    [
        ["certify", "SAMPLE", "--model", "EXPORTED"],
        ["verify-model", "EXPORTED", "SAMPLE", "--make", "--golden", "GOLDEN"],
        ["export", "EXPORTED", "--out", "OUT"],
        ["enroll", "SAMPLE", "--authentic", "sound", "--base", "EXPORTED", "--out", "OUT"],
    ],
)
def test_an_exported_model_is_refused_by_its_name_where_the_whole_one_is_needed(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (tmp_path / "line-7").mkdir()
    (tmp_path / "line-7" / "edge.json").write_text("{}")
    named = {"SAMPLE": sample, "EXPORTED": tmp_path / "line-7", "GOLDEN": tmp_path / "golden", "OUT": tmp_path / "out"}
    assert main([str(named.get(word, word)) for word in words]) == 3
    said = capsys.readouterr().err
    assert "line-7: an exported model can only inspect; give the model that it was exported from" in said
    assert not (tmp_path / "golden").exists()
    assert not (tmp_path / "out").exists()


def test_inspect_purifies_where_it_is_asked_to(sample: Path, tmp_path: Path) -> None:
    records = []
    for name, options in {"plain": [], "purified": ["--purify"]}.items():
        file = tmp_path / f"{name}.jsonl"
        assert main(["inspect", str(sample), "--json", str(file), *options]) in (0, 1, 2)
        records.append(json.loads(file.read_text("ascii")))
    plain, purified = records
    assert "purified" not in plain
    assert purified["purified"] is True
    assert "attacked" not in purified
    assert plain["score"] != purified["score"]
    assert any("purification" in reason for reason in purified["reasons"])


def test_inspect_says_whether_a_micrograph_was_attacked(sample: Path, tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    assert main(["inspect", str(sample), "--json", str(file), "--detect-attacks"]) in (0, 1, 2)
    told = json.loads(file.read_text("ascii"))
    assert told["attacked"] is False
    assert any("tuned to mislead" in reason for reason in told["reasons"])


def test_attacks_are_not_looked_for_with_a_model_that_was_enrolled_without_measuring_them(
    sample: Path, tmp_path: Path, checkpoint_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = DiffusionModel.from_pretrained(checkpoint_folder)
    model.enrolment = replace(model.enrolment, shifts=())
    model.save_pretrained(tmp_path / "model")
    record = tmp_path / "ledger.jsonl"
    paths = [str(sample), str(shutil.copy(sample, tmp_path))]
    code = main(["inspect", *paths, "--model", str(tmp_path / "model"), "--detect-attacks", "--record", str(record)])
    said = capsys.readouterr()
    assert (code, said.out) == (3, "")
    assert said.err.count("fusion-diff enroll --detect-attacks") == 1
    assert not record.exists(), "it is refused before the first micrograph"
