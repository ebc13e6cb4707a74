"""inspect with a policy and outputs for continuous integration, and policy check, from the command line."""

from __future__ import annotations

import csv
import hashlib
import json
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from fusion_diff import __version__
from fusion_diff.inspection.policy import FORMAT


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        text = "\n".join([f'format = "{FORMAT}"', *lines])
        (tmp_path / "policy.toml").write_text(text, encoding="utf-8")

    return write


def test_a_policy_decides_the_exit_code_and_every_output(run, write, tmp_path, save_micrograph):
    save_micrograph(tmp_path / "bright.tif", 0.8)
    save_micrograph(tmp_path / "grey.tif", 0.3)
    words = ["inspect", "bright.tif", "grey.tif", "--policy", "policy.toml"]
    words += ["--junit", "o/j.xml", "--sarif", "o/s.sarif", "--markdown", "o/m.md"]
    write('inconclusive = "warn"')
    code, out, _ = run(*words)
    assert code == 0
    assert "Policy: warn: grey.tif: The verdict is inconclusive" in out
    assert ElementTree.parse("o/j.xml").getroot().get("skipped") == "1"
    assert "1 warn, 1 pass" in (tmp_path / "o" / "m.md").read_text(encoding="utf-8")
    write('inconclusive = "fail"')
    assert run(*words)[0] == 1
    assert ElementTree.parse("o/j.xml").getroot().get("failures") == "1"
    (result,) = json.loads((tmp_path / "o" / "s.sarif").read_text(encoding="utf-8"))["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("inconclusive", "error")
    (tmp_path / "grey.tif").write_bytes(b"nothing")
    assert run(*words)[0] == 3
    assert ElementTree.parse("o/j.xml").getroot().get("errors") == "1"


def test_every_output_tells_the_ruling_and_the_digest_of_the_policy(run, write, tmp_path, save_micrograph):
    save_micrograph(tmp_path / "bright.tif", 0.8)
    write("minimum_score = 0.9999")
    words = ["inspect", "bright.tif", "--policy", "policy.toml", "--report", "o", "--csv", "o/c.csv"]
    words += ["--record", "o/l.jsonl", "--junit", "o/j.xml", "--sarif", "o/s.sarif", "--markdown", "o/m.md"]
    assert run(*words)[0] == 1
    sha256 = hashlib.sha256((tmp_path / "policy.toml").read_bytes()).hexdigest()
    texts = {each.name: each.read_text(encoding="utf-8-sig") for each in (tmp_path / "o").iterdir()}
    del texts["l.jsonl.head"]
    assert [name for name, text in texts.items() if sha256[:12] not in text] == []
    *_, entry = map(json.loads, texts["l.jsonl"].splitlines())
    for told in (json.loads(texts["inspections.jsonl"]), entry):
        assert (told["decision"], told["policy"]["action"], told["policy"]["sha256"]) == ("authentic", "fail", sha256)
    (row,) = csv.DictReader(texts["c.csv"].splitlines())
    assert (row["decision"], row["policy_action"], row["policy_sha256"]) == ("authentic", "fail", sha256)
    assert "By the policy: <b>1 fail</b>" in texts["index.html"]
    assert run("audit", "o/l.jsonl")[0] == 0


def test_one_image_under_several_names_is_told_of_in_the_verdicts_at_the_end_and_in_the_pages(
    run, tmp_path, save_micrograph
):
    save_micrograph(tmp_path / "part-001.tif", 0.8)
    for name in ("part-002.tif", "part-003.tif"):
        (tmp_path / name).write_bytes((tmp_path / "part-001.tif").read_bytes())
    code, _, err = run("inspect", "*.tif", "--json", "r.jsonl", "--junit", "j.xml")
    assert code == 0
    assert "Warning: 2 micrographs have the same bytes as another one" in err
    notes = [json.loads(line)["notes"] for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert notes == [[], *[["It has the same bytes as part-001.tif."]] * 2]
    assert "2 micrographs have the same bytes" in ElementTree.parse("j.xml").getroot().findtext(".//system-err")


def test_every_output_tells_when_each_micrograph_was_judged(run, tmp_path, save_micrograph):
    save_micrograph(tmp_path / "bright.tif", 0.8)
    (tmp_path / "broken.tif").write_bytes(b"nothing")
    before = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    words = ["inspect", "bright.tif", "broken.tif", "--report", "o", "--csv", "c.csv", "--junit", "j.xml"]
    assert run(*words, "--sarif", "s.sarif")[0] == 3
    after = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    times = [json.loads(line)["judged"] for line in (tmp_path / "o" / "inspections.jsonl").read_text().splitlines()]
    assert before < times[0] < times[1] < after
    assert [row["judged"] for row in csv.DictReader((tmp_path / "c.csv").open(encoding="utf-8-sig"))] == times
    (log,) = json.loads((tmp_path / "s.sarif").read_text(encoding="utf-8"))["runs"]
    assert [artifact["properties"]["judged"] for artifact in log["artifacts"]] == times
    (invocation,) = log["invocations"]
    assert invocation["startTimeUtc"] < invocation["endTimeUtc"] == times[1]
    (suite,) = ElementTree.parse("j.xml").getroot()
    assert suite.get("timestamp") == invocation["startTimeUtc"][:19]
    told = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert (told["version"], told["model_sha256"], told["alpha"]) == (__version__, "ab" * 32, "0.1")


def test_outputs_without_a_policy_leave_the_exit_code_as_it_was(run, tmp_path, save_micrograph):
    save_micrograph(tmp_path / "grey.tif", 0.3)
    assert run("inspect", "grey.tif", "--junit", "j.xml", "--sarif", "s.sarif")[0] == 2
    (invocation,) = json.loads((tmp_path / "s.sarif").read_text(encoding="utf-8"))["runs"][0]["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (True, 2)
    assert ElementTree.parse("j.xml").getroot().get("skipped") == "1"


def test_decisions_are_made_at_the_policys_alpha_and_no_other(run, write, tmp_path, save_micrograph):
    save_micrograph(tmp_path / "grey.tif", 0.3)
    write("alpha = 0.45")
    run("inspect", "grey.tif", "--policy", "policy.toml", "--json", "r.jsonl")
    assert json.loads((tmp_path / "r.jsonl").read_text())["alpha"] == 0.45
    assert run("inspect", "grey.tif", "--policy", "policy.toml", "--alpha", "0.45")[0] in (0, 1, 2)
    code, _, err = run("inspect", "grey.tif", "--policy", "policy.toml", "--alpha", "0.1")
    assert code == 3
    assert "the policy requires 0.45" in err


def test_a_policy_that_cannot_be_meant_stops_before_anything_is_inspected(run, write, tmp_path, save_micrograph):
    save_micrograph(tmp_path / "grey.tif", 0.3)
    write("minimum_scores = 0.5")
    for words in (["policy", "check", "policy.toml"], ["inspect", "grey.tif", "--policy", "policy.toml"]):
        code, out, err = run(*words)
        assert (code, out) == (3, "")
        assert err.startswith("Error: policy.toml, line 2: minimum_scores is not known; remove it, or use one of")


def test_a_policy_is_explained_in_sentences(run, write):
    write("minimum_score = 0.5")
    code, out, _ = run("policy", "check", "policy.toml")
    assert code == 0
    assert "A micrograph with a score below 0.5 fails." in out.splitlines()


def test_what_is_left_open_fails_unless_the_policy_says_otherwise(run, write, tmp_path, save_micrograph):
    save_micrograph(tmp_path / "grey.tif", 0.3)
    write()
    assert run("inspect", "grey.tif", "--policy", "policy.toml")[0] == 1
    for action, code in (("warn", 0), ("pass", 0), ("fail", 1)):
        write(f'inconclusive = "{action}"')
        assert run("inspect", "grey.tif", "--policy", "policy.toml")[0] == code
