"""What docs/batch.md, docs/ci.md and docs/references.md show runs as it stands."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fusion_diff.batch.rows import schema
from fusion_diff.inspection.policy import Policy, read_policy
from fusion_diff.references import ReferenceSet

DOCS = Path(__file__).resolve().parents[2] / "docs"


def commands(name):
    lines = (DOCS / name).read_text(encoding="utf-8").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("    fusion-diff ")]


def block(name, language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    return found


@pytest.fixture
def micrographs(tmp_path, monkeypatch, save_micrograph):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "micrographs").mkdir()
    save_micrograph(tmp_path / "micrographs" / "a.tif", 0.8)
    save_micrograph(tmp_path / "micrographs" / "b.tif", 0.8, spot=True)


def test_the_batch_of_the_manual_is_read_as_the_manual_reads_it(
    micrographs, call_cli, monkeypatch, darkness_model, capsys
):
    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", lambda *_: darkness_model)
    first, on_a_cluster = commands("batch.md")
    assert call_cli(*first)[0] == 0
    exec(compile(block("batch.md", "python"), "batch.md", "exec"), {})
    lines = sorted(capsys.readouterr().out.splitlines())
    assert ["not authentic" in line for line in lines] == [False, True]
    assert set(on_a_cluster) & {"--cluster", "--model", "--out"} == {"--cluster", "--model", "--out"}
    text = (DOCS / "batch.md").read_text(encoding="utf-8")
    assert re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE))) == schema().names


def test_the_inspection_of_the_manual_writes_what_it_says(micrographs, call_cli, monkeypatch, darkness_model, tmp_path):
    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", lambda *_: darkness_model)
    (tmp_path / "policy.toml").write_text(block("ci.md", "toml"), encoding="utf-8")
    inspect, check = commands("ci.md")
    assert call_cli(*check)[0] == 0
    assert call_cli(*inspect)[0] == 1
    assert ElementTree.parse("junit.xml").getroot().get("failures") == "2"  # "bright" is not the class of that line
    assert (tmp_path / "micrographs.sarif").is_file()
    assert "2 fail" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_the_tables_of_the_manual_are_read(tmp_path, save_micrograph):
    text = (DOCS / "references.md").read_text(encoding="utf-8")
    groups, table = re.findall(r"```csv\n(.*?)```", text, flags=re.DOTALL)
    files = re.findall(r"[\w/]+\.(?:tif|png)", table + groups)
    for count, name in enumerate(dict.fromkeys(files)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save_micrograph(tmp_path / name, 0.7 + count / 50)
    (tmp_path / "references.csv").write_text(table, encoding="utf-8")
    (tmp_path / "groups.csv").write_text(groups, encoding="utf-8")
    listed = ReferenceSet.from_csv(tmp_path / "references.csv", authentic="sound")
    assert [each.group for each in listed] == ["A12", "A12", "C07"]
    assert [each.micrograph.pixel_size_um for each in listed] == [0.24, 0.24, 0.48]
    assert [each.mark is not None for each in listed] == [False, False, True]
    assert (
        list(csv.DictReader(table.splitlines()).fieldnames)
        == re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)[:5]
    )
    for name in ("2024", "returns", "marks"):
        shutil.rmtree(tmp_path / name)
    assert ReferenceSet.from_folder(tmp_path, authentic="sound").specimens == ("A12", "C07")


def test_the_manual_names_every_key_of_a_policy(tmp_path):
    text = (DOCS / "ci.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE) == [
        name for name in Policy.__dataclass_fields__ if name != "sha256"
    ]
    (tmp_path / "policy.toml").write_text(block("ci.md", "toml"), encoding="utf-8")
    assert read_policy(tmp_path / "policy.toml").authentic_classes == ("sound",)
