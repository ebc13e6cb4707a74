"""The fields that docs/records.md lists are those that verdicts have in Python, in JSON Lines and over HTTP."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from fusion_diff.inspection.record import to_line
from fusion_diff.inspection.run import Outcome
from fusion_diff.verdict.compared import Compared
from fusion_diff.verdict.result import Inspection, RecognisedSurface, Region

PAGE = Path(__file__).resolve().parents[2] / "docs" / "records.md"


def rows(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, without its head."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
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
    whole = make_inspection(recognised=RecognisedSurface("a.tif", "crack", 9), page=1, purified=True, attacked=False)
    judged = json.loads(to_line(Outcome(Path("a.tif"), inspection=whole)))
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
