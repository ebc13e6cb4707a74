"""`fusion-diff export` from the command line, and `inspect` with the exported model."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from fusion_diff.cli import main
from fusion_diff.model import DiffusionModel
from fusion_diff.references import ReferenceSet


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of references: authentic fine grain and coarse grain."""
    folder = tmp_path_factory.mktemp("refs")
    for kind, grain in {"fine": 1.0, "coarse": 4.0}.items():
        (folder / kind).mkdir()
        for seed in range(4):
            field = gaussian_filter(np.random.default_rng([seed, len(kind)]).normal(size=(224, 224)), grain)
            levels = np.clip(30000 + 8000 * field / field.std(), 0, 65535).astype(np.uint16)
            tifffile.imwrite(folder / kind / f"{seed}.tif", levels)
    return folder


@pytest.fixture(scope="module")
def small_model(narrow_model: DiffusionModel, references: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The narrow model, enrolled."""
    model = copy.deepcopy(narrow_model)
    model.enroll(ReferenceSet.from_folder(references, authentic="fine"))
    folder = tmp_path_factory.mktemp("enrolled") / "small"
    model.save_pretrained(folder)
    return folder


def test_a_model_is_exported_in_eight_bits_and_inspects(
    small_model: Path,
    references: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "edge"
    assert main(["export", str(small_model), "--int8", "--references", str(references), "--out", str(out)]) == 0
    said, told = capsys.readouterr()
    assert "Writing the graph and comparing it with the model" in told
    assert not [record.getMessage() for record in caplog.records if record.name.startswith("torch.onnx")]
    for words in ("largest difference of scores", "macro F1 of the exported", "CNN block 3", "DeiT block 1, MLP"):
        assert words in said
    assert "Kept in fp32: " in said
    description = json.loads((out / "edge.json").read_text())
    name = json.loads((small_model / "config.json").read_text())["name"]
    assert (description["precision"], description["name"]) == ("int8", name)

    import onnx

    kinds = {node.op_type for node in onnx.load(out / "graph.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds

    records = {}
    for name, model in {"exported": out, "whole": small_model}.items():
        file, ledger = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.ledger"
        asked = ["inspect", str(references), "--model", str(model), "--json", str(file), "--record", str(ledger)]
        assert main(asked) in (1, 2)
        records[name] = [json.loads(line) for line in file.read_text().splitlines()]
        assert json.loads(ledger.read_text().splitlines()[-1])
    assert len(records["exported"]) == 8
    for exported, whole in zip(records["exported"], records["whole"], strict=True):
        assert exported["path"] == whole["path"]
        assert exported["model_sha256"] != whole["model_sha256"] == description["exported_from"]
        assert exported["predicted_class"] == whole["predicted_class"]

    capsys.readouterr()
    assert main(["inspect", str(references), "--model", str(out), "--purify"]) == 3
    assert "do not work with an exported model" in " ".join(capsys.readouterr().err.split())
    assert main(["inspect", str(references), "--model", str(out), "--device", "NPU"]) == 3
    assert "no such device here" in " ".join(capsys.readouterr().err.split())


def test_references_of_which_some_were_dropped_as_suspicious_are_compared_on(
    small_model: Path, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`enroll --drop-suspicious` takes a set with one image in two classes, so the export of its model does too."""
    shutil.copytree(references, tmp_path / "refs")
    shutil.copy(references / "fine" / "0.tif", tmp_path / "refs" / "coarse" / "same.tif")
    asked = ["--references", str(tmp_path / "refs"), "--out", str(tmp_path / "edge")]
    assert main(["export", str(small_model), *asked]) == 0, capsys.readouterr().err
    assert "of these decided by the model at alpha 0.2 │ 9 │" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "edge" / "edge.json").is_file()


def test_only_a_signed_export_is_read_where_that_is_required(
    exported_folder: Path, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, key = tmp_path / "edge", tmp_path / "lab.key"
    shutil.copytree(exported_folder, copy)
    assert main(["keys", "new", str(key)]) == 0
    sample = tmp_path / "sample.tif"
    shutil.copy(references / "fine" / "0.tif", sample)
    asked = ["inspect", str(sample), "--model", str(copy), "--require-signed", "--trusted-key", f"{key}.pub"]
    assert main(["sign", str(sample), "--key", str(key)]) == 0
    assert main(asked) == 3
    assert main(["sign", str(copy), "--key", str(key)]) == 0
    capsys.readouterr()
    assert main(asked) in (0, 1, 2)
    assert "sample.tif" in capsys.readouterr().out


def test_an_export_without_references_says_that_no_decision_was_compared(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(small_model), "--out", str(tmp_path / "edge")]) == 0
    said, told = (" ".join(text.split()) for text in capsys.readouterr())
    assert "of these decided by the model at alpha 0.2 │ 0 │" in said
    assert "the same where the model recognises surfaces │ unknown: it recognised none │" in said
    assert "no decisions, as the model decides on none of 6 micrographs at alpha 0.2; give the enrolled ref" in told


def test_a_limit_on_files_is_told_with_its_cure(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], room_for: Callable
) -> None:
    with room_for(2**18):
        assert main(["export", str(small_model), "--runtime", "openvino", "--out", str(tmp_path / "out")]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"plain\.onnx: cannot be used \(File too large\); free some space, or raise the limit", said), said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--int8"], "give them with --references"),
        (["--references", "missing"], "missing"),
        (["--runtime", "tflite"], "tflite"),
    ],
)
def test_what_cannot_be_exported_exits_with_3_and_says_why(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert main(["export", str(small_model), "--out", str(tmp_path / "out"), *words]) == 3
    assert says in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
