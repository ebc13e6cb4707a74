"""enroll, inspect and demo from the command line, with the embedded model."""

from __future__ import annotations

import csv
import json
import shutil
from typing import get_args

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusion_diff import DiffusionModel, __version__, cli
from fusion_diff.commands import demo
from fusion_diff.commands.enroll import SetApart
from fusion_diff.fewshot.fusion import Difference
from fusion_diff.synthetic import builtin_references, builtin_samples


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.rint(pixels * 65535).astype(np.uint16))


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Two specimens a class, two images each."""
    folder = tmp_path_factory.mktemp("lot") / "refs"
    micrographs, labels = builtin_references(4, size=64)
    for index, (micrograph, label) in enumerate(zip(micrographs, labels, strict=True)):
        if label != "crack":
            write(folder / label / f"{label}{index % 4 // 2}_{index}.tif", micrograph.pixels)
    return folder


@pytest.fixture(scope="module")
def enrolled(references, tmp_path_factory):
    folder = tmp_path_factory.mktemp("line") / "model"
    words = ["enroll", str(references), "--authentic", "sound", "--groups", "^([a-z]+[0-9])_", "--pixel-size", "0.25"]
    assert cli.main([*words, "--shots", "2", "--out", str(folder)]) == 0
    return folder


def test_enroll_prints_counts_and_figures_and_saves_a_model_that_loads(references, tmp_path, capsys):
    words = ["enroll", str(references), "--authentic", "sound", "--out", str(tmp_path / "m"), "--shots", "3"]
    assert cli.main([*words, "--groups", "^([a-z]+[0-9])_"]) == 0
    out = capsys.readouterr().out
    for text in ("sound", "counterfeit", "auroc", "0.5 is guessing", "too few to ever decide", str(tmp_path / "m")):
        assert text in out
    assert "departures: places unlike the authentic references, or like the flaws of the others, added up; mul" in out
    assert "specimen of its own" not in out
    assert f"Next: fusion-diff inspect NEW --model {tmp_path / 'm'} --report report" in out
    enrolment = DiffusionModel.from_pretrained(tmp_path / "m").enrolment
    assert enrolment.counts == {"sound": 3, "counterfeit": 3}
    assert len(set(enrolment.groups)) == 4
    assert not enrolment.builtin


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([], "4 (each image counted as one)"),
        (["--groups", "^([a-z]+[0-9]_[0-9]+)"], "4"),  # given, although each specimen has a single image
    ],
)
def test_enroll_says_that_images_count_as_specimens_where_no_groups_are_given(
    references, narrow_folder, tmp_path, capsys, groups, said
):
    words = ["enroll", str(references), "--authentic", "sound", "--out", str(tmp_path / "m"), "--shots", "2"]
    assert cli.main([*words, *groups, "--base", str(narrow_folder)]) == 0
    out = capsys.readouterr().out
    assert ["specimens", said] in [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines()]
    assert ("specimen of its own" in out) == (not groups)


def test_enroll_names_the_model_and_the_one_that_it_replaced_as_verdicts_do(
    references, narrow_folder, tmp_path, capsys
):
    words = ["enroll", str(references), "--authentic", "sound", "--out", str(tmp_path / "m")]
    words += ["--base", str(narrow_folder), "--shots"]
    assert cli.main([*words, "2"]) == 0
    assert "Replaced" not in capsys.readouterr().out
    first = DiffusionModel.from_pretrained(tmp_path / "m").sha256
    assert cli.main([*words, "3"]) == 0
    out = capsys.readouterr().out
    second = DiffusionModel.from_pretrained(tmp_path / "m")
    assert f"Replaced the model that was there, sha256 {first}\n" in out
    assert f"Saved in {tmp_path / 'm'}, sha256 {second.sha256}\n" in out
    assert second.sha256 != first
    assert f"saved by FusionDiff {__version__}" in second.readme


def test_enroll_takes_what_differs(references, narrow_folder, tmp_path, capsys):
    assert tuple(SetApart) == get_args(Difference)
    words = ["enroll", str(references), "--authentic", "sound", "--out", str(tmp_path / "m"), "--shots", "2"]
    words += ["--base", str(narrow_folder)]
    assert cli.main([*words, "--difference", "whole"]) == 0
    assert "pooled: the texture as a whole" in capsys.readouterr().out
    model = DiffusionModel.from_pretrained(tmp_path / "m")
    assert model.enrolment.difference == "whole"
    assert "said to differ as a whole" in model.readme
    assert cli.main([*words, "--difference", "texture"]) == 3
    assert "'texture' is not one of 'any', 'whole'" in capsys.readouterr().err


def test_enroll_prints_no_figures_of_one_class(references, narrow_folder, tmp_path, capsys):
    shutil.copytree(references / "sound", tmp_path / "refs" / "sound")
    words = ["enroll", str(tmp_path / "refs"), "--authentic", "sound", "--out", str(tmp_path / "m"), "--shots", "2"]
    assert cli.main([*words, "--base", str(narrow_folder)]) == 0
    out = capsys.readouterr().out
    assert "so there are no cross-fitted figures yet" in out
    assert "weight of" not in out


def test_inspect_warns_of_classes_that_the_model_does_not_have(enrolled, references, tmp_path, capsys):
    (tmp_path / "p.toml").write_text('format = "fusion-diff/policy/1"\nauthentic_classes = ["Sound"]\n')
    sample = str(next((references / "sound").glob("*.tif")))
    words = ["inspect", sample, "--model", str(enrolled), "--policy", str(tmp_path / "p.toml")]
    for options in ([], ["--purify"]):
        assert cli.main([*words, *options]) == 1
        assert "did you mean 'sound'?), but the classes of the model are" in capsys.readouterr().err


def test_an_enrolled_model_has_the_name_of_its_folder_and_a_card_of_its_own(enrolled, tmp_path):
    model = DiffusionModel.from_pretrained(enrolled)
    assert model.name == enrolled.name
    first, base = model.readme.split("## The model that they were enrolled on")
    assert first.startswith(f"# {enrolled.name}")
    assert "| sound (authentic) |" in first
    assert model.enrolment.references_sha256 in first
    assert "# fusion-diff-v1-ceramic" in base
    model.name = "again"
    model.save_pretrained(tmp_path / "again")
    again = (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert again == model.readme.replace(f"# {enrolled.name}", "# again", 1), (
        "enrolled once more, it has one base still"
    )


def test_enroll_looks_first_whether_the_model_can_be_saved(references, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    words = ["enroll", str(references), "--authentic", "sound", "--out"]
    for out, why in (
        (tmp_path, "holds something that is not a checkpoint"),
        (tmp_path / "notes.txt", "is a file, but"),
    ):
        assert cli.main([*words, str(out)]) == 3
        said = capsys.readouterr()
        assert said.out == ""
        assert f"{out}: {why}" in said.err
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert cli.main(["enroll", str(tmp_path / "notes.txt"), "--authentic", "sound", "--out", str(tmp_path / "m")]) == 3
    assert "a folder with one sub-folder per class, or a CSV file" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--device", "gpu7", "gpu7"),
        ("--device", "AUTO", "use cpu, cuda, npu, xpu or mps (AUTO and"),
        ("--base", "no-such-model", "no-such-model"),
        ("--base", "{out}", "{out}"),
    ],
)
def test_enroll_looks_at_device_and_base_before_it_reads_a_reference(tmp_path, capsys, option, value, says):
    value, says = (text.format(out=tmp_path / "missing") for text in (value, says))
    words = ["enroll", str(tmp_path / "refs"), "--authentic", "sound", "--out", str(tmp_path / "m")]
    assert cli.main([*words, option, value]) == 3  # REFS is missing too, which is found later
    said = " ".join(capsys.readouterr().err.split())
    assert says in said
    assert "refs" not in said


def test_enroll_reads_a_csv_file_and_marks(references, narrow_folder, tmp_path):
    table = references / "table.csv"
    names = sorted(path.relative_to(references).as_posix() for path in references.rglob("*.tif"))
    mark = np.zeros((64, 64), dtype=np.uint8)
    mark[10:40, 10:40] = 255
    marked = next(name for name in names if name.startswith("counterfeit"))
    Image.fromarray(mark).save(tmp_path / "mark.png")
    rows = [f"{name},{name.split('/')[0]},{tmp_path / 'mark.png' if name == marked else ''}" for name in names]
    table.write_text("\n".join(["file,label,mark", *rows]))
    words = ["enroll", str(table), "--authentic", "sound", "--out", str(tmp_path / "b"), "--base", str(narrow_folder)]
    assert cli.main(words) == 0
    enrolment = DiffusionModel.from_pretrained(tmp_path / "b").enrolment
    assert sum(bag.mark is not None for bag in enrolment.bags) == 1


def test_inspect_reports_what_it_could_read_and_what_it_could_not(enrolled, tmp_path, capsys):
    micrographs, labels = builtin_samples(2, size=64)
    for index, (micrograph, label) in enumerate(zip(micrographs, labels, strict=True)):
        write(tmp_path / "new" / f"{label}-{index}.tif", micrograph.pixels)
    (tmp_path / "new" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ["inspect", str(tmp_path / "new"), "--model", str(enrolled), "--report", str(tmp_path / "report")]
    assert cli.main([*words, "--alpha", "0.25"]) == 3
    said = capsys.readouterr()
    assert "broken.png" in said.err
    assert "7 micrographs:" in said.out
    records = [json.loads(line) for line in (tmp_path / "report" / "inspections.jsonl").read_text().splitlines()]
    assert len(records) == 7
    judged = [record for record in records if record.get("error") is None]
    assert len(judged) == 6
    assert all(0 <= record["score"] <= 1 and len(record["model_sha256"]) == 64 for record in judged)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "broken.png" in page
    assert "sound-0.tif" in page


def test_the_exit_code_tells_whether_all_are_authentic(enrolled, references, tmp_path):
    sound = sorted((references / "sound").glob("*.tif"))
    codes = {cli.main(["inspect", str(path), "--model", str(enrolled), "--alpha", "0.25"]) for path in sound}
    assert codes <= {0, 1, 2}
    assert cli.main(["inspect", str(sound[0]), "--model", str(enrolled), "--alpha", "0.001"]) == 2


@pytest.mark.parametrize("what", ["unknown-model", "folder-without-a-manifest"])
def test_inspect_with_a_model_that_is_none_says_so(what, references, tmp_path, capsys):
    name = what if what.startswith("unknown") else str(tmp_path)
    assert cli.main(["inspect", str(references), "--model", name]) == 3
    assert ("no such model" if what == name else "so it is no model") in capsys.readouterr().err


def test_the_demo_writes_everything_and_sets_the_truth_beside(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "SAMPLES_PER_CLASS", 2)
    out = tmp_path / "new" / "demo"
    assert cli.main(["demo", "--out", str(out), "--shots", "2", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert str(out / "index.html") in said
    assert "Compared with the truth:" in said
    assert "Note: 2 authentic references are too few to ever decide 'not authentic' at alpha 0.2" in said
    assert "counterfeit-02.tif" in said
    with (out / "references.csv").open(newline="") as file:
        listed = [row["file"] for row in csv.DictReader(file)]
    assert len(listed) == 6
    records = [json.loads(line) for line in (out / "inspections.jsonl").read_text().splitlines()]
    assert len(records) == 6
    assert all(record["pixel_size_um"] > 0 for record in records)
    assert not {(out / name).read_bytes() for name in listed} & {
        path.read_bytes() for path in (out / "micrographs").glob("*.tif")
    }
