"""The files in examples/ can be read, and every command in them runs as it stands."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from fusion_diff.inspection.policy import read_policy
from fusion_diff.trust.provenance import sign

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "examples" / "ci"
HOOKS = ROOT / ".pre-commit-hooks.yaml"
CONFIG = ROOT / "examples" / "pre-commit" / ".pre-commit-config.yaml"


def commands(file):
    """The lines that run fusion-diff, and the files that the pipeline then picks up."""
    plain = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "jobs" in plain:
        steps = plain["jobs"]["inspect"]["steps"]
        lines = [line for step in steps for line in step.get("run", "").splitlines()]
        uploads = [step["with"] for step in steps if "upload" in step.get("uses", "")]
        picked = ["summary.md", *(each.get("sarif_file", each.get("path")) for each in uploads)]
        return lines, [name for each in picked for name in each.split()]
    job = plain["inspect-micrographs"]
    return job["script"], [*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]]


@pytest.fixture
def line(tmp_path, monkeypatch, call_cli, darkness_model, save_micrograph):
    """A line's repository, signed; the model is the small one. Gives a function that runs a command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FUSION_DIFF_KEY_PASSPHRASE", raising=False)
    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", lambda *_: darkness_model)
    call_cli("keys", "new", "lab.key")
    for folder in ("micrographs", "line-7", "references"):
        (tmp_path / folder).mkdir()
        save_micrograph(tmp_path / folder / "a.tif", 0.8)
        sign(tmp_path / folder, tmp_path / "lab.key")
    policy = (CI / "policy.toml").read_text(encoding="utf-8")
    (tmp_path / "policy.toml").write_text(policy.replace('"sound"', '"bright"'), encoding="utf-8")

    def run(words):
        assert words[0] == "fusion-diff"
        return call_cli(*words[1:])

    return run


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_a_pipeline_runs_as_it_stands_and_writes_what_it_picks_up(name, line, tmp_path):
    lines, picked = commands(CI / name)
    ours = [shlex.split(each) for each in lines if each.startswith("fusion-diff")]
    assert len(ours) == 3
    for words in ours:
        code, _, err = line(words)
        assert (code, err) == (0, ""), words
    assert len(picked) >= 4
    for each in picked:
        assert (tmp_path / each).exists(), each


def test_the_pipeline_stops_at_a_micrograph_that_the_policy_does_not_pass(line, tmp_path, save_micrograph):
    save_micrograph(tmp_path / "micrographs" / "b.tif", 0.8, spot=True)
    lines, _ = commands(CI / "gitlab-ci.yml")
    code, out, _ = line(shlex.split(lines[-1]))
    assert code == 1
    assert "Policy: fail: micrographs/b.tif: It is not authentic" in out
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().get("failures") == "1"


def test_the_policy_asks_for_all_that_a_policy_can():
    policy = read_policy(CI / "policy.toml")
    assert policy.authentic_classes == ("sound",)
    assert policy.maximum_region_um == 50
    assert policy.out_of_scope == "fail"


def test_the_hook_lets_signed_references_be_committed_and_no_others(line, tmp_path):
    (hook,) = yaml.safe_load(HOOKS.read_text(encoding="utf-8"))
    (repository,) = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["repos"]
    (used,) = repository["hooks"]
    assert used["id"] == hook["id"]
    words = [*shlex.split(hook["entry"]), *used["args"]]
    assert line(words)[0] == 0
    shutil.copy(tmp_path / "references" / "a.tif", tmp_path / "references" / "b.tif")
    code, _, err = line(words)
    assert code == 1
    assert "b.tif: added" in err
