"""enroll, audit, export and certify read exactly what a trusted key signed, and nothing else."""

from __future__ import annotations

import shutil
import tempfile

import numpy as np
import pytest
import tifffile

from fusion_diff import DiffusionModel, cli
from fusion_diff.synthetic import builtin_references

SIGNED = ["--require-signed", "--trusted-key", "K.pub"]


@pytest.fixture(scope="module")
def made(narrow_folder, tmp_path_factory):
    """References of two classes, a model enrolled with them on a narrow base, and a key that signed all three."""
    folder = tmp_path_factory.mktemp("signed")
    micrographs, labels = builtin_references(3, size=64)
    for index, (micrograph, label) in enumerate(zip(micrographs, labels, strict=True)):
        if label != "crack":
            (folder / "refs" / label).mkdir(parents=True, exist_ok=True)
            pixels = np.rint(micrograph.pixels * 65535).astype(np.uint16)
            tifffile.imwrite(folder / "refs" / label / f"{label}_{index}.tif", pixels)
    files = sorted((folder / "refs").glob("*/*.tif"))
    rows = [f"{file.parent.name}/{file.name},{file.stem}" for file in files]
    (folder / "refs" / "groups.csv").write_text("\n".join(["file,group", *rows, ""]))
    shutil.copytree(narrow_folder, folder / "base")
    words = ["enroll", str(folder / "refs"), "--authentic", "sound", "--out", str(folder / "model")]
    assert cli.main([*words, "--base", str(folder / "base")]) == 0
    assert cli.main(["keys", "new", str(folder / "K")]) == 0
    for path in ("refs", "base", "model", "refs/sound/sound_0.tif"):
        assert cli.main(["sign", str(folder / path), "--key", str(folder / "K"), "--out", f"{folder / path}.sig"]) == 0
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of them that is the working folder, and a folder for private copies."""
    shutil.copytree(made, tmp_path / "lab")
    (tmp_path / "lab" / "refs" / "sound" / "sound_0.tif.sig").rename(tmp_path / "lab" / "sound_0.tif.sig")
    (tmp_path / "private").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "private"))
    monkeypatch.chdir(tmp_path / "lab")
    return tmp_path / "lab"


@pytest.fixture
def nothing_stays(tmp_path):
    yield
    assert list((tmp_path / "private").iterdir()) == []


LEARN = ["enroll", "refs", "--authentic", "sound", "--out", "out"]
AUDIT = ["audit", "refs", "--authentic", "sound"]


def test_signed_references_are_learned_as_they_are_without_a_signature(place, call_cli, nothing_stays):
    code, _, err = call_cli(*LEARN, "--base", "base", *SIGNED)
    assert code == 0, err
    ours, theirs = (DiffusionModel.from_pretrained(folder).enrolment for folder in ("out", "model"))
    assert ours.names == theirs.names
    assert ours.groups == theirs.groups
    assert ours.figures == pytest.approx(theirs.figures)
    assert "private" not in (place / "out" / "enrolment.json").read_text()


@pytest.mark.parametrize("words", [LEARN, AUDIT], ids=["enroll", "audit"])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("unsigned", "refs: it is unsigned"),
        ("altered", "sound_1.tif: it was altered"),
        ("added", "new.tif: it was added"),
        ("removed", "sound_1.tif: it is missing"),
        ("regrouped", "groups.csv: it was altered"),
    ],
)
def test_references_that_no_trusted_key_signed_are_not_read(place, call_cli, nothing_stays, words, harm, said):
    file = place / "refs" / "sound" / "sound_1.tif"
    if harm == "unsigned":
        (place / "refs.sig").unlink()
    elif harm == "altered":
        file.write_bytes(b"not even an image")
    elif harm == "added":
        (place / "refs" / "sound" / "new.tif").write_bytes(b"nor this")
    elif harm == "removed":
        file.unlink()
    else:
        (place / "refs" / "groups.csv").write_text("file,group\n")
    code, _, err = call_cli(*words, *SIGNED)
    assert (code, said in err) == (3, True), err
    assert not (place / "out").exists()


@pytest.mark.parametrize("words", [LEARN, AUDIT], ids=["enroll", "audit"])
@pytest.mark.parametrize("outside", [["--marks", "masks"], ["--groups", "other.csv"]], ids=["marks", "groups"])
def test_what_the_signature_does_not_cover_is_not_read(place, call_cli, words, outside):
    code, _, err = call_cli(*words, *outside, *SIGNED)
    assert (code, "reads nothing but a signed folder" in " ".join(err.replace("│", " ").split())) == (3, True), err


def test_a_csv_file_of_references_cannot_be_signed_with_its_images(place, call_cli):
    (place / "refs.csv").write_text("file,label\nrefs/sound/sound_0.tif,sound\n")
    code, _, err = call_cli("enroll", "refs.csv", *LEARN[2:], *SIGNED)
    assert (code, "reads nothing but a signed folder" in " ".join(err.replace("│", " ").split())) == (3, True), err


def test_the_base_has_to_be_signed_unless_it_comes_with_the_package(place, call_cli, nothing_stays):
    assert call_cli(*LEARN, "--shots", "2", *SIGNED)[0] == 0
    (place / "model.sig").unlink()
    code, _, err = call_cli("enroll", "refs", "--authentic", "sound", "--out", "other", "--base", "model", *SIGNED)
    assert (code, "model: it is unsigned" in err) == (3, True), err


def test_a_signed_image_that_is_damaged_is_named_as_it_was_given(place, call_cli, nothing_stays):
    (place / "refs" / "sound" / "sound_1.tif").write_bytes(b"II*\0 and nothing else")
    assert call_cli("sign", "refs", "--key", "K")[0] == 0
    code, _, err = call_cli(*LEARN, *SIGNED)
    assert (code, "refs/sound/sound_1.tif" in err, "private" in err) == (3, True, False), err


@pytest.mark.parametrize("words", [LEARN, AUDIT, ["certify", "a.tif"], ["export", "model", "--out", "x"]])
@pytest.mark.parametrize("options", [["--require-signed"], ["--trusted-key", "K.pub"], [*SIGNED[:2], "absent.pub"]])
def test_keys_are_asked_for_and_checked_first(place, call_cli, words, options):
    code, _, err = call_cli(*words, *options)
    said = " ".join(err.replace("│", " ").split())
    assert (code, "go together" in said or "absent.pub: cannot be read" in said) == (3, True), err


def test_signed_references_are_audited(place, call_cli, nothing_stays):
    assert call_cli(*AUDIT, *SIGNED)[0] == call_cli(*AUDIT)[0]


def test_a_ledger_has_no_signature_to_ask_for(place, call_cli):
    (place / "ledger.jsonl").write_text("{}\n")
    code, _, err = call_cli("audit", "ledger.jsonl", *SIGNED)
    assert (code, "apply to references" in " ".join(err.replace("│", " ").split())) == (3, True), err


def test_a_signed_micrograph_is_certified_by_a_signed_model_only(place, checkpoint_folder, call_cli):
    shutil.copytree(checkpoint_folder, "whole")  # certifying takes the diffusion prior
    assert call_cli("sign", "whole", "--key", "K")[0] == 0
    shutil.copy("refs/sound/sound_0.tif", "sound_0.tif")
    words = ["certify", "sound_0.tif", "--model", "whole", "--samples", "10", "--confidence", "0.5", *SIGNED]
    assert call_cli(*words)[0] in (0, 1, 2)
    (place / "sound_0.tif").write_bytes(b"not even an image")
    code, _, err = call_cli(*words)
    assert (code, "sound_0.tif" in err, "signed" in err) == (3, True, True), err
    shutil.copy("refs/sound/sound_0.tif", "sound_0.tif")
    (place / "whole.sig").unlink()
    code, _, err = call_cli(*words)
    assert (code, "whole: it is unsigned" in err) == (3, True), err


def test_a_signed_model_is_exported_and_compared_on_signed_references_only(place, call_cli):
    words = ["export", "model", "--out", "exported", "--references", "refs", *SIGNED]
    (place / "refs" / "sound" / "new.tif").write_bytes(b"nor this")
    code, _, err = call_cli(*words)
    assert (code, "new.tif: it was added" in err, (place / "exported").exists()) == (3, True, False), err
    (place / "refs" / "sound" / "new.tif").unlink()
    code, _, err = call_cli(*words)
    assert (code, (place / "exported" / "edge.json").is_file()) == (0, True), err
    (place / "model" / "config.json").write_text("{}")
    code, _, err = call_cli(*words)
    assert (code, "config.json: it was altered" in err) == (3, True), err
