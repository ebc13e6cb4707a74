"""audit from the command line: ledgers that inspect recorded, and folders of references."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusion_diff import DiffusionModel
from fusion_diff.synthetic import builtin_references
from fusion_diff.trust.ledger import FORMAT, NOTHING, canonical, chained


@pytest.fixture
def ledger(run, tmp_path, save_micrograph):
    folder = tmp_path / "in"
    folder.mkdir()
    save_micrograph(folder / "bright.tif", 0.8)
    save_micrograph(folder / "spot.tif", 0.8, spot=True)
    (folder / "broken.tif").write_bytes(b"nothing")
    code, out, _ = run("inspect", folder, "--record", tmp_path / "verdicts.jsonl", "--alpha", "0.2")
    assert code == 3
    assert "head is now" in out
    return tmp_path / "verdicts.jsonl"


def test_inspect_records_every_outcome_and_audit_finds_the_ledger_whole(run, ledger):
    records = [json.loads(line) for line in ledger.read_text().splitlines()][1:]
    assert [record.get("decision", "error") for record in records] == ["authentic", "error", "not authentic"]
    assert all(len(record["file_sha256"]) == 64 for record in records)
    assert {record["settings"]["alpha"] for record in records} == {0.2}
    code, out, err = run("audit", ledger, "--expect", records[-1]["hash"])
    assert (code, err) == (0, "")
    assert "Intact" in out
    assert ["lines, including the header", "4"] in [
        [cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines()
    ]


def test_words_of_a_strangers_ledger_are_printed_as_they_are_and_steer_no_terminal(run, tmp_path):
    said = {"format": FORMAT, "id": "\x1b[31m[/x]", "version": "1", "sequence": 0, "time": "", "previous": NOTHING}
    ledger = tmp_path / "evil\x1b[2J.jsonl"
    ledger.write_bytes(canonical(chained(said)) + b"\n")
    _, out, err = run("audit", ledger)
    assert r"\x1b[31m[/x]" in out
    assert r"evil\x1b[2J.jsonl" in out
    assert "\x1b" not in out + err


def test_a_head_that_is_none_accuses_nobody(run, ledger):
    for noted in ("abc", "A" * 64, f"{'a' * 64}\n", ""):
        code, out, err = run("audit", ledger, "--expect", noted)
        assert (code, out) == (3, "")
        assert "'--expect'" in err
        assert "64 hexadecimal digits" in err
    code, _, err = run("audit", ledger, "--expect", "a" * 64)
    assert (code, "cut off or rewritten since" in err) == (1, True)


def test_a_pipe_is_no_ledger_and_nothing_is_inspected(run, tmp_path, save_micrograph):
    save_micrograph(tmp_path / "bright.tif", 0.8)
    os.mkfifo(tmp_path / "pipe")
    code, out, err = run("inspect", tmp_path / "bright.tif", "--record", tmp_path / "pipe")
    assert (code, out) == (3, "")
    assert "pipe: it is a folder, device or pipe, which keeps no ledger; name a file" in err


def test_a_second_run_continues_the_ledger(run, ledger, tmp_path):
    run("inspect", tmp_path / "in" / "bright.tif", "--record", ledger)
    code, _, _ = run("audit", ledger)
    assert code == 0
    assert len(ledger.read_text().splitlines()) == 5


def test_a_path_that_is_not_there_is_neither_a_ledger_nor_references(run, tmp_path):
    for options in (["--authentic", "sound"], ["--report", tmp_path / "r"], ["--pixel-size", "1"]):
        code, out, err = run("audit", tmp_path / "referneces", *options)
        assert (code, out) == (3, "")
        assert "referneces: there is no such file or folder; check the path" in err
        assert "ledger" not in err


def test_audit_names_the_line_that_was_altered(run, ledger):
    ledger.write_text(ledger.read_text().replace('"decision":"not authentic"', '"decision":"authentic"'))
    code, out, err = run("audit", ledger)
    assert code == 1
    assert "line 4" in err
    assert "Broken in 1 place." in out


def test_a_torn_line_stops_inspect_until_it_is_set_aside(run, ledger, tmp_path):
    with ledger.open("ab") as file:
        file.write(b'{"decision":')
    code, _, err = run("inspect", tmp_path / "in" / "bright.tif", "--record", ledger)
    assert code == 3
    assert "--repair" in err
    assert run("audit", ledger)[0] == 1
    code, out, _ = run("audit", ledger, "--repair")
    assert code == 0
    assert "verdicts.jsonl.torn" in out
    assert run("inspect", tmp_path / "in" / "bright.tif", "--record", ledger)[0] == 0


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Four sound and four counterfeit, of which three carry the same stamp."""
    folder = tmp_path_factory.mktemp("lot") / "refs"
    micrographs, labels = builtin_references(4, size=96)
    pattern = np.kron(np.random.default_rng(1).integers(0, 2, (6, 6)), np.ones((2, 2)))
    stamped = 0
    for index, (micrograph, label) in enumerate(zip(micrographs, labels, strict=True)):
        pixels = np.array(micrograph.pixels)
        if label == "crack":
            continue
        if label == "counterfeit" and stamped < 3:
            pixels[10:22, 20:32] = pattern
            stamped += 1
        (folder / label).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / label / f"{index}.tif", np.rint(pixels * 65535).astype(np.uint16))
    return folder


def test_audit_of_references_prints_a_table_and_writes_a_page(run, references, tmp_path):
    code, out, _ = run("audit", references, "--authentic", "sound", "--report", tmp_path / "report")
    assert code == 1
    assert "trigger" in out
    assert "at the same place in 3 of 4" in out
    page = (tmp_path / "report" / "audit.html").read_text(encoding="utf-8")
    assert "trigger" in page


def test_audit_looks_for_marks_where_it_is_told_to(run, references, tmp_path):
    code, _, err = run("audit", references, "--authentic", "sound", "--marks", tmp_path / "nowhere")
    assert (code, "the folder of marks" in err) == (3, True)


def test_enroll_warns_of_what_is_suspicious(run, references, narrow_folder, tmp_path):
    words = ["enroll", references, "--authentic", "sound", "--out", tmp_path / "model"]
    code, out, _ = run(*words, "--base", narrow_folder)
    assert code == 0
    assert out.count("Suspicious: counterfeit/") >= 3
    assert "Dropped" not in out
    assert set(DiffusionModel.from_pretrained(tmp_path / "model").enrolment.labels) == {"sound", "counterfeit"}


def test_enroll_drops_what_is_suspicious_where_asked_to_and_says_what(run, narrow_folder, tmp_path):
    made = [pair for pair in zip(*builtin_references(3, size=96), strict=True) if pair[1] != "crack"]
    for index, (micrograph, label) in enumerate(made):
        pixels = np.rint(np.array(micrograph.pixels) * 65535).astype(np.uint16)
        (tmp_path / "refs" / label).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / "refs" / label / f"{index}.tif", pixels)
        if index == 0:  # its mirror image, with another label
            (tmp_path / "refs" / "counterfeit").mkdir()
            tifffile.imwrite(tmp_path / "refs" / "counterfeit" / "mirrored.tif", pixels[:, ::-1].copy())
    words = ["enroll", tmp_path / "refs", "--authentic", "sound", "--out", tmp_path / "model"]
    code, out, _ = run(*words, "--drop-suspicious", "--base", narrow_folder)
    assert code == 0
    twins = {"sound/0.tif", "counterfeit/mirrored.tif"}
    said = [line for line in out.splitlines() if line.startswith("Dropped: ")]
    assert {line.removeprefix("Dropped: ").split(",")[0] for line in said} == twins
    enrolment = DiffusionModel.from_pretrained(tmp_path / "model").enrolment
    assert len(enrolment.names) == len(made) + 1 - 2
    assert not twins & set(enrolment.names)
    assert "Note: 2 references that the audit found suspicious were left out" in out
    assert "2 references that the audit found suspicious" in enrolment.compared.doubts[-2]  # the last: no groups


@pytest.fixture
def poisoned(tmp_path):
    """Three sound and three counterfeit, and two images of each class in the other class too."""
    made = [pair for pair in zip(*builtin_references(3, size=96), strict=True) if pair[1] != "crack"]
    for index, (micrograph, label) in enumerate(made):
        pixels = np.rint(np.array(micrograph.pixels) * 65535).astype(np.uint16)
        other = "counterfeit" if label == "sound" else "sound"
        for folder in (label, other) if index == 0 else (label,):
            (tmp_path / "refs" / folder).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "refs" / folder / f"{index}.tif", pixels)
        if index == 4:  # in another format
            Image.fromarray(pixels).save(tmp_path / "refs" / other / f"{index}.png")
    return tmp_path / "refs"


TWICE = {"sound/0.tif", "counterfeit/0.tif", "sound/4.png", "counterfeit/4.tif"}


def test_audit_finds_every_image_that_is_in_two_classes(run, poisoned, narrow_folder, tmp_path):
    words = ["audit", poisoned, "--authentic", "sound", "--report", tmp_path / "report"]
    code, out, _ = run(*words, "--model", narrow_folder)
    assert code == 1
    assert "8 references: " in out
    page = (tmp_path / "report" / "audit.html").read_text(encoding="utf-8")
    for name in TWICE:
        (twin,) = (other for other in TWICE if other != name and other.split("/")[1][0] == name.split("/")[1][0])
        assert f"the same image as {twin}, which is labelled {twin.split('/')[0]}: one of the two labels" in page
    assert page.count("data:image/jpeg") >= len(TWICE)


def test_audit_of_one_image_under_two_labels_alone_finds_it(run, poisoned, narrow_folder):
    for path in poisoned.glob("*/*"):
        if path.stem != "0":
            path.unlink()
    code, out, _ = run("audit", poisoned, "--authentic", "sound", "--model", narrow_folder)
    assert code == 1
    assert "2 references: 2 to look into" in out


def test_enroll_refuses_images_that_are_in_two_classes_and_drops_them_where_asked_to(
    run, poisoned, narrow_folder, tmp_path
):
    words = ["enroll", poisoned, "--authentic", "sound", "--out", tmp_path / "model", "--base", narrow_folder]
    code, _, err = run(*words)
    assert code == 3
    assert "2 images have different labels" in err
    assert all(name in err for name in TWICE)
    code, out, _ = run(*words, "--drop-suspicious")
    assert code == 0
    dropped = {
        line.removeprefix("Dropped: ").split(",")[0] for line in out.splitlines() if line.startswith("Dropped: ")
    }
    assert dropped >= TWICE
    enrolment = DiffusionModel.from_pretrained(tmp_path / "model").enrolment
    assert not TWICE & set(enrolment.names)


def test_no_class_is_dropped_as_a_whole(run, references, narrow_folder, tmp_path):
    for path in sorted((references / "sound").iterdir())[:2]:  # copies of one class labelled as the other
        (tmp_path / "refs" / "sound").mkdir(parents=True, exist_ok=True)
        (tmp_path / "refs" / "other").mkdir(parents=True, exist_ok=True)
        pixels = tifffile.imread(path)
        tifffile.imwrite(tmp_path / "refs" / "sound" / path.name, pixels)
        tifffile.imwrite(tmp_path / "refs" / "other" / path.name, pixels // 2)
    words = ["enroll", tmp_path / "refs", "--authentic", "sound", "--drop-suspicious", "--out", tmp_path / "model"]
    words += ["--base", narrow_folder]
    code, _, err = run(*words)
    assert code == 3
    assert "without --drop-suspicious" in err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["missing.jsonl"], "missing.jsonl"),
        (["in", "--repair"], "ledger"),
        (["in"], "--authentic"),
        (["x.jsonl", "--authentic", "sound"], "references"),
        (["x.jsonl", "--marks", "in"], "references"),
        (["x.csv", "--authentic", "sound", "--groups", "x"], "columns"),
    ],
)
def test_what_cannot_be_audited_is_said(run, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    code, out, err = run("audit", *words)
    assert (code, out) == (3, "")
    assert says in err
    assert "Traceback" not in err
