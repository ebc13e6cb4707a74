"""CITATION.cff and CHANGELOG.md: of the form that other programs read, and of this version."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


@pytest.fixture(scope="module")
def version():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


@pytest.fixture
def citation():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_is_valid_by_the_schema_of_its_format(citation):
    import json

    jsonschema = pytest.importorskip("jsonschema")
    check_jsonschema = pytest.importorskip("check_jsonschema", reason="its schema comes with check-jsonschema")
    (file,) = Path(check_jsonschema.__file__).parent.rglob("citation-file-format.json")
    validator = jsonschema.Draft7Validator(json.loads(file.read_text(encoding="utf-8")))
    assert list(validator.iter_errors(citation)) == []
    assert list(validator.iter_errors({**citation, "authors": []})) != []


def test_the_citation_is_of_this_version(citation, version):
    assert citation["version"] == version
    assert citation["license"] == "Apache-2.0"


def test_the_changelog_keeps_its_format(version):
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# Changelog"
    releases = [line for line in lines if line.startswith("## ")]
    assert releases[0] == "## Unreleased" or releases[0].startswith(f"## {version}")
    for release in releases[1:]:
        assert re.fullmatch(r"## \d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", release), release
    sections: list[list[str]] = []
    for line in lines:
        if line.startswith("## "):
            sections.append([])
        elif line.startswith("### "):
            assert line.removeprefix("### ") in KINDS
            sections[-1].append(line)
    for section in sections:
        assert len(section) == len(set(section)) > 0
