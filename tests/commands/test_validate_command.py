"""`fusion-diff validate`: what is printed and written of held-out micrographs, and what it warns of."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from fusion_diff import __version__
from fusion_diff.synthetic import builtin_references


@pytest.fixture
def held_out(tmp_path, save_micrograph):
    """Three bright ones of two specimens, of which one is judged dark, and two dark ones of one, one grey."""
    names = {
        "bright/A_1": (0.8, False),
        "bright/A_2": (0.7, False),
        "bright/B_1": (0.75, True),
        "dark/C_1": (0.05, False),
        "dark/C_2": (0.3, False),
    }
    for index, (name, (level, spot)) in enumerate(names.items()):  # of different sizes: else they are one image
        (tmp_path / "held" / name).parent.mkdir(parents=True, exist_ok=True)
        save_micrograph(tmp_path / "held" / f"{name}.tif", level, spot=spot, side=64 + 8 * index)
    return tmp_path / "held"


def test_errors_are_counted_by_micrograph_and_by_specimen_and_written(call_with_darkness, held_out, tmp_path):
    words = ["validate", held_out, "--authentic", "bright", "--groups", "^([A-Z])_", "--alpha", "0.2"]
    code, out, err = call_with_darkness(*words, "--json", tmp_path / "new" / "v.json")
    assert (code, err) == (0, "")
    assert "Decided at alpha 0.2: 4 of 5 micrographs (80 %)." in out
    assert "bright rejected: 2 specimens are too few to show a rate of at most 0.2" in out
    assert "17 without an error are needed" in out
    assert "Wrong: bright/B_1.tif (bright): not authentic, score 0.0" in out
    assert "no groups are given here" not in out
    record = json.loads((tmp_path / "new" / "v.json").read_text(encoding="ascii"))
    assert (record["format"], record["version"]) == ("fusion-diff/validation/1", __version__)
    assert record["model"] == {"name": "darkness", "sha256": "ab" * 32, "references_sha256": "cd" * 32}
    assert record["settings"]["alpha"] == 0.2
    assert record["classes"]["dark"]["inconclusive"] == 1
    rejected, accepted = (record["rates"][f"{name}"] for name in ("bright rejected", "dark accepted"))
    assert [(rejected[unit]["errors"], rejected[unit]["of"]) for unit in ("micrographs", "specimens")] == [
        (1, 3),
        (1, 2),
    ]
    assert [accepted[unit]["of"] for unit in ("micrographs", "specimens")] == [2, 1]
    assert rejected["specimens"]["high"] > rejected["micrographs"]["high"] > 1 / 3
    assert [verdict["decision"] for verdict in record["verdicts"]].count("inconclusive") == 1
    assert "notes" in record


def test_without_groups_each_micrograph_is_a_specimen_and_a_note_says_so(call_with_darkness, held_out):
    code, out, _ = call_with_darkness("validate", held_out, "--authentic", "bright")
    assert code == 0
    assert "of specimens" not in out
    assert "Note: no groups are given here" in out
    code, out, _ = call_with_darkness("validate", held_out, "--authentic", "dark")
    assert code == 0
    assert "Note: the model verifies 'sound'; here 'dark' is taken for it" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--authentic", "sund"], "has no class 'sund'"),
        (["--authentic", "bright", "--json", "HELD/bright/A_1.tif"], "an existing image"),
        (["--authentic", "bright", "--json", "-"], "is stdout"),
        (["--authentic", "bright", "--groups", "^(x)_"], "finds no specimen"),
        (["--authentic", "bright", "--require-signed"], "go together"),
    ],
)
def test_what_cannot_be_done_is_said_and_exits_with_3(call_with_darkness, held_out, words, says):
    words = [word.replace("HELD", str(held_out)) for word in words]
    code, out, err = call_with_darkness("validate", held_out, *words)
    assert (code, out) == (3, "")
    assert says in " ".join(err.split())


def test_a_model_is_not_validated_on_what_it_has_learned_without_a_note(call_cli, narrow_folder, tmp_path):
    drawn = [pair for pair in zip(*builtin_references(4, size=64), strict=True) if pair[1] != "crack"]
    for index, (micrograph, label) in enumerate(drawn):
        place = tmp_path / ("held" if index % 4 == 3 else "refs") / label / f"{label}{index % 4 // 2}_{index}.tif"
        place.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(place, np.rint(micrograph.pixels * 65535).astype(np.uint16))
    grouped = ["--authentic", "sound", "--groups", "^([a-z]+[0-9])_"]
    assert call_cli("enroll", tmp_path / "refs", *grouped, "--out", tmp_path / "m", "--base", narrow_folder)[0] == 0
    code, out, _ = call_cli("validate", tmp_path / "refs", *grouped, "--model", tmp_path / "m")
    assert code == 0
    assert "Note: 6 micrographs are references of the model (sound/sound0_0.tif, " in out
    assert "Note: 4 specimens of the same name as one of the references (counterfeit0, " in out
    code, out, _ = call_cli("validate", tmp_path / "held", *grouped, "--model", tmp_path / "m")
    assert code == 0
    assert "of the model (" not in out
    assert "Note: 2 specimens of the same name as one of the references (counterfeit1, sound1)" in out
    assert "Note: nothing can be decided: alpha 0.1 needs 9 specimens" in out
