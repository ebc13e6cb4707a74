"""The fields that docs/records.md lists are those that verdicts have in Python, in JSON Lines and over HTTP."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from fusion_diff.fewshot.correspondence import CORRESPONDENCE
from fusion_diff.fewshot.readings import READINGS
from fusion_diff.inspection.ledger_entry import verdict
from fusion_diff.inspection.policy import Policy, Ruling
from fusion_diff.inspection.record import to_line
from fusion_diff.inspection.run import Outcome
from fusion_diff.inspection.sarif import to_sarif
from fusion_diff.trust.ledger import following, header
from fusion_diff.verdict.compared import Compared
from fusion_diff.verdict.reasons import MEANING
from fusion_diff.verdict.result import Inspection, RecognisedSurface, Region

POLICY = Policy(sha256="5e" * 32)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "records.md"

EVERY = {
    "recognised": RecognisedSurface("a.tif", "crack", 9),
    "page": 1,
    "pixel_size_source": "given",
    "purified": True,
    "attacked": False,
}
"""Values that are left out where they do not apply."""


def rows(heading: str, page: Path = PAGE) -> list[list[str]]:
    """The rows of the first table under a heading, without its head."""
    section = page.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    return found[2:]


def fields(column: int) -> set[str]:
    """The fields that the page says are there, by the names they have there."""
    names: set[str] = set()
    for row in rows("Fields"):
        if row[column]:
            names.update(re.findall(r"`(\w+)`", row[0] if row[column] == "✓" else row[column]))
    return names


def test_python():
    assert fields(1) == {field.name for field in dataclasses.fields(Inspection)}


def test_json_lines(make_inspection):
    whole = make_inspection(**EVERY)
    outcome = Outcome(Path("a.tif"), inspection=whole)
    judged = json.loads(to_line(outcome, POLICY.rule(outcome)))
    failed = json.loads(to_line(Outcome(Path("b.tif"), error="it is damaged")))
    assert fields(2) == judged.keys() | failed.keys()


def test_http():
    pytest.importorskip("fastapi")
    from fusion_diff.service.schemas.inspections import InspectionOut

    assert fields(3) == set(InspectionOut.model_fields)


@pytest.mark.parametrize(("heading", "kind"), [("Regions", Region), ("The references in short", Compared)])
def test_what_fields_are_made_of(heading, kind):
    listed = {name for row in rows(heading) for name in re.findall(r"`(\w+)`", row[0])}
    assert listed == {field.name for field in dataclasses.fields(kind)}


def names_in(column: int) -> set[str]:
    """All names in backquotes that a column of the table of names has."""
    return {name for row in rows("Names in each output") for name in re.findall(r"`([^`]+)`", row[column])}


def keys_of(value: object) -> set[str]:
    """All keys of nested objects."""
    if isinstance(value, dict):
        return set(value) | {key for each in value.values() for key in keys_of(each)}
    return {key for each in value for key in keys_of(each)} if isinstance(value, list) else set()


def told_truly(column: int, given: set[str], every: set[str]) -> None:
    """An output has each value by its own name, unless the table says that it lacks it or has it elsewhere."""
    cells = {name: row[column] for row in rows("Names in each output") for name in re.findall(r"`(\w+)`", row[0])}
    assert cells.keys() <= every
    assert {name for name in every if cells.get(name, "") == ""} <= given
    assert not {name for name, cell in cells.items() if cell == "—"} & given
    assert {part for name in names_in(column) for part in name.split(".")} <= given


@pytest.fixture
def outcomes(make_inspection) -> list[Outcome]:
    """A verdict with every value, and an error."""
    whole = make_inspection(**EVERY)
    return [Outcome(Path("a.tif"), whole), Outcome(Path("b.tif"), error="it is damaged")]


@pytest.fixture
def every(outcomes) -> set[str]:
    """The names of all values of a line of JSON."""
    return {name for each in outcomes for name in json.loads(to_line(each, POLICY.rule(each)))}


def test_the_ledger_has_the_names_that_the_page_tells(outcomes, every):
    settings = {"alpha": 0.1, "pixel_size_um": None}
    told = [verdict(each, **settings, model={"name": "line-7"}, ruling=POLICY.rule(each)) for each in outcomes]
    lines = [header(), *(following(each, number, "0" * 64)[0] for number, each in enumerate(told, start=1))]
    told_truly(4, keys_of([line | {"policy": None} for line in lines]), every)  # whose `reasons` are not the verdict's


def test_sarif_has_the_names_that_the_page_tells(outcomes, every):
    judged, failed = outcomes
    rulings = [Ruling(judged, "fail", ("It is cracked.",), POLICY), Ruling(failed, "error", ("it is damaged",), POLICY)]
    run = to_sarif(rulings, 3)
    run = run["runs"][0]
    told_truly(2, keys_of(run) | {rule["id"] for rule in run["tool"]["driver"]["rules"]}, every)
    told = {key for artifact in run["artifacts"] for key in artifact["properties"]} - {"action"}
    assert told == set(re.findall(r"`(\w+)`", PAGE.read_text().split("SARIF has ")[1].split(" in the ")[0]))


def test_parquet_has_the_names_that_the_page_tells(every):
    pytest.importorskip("pyarrow")
    from fusion_diff.batch.rows import schema

    names, own = set(schema().names), {"key", "heatmap"}  # there are no such values in other outputs
    told_truly(1, names | {"fusion_diff", "run", "format"}, every)
    assert names - own - every == {"p_authentic", "p_not_authentic"}


def test_http_has_the_names_that_the_page_tells(every):
    pytest.importorskip("fastapi")
    from fusion_diff.service.schemas.inspections import InspectionEntry, InspectionOut

    told_truly(3, set(InspectionOut.model_fields) | set(InspectionEntry.model_fields), every)


def test_every_kind_of_contribution_is_told_with_its_reading():
    listed = {row[0].strip("`"): row[1] for row in rows("Contributions")}
    assert listed.keys() == MEANING.keys()
    expected = {CORRESPONDENCE: ["none"]}
    for reading, rule in READINGS.items():
        for name in {reading, *rule.kinds} if len(rule.kinds) > 1 else {reading}:
            expected.setdefault(name, []).append(reading)
    assert listed == {name: ", ".join(readings) for name, readings in expected.items()}


def test_every_weight_that_is_printed_is_told_on_the_page_about_references():
    figures = {row[0].strip("`") for row in rows("What `enroll` prints", PAGE.with_name("references.md"))}
    assert figures == {"auroc", "macro_f1"} | {f"weight of {name}" for name in READINGS}
