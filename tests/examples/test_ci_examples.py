"""The files in examples/ can be read, and every command in them runs as it stands."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from fusion_diff.inspection.policy import read_policy
from fusion_diff.trust.keys import new_key
from fusion_diff.trust.provenance import sign

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "examples" / "ci"
HOOKS = ROOT / ".pre-commit-hooks.yaml"
TRUSTED = ("lab.key.pub", "policy.toml", "wheels")
"""What a request must not bring along."""
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
    return [*job["before_script"], *job["script"]], [*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]]


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
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "fusion_diff-1-py3-none-any.whl").write_bytes(b"qualified")
    (tmp_path / "trusted").mkdir()
    for name in TRUSTED:
        copy = shutil.copytree if (tmp_path / name).is_dir() else shutil.copy
        copy(tmp_path / name, tmp_path / "trusted" / name)

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


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_a_model_that_comes_with_a_key_of_its_own_is_refused(name, line, tmp_path):
    (tmp_path / "line-7" / "a.tif").write_bytes(b"another")
    new_key(tmp_path / "own.key")
    (tmp_path / "line-7.sig").unlink()
    sign(tmp_path / "line-7", tmp_path / "own.key")
    (tmp_path / "own.key.pub").replace(tmp_path / "lab.key.pub")
    (tmp_path / "policy.toml").write_text('format = "fusion-diff/policy/1"\n', encoding="utf-8")
    lines, _ = commands(CI / name)
    (verify,) = [shlex.split(each) for each in lines if each.startswith("fusion-diff verify")]
    code, _, err = line(verify)
    assert code == 1
    assert "line-7" in err
    for each in lines:
        if each.startswith(("fusion-diff", "pip")):
            assert not set(shlex.split(each)) & {*TRUSTED, "wheels/fusion_diff-*.whl"}, each


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_a_change_of_anything_that_the_pipeline_uses_starts_it(name):
    plain = yaml.safe_load((CI / name).read_text(encoding="utf-8"))
    # YAML takes the word `on` for true.
    paths = (
        plain[True]["pull_request"]["paths"] if True in plain else plain["inspect-micrographs"]["rules"][0]["changes"]
    )
    assert {each.partition("/")[0] for each in paths} == {"micrographs", "line-7", "line-7.sig", *TRUSTED}


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_the_wheel_is_installed_with_the_versions_that_lie_beside_it(name):
    lines, _ = commands(CI / name)
    (install,) = [shlex.split(each) for each in lines if each.startswith("pip")]
    assert install[2:] == ["--constraint", "trusted/wheels/constraints.txt", "trusted/wheels/fusion_diff-*.whl"]


def test_after_a_refused_signature_no_step_looks_for_what_was_not_written():
    """A job in which only the verification failed says what is wrong; upload-artifact itself takes what is there."""
    steps = yaml.safe_load((CI / "github-actions.yml").read_text(encoding="utf-8"))["jobs"]["inspect"]["steps"]
    always = {each.get("name") or each["uses"].partition("@")[0]: each["if"] for each in steps if "if" in each}
    assert always == {
        "Show the summary": "always() && hashFiles('summary.md') != ''",
        "github/codeql-action/upload-sarif": "always() && hashFiles('micrographs.sarif') != ''",
        "actions/upload-artifact": "always()",
    }


def test_what_a_request_has_in_the_place_of_the_trusted_folder_goes_before_that_is_filled():
    steps = yaml.safe_load((CI / "github-actions.yml").read_text(encoding="utf-8"))["jobs"]["inspect"]["steps"]
    (index,) = [index for index, step in enumerate(steps) if step.get("with", {}).get("path") == "trusted"]
    assert steps[index]["with"]["ref"] == "${{ github.base_ref }}"
    assert shlex.split(steps[index - 1]["run"])[:3] == ["rm", "-rf", "trusted"]
    assert "path" not in steps[index - 2]["with"]
    assert index - 2 == 0, "nothing that fails comes between, and the steps that publish run always"


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_results_that_a_request_brings_along_are_not_published_as_those_of_the_run(name, tmp_path):
    lines, picked = commands(CI / name)
    (removal,) = [each for each in lines if each.startswith("rm ")]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "report").symlink_to("elsewhere")
    for each in {*picked, "trusted"} - {"report/"}:
        (tmp_path / each).write_text("the request's own")
    subprocess.run(["bash", "-eo", "pipefail", "-c", removal], cwd=tmp_path, check=True)
    assert not [each for each in picked if (tmp_path / each).exists()]


def test_what_judges_comes_from_the_branch_that_is_merged_into(line, tmp_path):
    """The lines before the pipeline's script, as far as they do not install, with a repository of its own."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")

    def shell(folder, text):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        text = text.replace("git commit", shlex.join(["git", *identity, "commit"]))
        environment = {"PATH": os.environ["PATH"], "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main"}
        subprocess.run(["bash", "-eo", "pipefail", "-c", text], cwd=folder, env=environment, check=True)

    shutil.rmtree(tmp_path / "trusted")
    wanted = {name: (tmp_path / name).read_bytes() for name in TRUSTED[:2]}
    shell(tmp_path, "git init -q -b main && git add . && git commit -q -m line")
    shell(tmp_path, f"git clone -q --no-local . {tmp_path / 'request'}")
    request = tmp_path / "request"
    for name in TRUSTED[:2]:
        (request / name).write_text("the request's own")
    (request / "wheels" / "fusion_diff-2-py3-none-any.whl").write_bytes(b"the request's own")
    (request / "trusted").symlink_to(".")
    shell(request, "git checkout -q -b request && git add . && git commit -q -m change")
    lines, _ = commands(CI / "gitlab-ci.yml")
    before = [each for each in lines if each.startswith(("rm ", "git "))]
    assert len(before) == 3
    shell(request, "\n".join(before))
    assert {name: (request / "trusted" / name).read_bytes() for name in TRUSTED[:2]} == wanted
    assert [each.name for each in (request / "trusted" / "wheels").iterdir()] == ["fusion_diff-1-py3-none-any.whl"]
    assert (request / "policy.toml").read_text() == "the request's own"


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
    assert "b.tif: it was added after signing" in err
