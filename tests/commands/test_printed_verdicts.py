"""The table of verdicts marks scores that are out of scope or not calibrated."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fusion_diff.commands import terminal
from fusion_diff.commands.inspect import _print_verdicts
from fusion_diff.commands.terminal import print_outcomes, tally
from fusion_diff.fewshot.readings import READINGS
from fusion_diff.inspection.run import Outcome
from fusion_diff.verdict.compared import BUILTIN, Compared
from fusion_diff.verdict.regions import MAX_REGIONS


def test_out_of_scope_stands_in_place_of_the_decision_and_the_score_in_brackets(make_inspection, capsys):
    beyond = make_inspection(decision="inconclusive", in_scope=False, score=0.97)
    outcomes = [Outcome(Path("a.tif"), beyond), Outcome(Path("b.tif"), make_inspection(decision="inconclusive"))]
    print_outcomes(outcomes)
    out = capsys.readouterr().out
    first, second = (line for line in out.splitlines() if ".tif" in line)
    assert "(0.970)" in first
    assert "A score in brackets is of a micrograph out of scope: ignore it." in out
    assert "? out of scope" in first
    assert "inconclusive" not in first
    assert "? inconclusive" in second
    assert tally(outcomes) == "2 micrographs: 0 authentic, 0 not authentic, 2 inconclusive (1 out of scope)."


def test_scores_that_are_not_calibrated_are_said_to_be_so(make_inspection, capsys):
    print_outcomes([Outcome(Path("a.tif"), make_inspection(calibrated=False))])
    assert (
        "The scores are not calibrated: that takes references of two specimens of each side" in capsys.readouterr().out
    )
    print_outcomes([Outcome(Path("a.tif"), make_inspection())])
    assert "not calibrated" not in capsys.readouterr().out


def test_why_nothing_can_be_decided_is_told_once(make_inspection, capsys):
    why = (
        "alpha 0.1 needs 9 references on each side, but there are 5 authentic and 5 not authentic; enrol more "
        "specimens, or choose a larger alpha before you look at scores."
    )
    compared = Compared("sound", {"sound": 5, "crack": 5}, 10, {"authentic": 5, "not authentic": 5})
    open_ = make_inspection(decision="inconclusive", compared_with=compared)
    outcomes = [Outcome(Path(name), open_) for name in ("a.tif", "b.tif")]
    print_outcomes(outcomes)
    assert capsys.readouterr().out.count(f"Nothing could be decided: {why}") == 1
    print_outcomes([*outcomes, Outcome(Path("c.tif"), make_inspection())])
    assert "Nothing could be decided" not in capsys.readouterr().out, "one was decided"
    enough = Compared("sound", {"sound": 9, "crack": 9}, 18, {"authentic": 9, "not authentic": 9})
    print_outcomes([Outcome(Path("a.tif"), replace(open_, compared_with=enough))])
    assert "Nothing could be decided" not in capsys.readouterr().out, "it was not for too few references"


def test_every_reading_that_ships_is_explained_where_its_weight_is_printed():
    assert terminal._READINGS.keys() == READINGS.keys()


def test_where_the_list_of_regions_is_full_there_may_be_more(make_inspection, capsys):
    (region,) = make_inspection().regions
    print_outcomes([Outcome(Path("a.tif"), make_inspection(regions=(region,) * MAX_REGIONS))])
    assert f"≥ {MAX_REGIONS} " in capsys.readouterr().out


@pytest.fixture
def columns(monkeypatch):
    """Give the terminal a width."""

    def chosen(width: int) -> None:
        console = Console(file=sys.stdout, width=width)
        monkeypatch.setattr(terminal, "stdout", lambda: console)

    return chosen


@pytest.mark.parametrize("width", [60, 79, 80])
def test_a_narrow_terminal_has_room_for_names(make_inspection, capsys, columns, width):
    columns(width)
    names = ("sherd-07-view-2.tif", "sherd-11-view-4.tif")
    print_outcomes([Outcome(Path("lots/2024/line-7") / name, make_inspection()) for name in names])
    out = capsys.readouterr().out
    assert ("Regions" in out, "p auth." in out, "0.062" in out) == (False, False, False)
    rows = [line for line in out.splitlines() if line.startswith("│")]
    assert len(rows) == 2, "a line for each"
    assert all(name in row for name, row in zip(names, rows, strict=True))


def test_p_values_and_regions_are_shown_where_they_fit_and_explained(make_inspection, capsys, columns):
    columns(80)
    print_outcomes([Outcome(Path("lots/2024/b.tif"), make_inspection())])
    out = capsys.readouterr().out
    assert ("Regions" in out, "p auth. " in out, "0.062" in out) == (True, True, True)
    assert "p auth., p not: p-values of authentic and of not authentic" in out
    assert "a decision needs exactly one side ruled out" in " ".join(out.split())
    assert "brackets" not in out
    print_outcomes([Outcome(Path("lots/2024/b.tif"), make_inspection(p_values={"authentic": 0.5}))])
    alone = " ".join(capsys.readouterr().out.split())
    assert "rules its side out." in alone, "authentic references alone have no other side"


def test_names_are_shown_below_the_folder_that_all_have_in_common(make_inspection, capsys):
    names = ["a/1.tif", "b/1.tif"]
    print_outcomes([Outcome(Path("lots/line-7") / name, make_inspection()) for name in names])
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if ".tif" in line] == names


def test_doubts_about_the_references_are_told_once_but_those_that_the_model_warns_of_itself(make_inspection, capsys):
    it = make_inspection()
    doubted = replace(it, compared_with=replace(it.compared_with, doubts=("no groups are given", BUILTIN)))
    _print_verdicts([Outcome(Path(name), doubted) for name in ("a.tif", "b.tif")], [], [])
    out = capsys.readouterr().out
    assert out.count("Doubt about the references") == 1
    assert "Doubt about the references: no groups are given.\n" in out
