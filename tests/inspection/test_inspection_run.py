from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion_diff.errors import MicrographError
from fusion_diff.inspection.run import Outcome, exit_code, inspect_paths, remarks
from fusion_diff.micrograph import source
from fusion_diff.printable import printable
from fusion_diff.verdict.concluding import LEARNED


@pytest.fixture
def files(tmp_path, save_micrograph):
    save_micrograph(tmp_path / "bright.tif", 0.8)
    save_micrograph(tmp_path / "spot.tif", 0.8, spot=True)
    save_micrograph(tmp_path / "grey.tif", 0.3)
    (tmp_path / "broken.tif").write_bytes(b"II*\0 not a picture")
    return [tmp_path / name for name in ("bright.tif", "broken.tif", "missing.tif", "spot.tif", "grey.tif")]


def test_one_unreadable_file_is_an_outcome_with_its_error_and_the_rest_goes_on(files, darkness_model):
    outcomes = list(inspect_paths(darkness_model, files))
    assert [outcome.path for outcome in outcomes] == files
    decisions = [outcome.inspection and outcome.inspection.decision for outcome in outcomes]
    assert decisions == ["authentic", None, None, "not authentic", "inconclusive"]
    for outcome in outcomes[1:3]:
        assert outcome.path.name in outcome.error
        assert outcome.thumbnail is None
    assert exit_code(outcomes) == 3


def test_the_same_bytes_under_another_name_have_a_note_that_names_the_first(files, darkness_model):
    part = files[0].with_name("part-002.tif")
    part.write_bytes(files[0].read_bytes())
    outcomes = list(inspect_paths(darkness_model, [*files[:2], part, files[3], files[0]]))
    notes = [outcome.inspection and outcome.inspection.notes for outcome in outcomes]
    assert notes == [(), None, (f"It has the same bytes as {printable(files[0])}.",), (), ()]


def test_outcomes_come_one_by_one_so_that_none_is_lost(files, darkness_model):
    first = next(inspect_paths(darkness_model, files))
    assert first.inspection.decision == "authentic"
    assert first.thumbnail.dtype == np.uint8


def test_progress_is_told_before_each_file(files, darkness_model):
    told = []
    list(inspect_paths(darkness_model, files, progress=lambda *step: told.append(step)))
    assert told == [(index, 5, path) for index, path in enumerate(files)]


def test_a_given_pixel_size_and_error_rate_reach_the_model(files, darkness_model):
    (outcome,) = inspect_paths(darkness_model, [str(files[3])], alpha=0.01, pixel_size_um=0.5)
    assert outcome.inspection.decision == "inconclusive"
    assert outcome.inspection.pixel_size_um == 0.5
    assert outcome.inspection.regions[0].area_um2 == pytest.approx(outcome.inspection.regions[0].area_px / 4, rel=0.01)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "not enough memory"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (MicrographError("the stage drifted; take it again"), "the stage drifted; take it again"),
    ],
)
def test_errors_name_the_file_and_a_cure(files, error, says):
    class Failing:
        def inspect(self, micrograph, *, alpha):
            raise error

    (outcome,) = inspect_paths(Failing(), files[:1])
    assert str(files[0]) in outcome.error
    assert says in outcome.error
    assert ";" in outcome.error


@pytest.mark.parametrize("name", [b"a\nb.tif", b"\xff.tif", b"\x1b[2J.tif"])
def test_a_file_of_an_unusual_name_is_named_once_and_printably(tmp_path, darkness_model, name):
    file = tmp_path / os.fsdecode(name)
    try:
        file.write_bytes(b"no image")
    except OSError:
        pytest.skip("no file can have such a name here")
    (outcome,) = inspect_paths(darkness_model, [file])
    assert outcome.error.startswith(f"{printable(file)}: the file is not an image")


def _full_gpu():
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize("allocate", [_full_gpu, lambda: torch.empty(2**60)], ids=["gpu", "cpu"])
def test_a_run_without_memory_for_one_micrograph_goes_on_with_the_next(files, darkness_model, allocate):
    class Small:
        def inspect(self, micrograph, *, alpha):
            if micrograph.name.endswith("bright.tif"):
                allocate()
            return darkness_model.inspect(micrograph, alpha=alpha)

    first, second = inspect_paths(Small(), [files[0], files[3]])
    assert "bright.tif: not enough memory to inspect it" in first.error
    assert second.inspection.decision == "not authentic"


def test_a_fault_in_the_program_is_not_hidden(files):
    class Wrong:
        def inspect(self, micrograph, *, alpha):
            raise IndexError("a bug")

    with pytest.raises(IndexError, match="a bug"):
        list(inspect_paths(Wrong(), files[:1]))


def test_only_a_run_in_which_all_is_authentic_exits_with_0(make_inspection):
    kinds = {
        0: Outcome(Path("a"), make_inspection(decision="authentic")),
        1: Outcome(Path("b"), make_inspection(decision="not authentic")),
        2: Outcome(Path("c"), make_inspection(decision="inconclusive")),
        3: Outcome(Path("d"), error="unreadable"),
    }
    assert exit_code([]) == 3
    for length in (1, 2, 3, 4):
        for chosen in itertools.product(kinds, repeat=length):
            gravest = next(code for code in (3, 1, 2, 0) if code in chosen)
            assert exit_code(kinds[code] for code in chosen) == gravest


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO])
def test_an_error_of_a_disk_or_share_lies_elsewhere_than_with_the_file(files, darkness_model, monkeypatch, code):
    def fails(location, name):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(source, "_open_regular", fails)
    (outcome,) = inspect_paths(darkness_model, files[:1])
    assert outcome.elsewhere


def test_a_broken_file_and_one_that_is_gone_are_errors_of_the_file(tmp_path, darkness_model):
    (tmp_path / "broken.tif").write_bytes(b"II*")
    outcomes = inspect_paths(darkness_model, [tmp_path / "broken.tif", tmp_path / "gone.tif"])
    assert [(outcome.error is not None, outcome.elsewhere) for outcome in outcomes] == [(True, False)] * 2


def test_references_of_the_model_among_the_micrographs_are_remarked_on(make_inspection):
    notes = (f"It is the reference sound/a.tif, {LEARNED}",)
    outcomes = [Outcome(Path("a.tif"), make_inspection(notes=notes)), Outcome(Path("b.tif"), error="cut off")]
    (told,) = remarks(outcomes)
    assert told.startswith("1 micrograph is a reference of the model")
    assert remarks(outcomes[1:]) == []
