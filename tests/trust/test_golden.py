"""Golden sets: made, altered and scored again, with a model that reads the pixels."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_diff.commands import verify_model as module
from fusion_diff.errors import EnrolmentError, MicrographError, TrustError
from fusion_diff.micrograph import load_microstructure_data
from fusion_diff.trust.golden import FILE, compare, make_golden, read_golden


class Darker:
    """A darkness model with darker input."""

    def __init__(self, model, change):
        self.name, self.sha256, self.enrolment = model.name, model.sha256, model.enrolment
        self.model, self.change = model, change

    def inspect(self, micrograph, *, alpha):
        import dataclasses

        it = self.model.inspect(micrograph, alpha=alpha)
        return dataclasses.replace(it, score=it.score - self.change)


@pytest.fixture
def images(tmp_path, save_micrograph):
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    save_micrograph(folder / "bright.tif", 0.8)
    save_micrograph(folder / "grey.tif", 0.3)
    save_micrograph(folder / "more" / "grey.tif", 0.5, spot=True)
    return [folder / "bright.tif", folder / "grey.tif", folder / "more" / "grey.tif"]


@pytest.fixture
def golden(tmp_path, images, darkness_model):
    make_golden(darkness_model, images, tmp_path / "golden", alpha=0.2)
    return tmp_path / "golden"


def problems(model, folder, **options):
    return [each.problem for each in compare(model, folder, **options)[1]]


def test_the_model_that_made_a_golden_set_passes_it(golden, darkness_model):
    kept, found = compare(darkness_model, golden)
    assert [each.image.file for each in found] == ["bright.tif", "grey.tif", "0002-grey.tif"]
    assert [each.problem for each in found] == ["", "", ""]
    assert [each.score for each in found] == [each.image.score for each in found]
    assert [each.image.decision for each in found] == ["authentic", "inconclusive", "not authentic"]
    assert kept.alpha == 0.2
    assert sorted(path.name for path in golden.parent.iterdir()) == ["golden", "in"]


def test_a_score_that_drifts_is_told_only_beyond_the_tolerance(golden, darkness_model):
    darker = Darker(darkness_model, 0.01)
    assert problems(darker, golden, tolerance=0.02) == ["", "", ""]
    assert all(", expected " in each for each in problems(darker, golden, tolerance=0.001))
    assert all(problems(Darker(darkness_model, float("nan")), golden, tolerance=1))


def test_a_changed_decision_is_told_whatever_the_tolerance(golden, darkness_model):
    value = json.loads((golden / FILE).read_text())
    value["images"][0]["decision"] = "not authentic"
    (golden / FILE).write_text(json.dumps(value))
    first, second, third = problems(darkness_model, golden, tolerance=1)
    assert "the decision is authentic, expected not authentic" in first
    assert (second, third) == ("", "")


def test_decisions_are_made_again_at_the_error_rate_of_the_golden_set(darkness_model, save_micrograph, tmp_path):
    save_micrograph(tmp_path / "grey.tif", 0.35)
    make_golden(darkness_model, [tmp_path / "grey.tif"], tmp_path / "golden", alpha=0.45)
    assert problems(darkness_model, tmp_path / "golden") == [""]
    made = darkness_model.inspect(load_microstructure_data(tmp_path / "grey.tif"), alpha=0.1)
    assert made.decision == "inconclusive", "another error rate decides otherwise"


def test_altered_missing_and_linked_images_are_told_and_not_parsed(golden, darkness_model, tmp_path):
    with (golden / "bright.tif").open("ab") as file:
        file.write(b"x")
    (golden / "grey.tif").unlink()
    shutil.move(golden / "0002-grey.tif", tmp_path / "elsewhere.tif")
    (golden / "0002-grey.tif").symlink_to(tmp_path / "elsewhere.tif")
    first, second, third = problems(darkness_model, golden)
    assert "altered" in first
    assert "cannot be read" in second
    assert "symbolic link" in third


def test_a_golden_set_is_not_written_over_anything(golden, images, darkness_model, tmp_path):
    with pytest.raises(TrustError, match="already"):
        make_golden(darkness_model, images, golden)
    with pytest.raises(TrustError, match="0 images"):
        make_golden(darkness_model, [], tmp_path / "none")


def test_a_golden_set_is_whole_or_not_there(images, darkness_model, tmp_path):
    (tmp_path / "broken.tif").write_bytes(b"nothing")
    with pytest.raises(MicrographError):
        make_golden(darkness_model, [*images, tmp_path / "broken.tif"], tmp_path / "golden")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.tif", "in"]


@pytest.mark.parametrize("name", ["../in/bright.tif", "/etc/passwd", "a/b.tif", "..", "", FILE, "a\nb", 7, "c:x.tif"])
def test_names_that_lead_out_of_the_folder_are_refused(golden, name):
    value = json.loads((golden / FILE).read_text())
    value["images"][1]["file"] = name
    (golden / FILE).write_text(json.dumps(value))
    with pytest.raises(TrustError, match="make it again"):
        read_golden(golden)


@pytest.mark.parametrize(
    ("field", "value"),
    [("score", 2), ("score", float("nan")), ("score", True), ("score", "1"), ("decision", "yes"), ("sha256", "ab")],
)
def test_values_that_cannot_be_are_refused(golden, field, value):
    whole = json.loads((golden / FILE).read_text())
    whole["images"][0][field] = value
    (golden / FILE).write_text(json.dumps(whole))
    with pytest.raises(TrustError, match="make it again"):
        read_golden(golden)


@settings(deadline=None)
@given(
    text=st.binary(max_size=200) | st.sampled_from([b"[" * 10**5, b'{"format": "fusion-diff/golden/1"}', b"7" * 9999])
)
def test_any_other_text_is_refused(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("g")
    (folder / FILE).write_bytes(text)
    with pytest.raises(TrustError):
        read_golden(folder)


@pytest.fixture
def run(monkeypatch, call_cli, darkness_model):
    monkeypatch.setattr(module, "load_model", lambda name, device: darkness_model)
    return call_cli


def test_the_command_makes_a_golden_set_and_gates_on_it(run, images, tmp_path):
    golden = tmp_path / "new" / "golden"
    assert run("verify-model", "m", "--golden", golden, "--make", *images)[0] == 0
    code, out, _ = run("verify-model", "m", "--golden", golden)
    assert (code, "3 images, 0 not as expected" in out) == (0, True)
    (golden / "grey.tif").unlink()
    code, _, err = run("verify-model", "m", "--golden", golden)
    assert (code, "grey.tif" in err) == (1, True)
    assert run("verify-model", "m", "--golden", tmp_path)[0] == 3
    assert run("verify-model", "m", "--golden", golden, "image.tif")[0] == 3
    assert run("verify-model", "m", "--golden", golden, "--make")[0] == 3


@pytest.mark.parametrize(
    ("key", "what"), [("sha256", "model differs from the one"), ("references_sha256", "references differ from those")]
)
def test_another_model_or_other_references_are_noted(run, golden, key, what):
    assert "Note" not in run("verify-model", "m", "--golden", golden)[1]
    value = json.loads((golden / FILE).read_text())
    value["model"][key] = "0" * 64
    (golden / FILE).write_text(json.dumps(value))
    code, out, _ = run("verify-model", "m", "--golden", golden)
    assert code == 0
    assert re.findall("Note: .*", out) == [f"Note: the {what} that made the golden set."]


@pytest.mark.parametrize("option", ["--tolerance", "--trusted-key"])
def test_what_counts_when_scoring_again_is_refused_when_making(run, images, tmp_path, option):
    code, _, err = run("verify-model", "m", "--golden", tmp_path / "golden", "--make", option, "0.5", *images)
    assert (code, f"leave {option} out" in " ".join(err.replace("│", " ").split())) == (3, True)
    assert not (tmp_path / "golden").exists()


def test_alpha_is_for_making_and_refused_when_scoring_again(run, golden):
    code, _, err = run("verify-model", "m", "--golden", golden, "--alpha", "0.2")
    assert (code, "leave --alpha out" in " ".join(err.replace("│", " ").split())) == (3, True)


def test_the_tolerance_is_the_one_that_is_given(run, golden, monkeypatch, darkness_model):
    monkeypatch.setattr(module, "load_model", lambda name, device: Darker(darkness_model, 0.01))
    assert run("verify-model", "m", "--golden", golden)[0] == 1
    assert run("verify-model", "m", "--golden", golden, "--tolerance", "0.02")[0] == 0


def test_a_golden_set_can_be_asked_to_be_signed(run, golden, tmp_path):
    from fusion_diff.trust.keys import new_key
    from fusion_diff.trust.provenance import sign

    new_key(tmp_path / "lab.key")
    key = next(Path(tmp_path).glob("*.pub"))
    assert run("verify-model", "m", "--golden", golden, "--trusted-key", key)[0] == 1
    sign(golden, tmp_path / "lab.key")
    assert run("verify-model", "m", "--golden", golden, "--trusted-key", key)[0] == 0
    value = json.loads((golden / FILE).read_text())
    value["images"][0]["score"] = 0.5
    (golden / FILE).write_text(json.dumps(value))
    code, _, err = run("verify-model", "m", "--golden", golden, "--trusted-key", key)
    assert (code, FILE in err) == (1, True)


def test_an_image_whose_name_not_every_system_takes_is_kept_under_a_number(images, darkness_model, tmp_path):
    timed = images[0].with_name("2025-01-31T12:30:05.tif")
    shutil.copyfile(images[0], timed)
    make_golden(darkness_model, [images[1], timed], tmp_path / "golden", alpha=0.2)
    assert [image.file for image in read_golden(tmp_path / "golden").images] == ["grey.tif", "0001.tif"]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["0001.tif", "10:00.tif"], ["0001.tif", "0001-0001.tif"]),
        (["0002-a.tif", "a.tif", "d/a.tif"], ["0002-a.tif", "a.tif", "0002-0002-a.tif"]),
        (["A.tif", "d/a.tif"], ["A.tif", "0001-a.tif"]),  # one file on systems that do not tell case
    ],
)
def test_no_image_takes_the_name_of_another(tmp_path, darkness_model, save_micrograph, names, kept):
    paths = [tmp_path / "in" / name for name in names]
    for index, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_micrograph(path, 0.3 + 0.1 * index)
    golden = make_golden(darkness_model, paths, tmp_path / "golden")
    assert [image.file for image in golden.images] == kept
    assert len({image.sha256 for image in golden.images}) == len(names)
    assert not any(problems(darkness_model, tmp_path / "golden"))


def test_an_image_that_cannot_be_read_is_told_by_its_own_path(darkness_model, tmp_path):
    (tmp_path / "zero.png").touch()
    with pytest.raises(MicrographError, match="^" + re.escape(f"{tmp_path / 'zero.png'}: the file is empty")):
        make_golden(darkness_model, [tmp_path / "zero.png"], tmp_path / "golden")


def test_an_image_that_changes_while_it_is_copied_is_told(images, darkness_model, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "copyfile", lambda source, target: target.write_bytes(b"other"))
    with pytest.raises(TrustError, match=r"bright\.tif: it changed"):
        make_golden(darkness_model, images, tmp_path / "golden")


def test_a_golden_set_in_the_current_folder_is_refused_before_any_work(images, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(TrustError, match=r"the current folder, which cannot be replaced.*choose a new folder"):
        make_golden(None, images, Path())


def test_a_golden_set_is_written_through_a_link_to_a_folder(images, darkness_model, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    make_golden(darkness_model, images, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert len(read_golden(tmp_path / "real").images) == 3


def test_an_image_without_memory_to_score_it_is_a_problem_and_the_others_are_scored(golden, darkness_model):
    class Small:
        def inspect(self, micrograph, *, alpha):
            if micrograph.name.endswith("bright.tif"):
                torch.empty(2**60)
            return darkness_model.inspect(micrograph, alpha=alpha)

    found = problems(Small(), golden)
    assert found[0].startswith("bright.tif: not enough memory to score it; ")
    assert found[1:] == ["", ""]


def test_a_model_without_references_is_refused_and_no_image_is_blamed(golden, darkness_model, monkeypatch):
    def inspect(micrograph, *, alpha):
        raise EnrolmentError("edge has no enrolled references; enrol references first")

    monkeypatch.setattr(darkness_model, "inspect", inspect)
    with pytest.raises(EnrolmentError, match="no enrolled references"):
        compare(darkness_model, golden)
