"""The Dockerfile: linted, and checked for what a linter does not know of this image."""

from __future__ import annotations

import json
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

dockerfile_parse = pytest.importorskip("dockerfile_parse")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def steps(deploy):
    """(instruction, value) of every step."""
    parser = dockerfile_parse.DockerfileParser(path=str(deploy / "Dockerfile"))
    return [(step["instruction"], step["value"]) for step in parser.structure if step["instruction"] != "COMMENT"]


@pytest.fixture(scope="module")
def stages(steps):
    """The steps of each stage, those of the stage that it is built from first."""
    found, current = {}, []  # what comes before the first stage belongs to none
    for instruction, value in steps:
        if instruction == "FROM":
            base, _, name = value.split()
            found[name] = list(found.get(base, ()))
            current = found[name]
        else:
            current.append((instruction, value))
    return found


def last(stage, instruction):
    return [value for name, value in stage if name == instruction][-1]


def test_hadolint_finds_nothing(deploy):
    program = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not program.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([program, "--no-color", deploy / "Dockerfile"], capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, "")


def test_every_base_is_of_a_version_and_nothing_is_fetched_by_address(steps):
    names = [value.split()[2] for name, value in steps if name == "FROM"]
    assert steps[0][0] == "ARG"
    assert re.fullmatch(r"BASE=python:3\.\d+-slim", steps[0][1]), "one base, which can be pinned to a digest"
    for name, value in steps:
        if name == "FROM":
            assert value.split()[0] in (*names, "${BASE}")
        assert name != "ADD"
        assert "://" not in value


@pytest.mark.parametrize("target", ["cpu", "cuda", "ray"])
def test_what_runs_is_a_numeric_user_that_is_not_root(stages, target):
    user, group = last(stages[target], "USER").split(":")
    assert int(user) > 0
    assert int(group) > 0


@pytest.mark.parametrize(("target", "environment"), [("cpu", "environment"), ("ray", "ray-environment")])
def test_an_image_holds_one_environment(stages, target, environment):
    copied = [value for name, value in stages[target] if name == "COPY" and value.startswith("--from")]
    assert copied == [f"--from={environment} /opt/fusion-diff /opt/fusion-diff"]


@pytest.mark.parametrize("target", ["cpu", "cuda", "ray"])
def test_commands_need_no_shell(stages, target):
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(last(stages[target], name)), list)
    if target != "ray":
        health = last(stages[target], "HEALTHCHECK")
        command = json.loads(health[health.index("CMD") + 3 :])
        assert command[-1] == "healthy"


def test_the_user_and_the_port_are_those_of_the_manifests(stages, deploy):
    from kustomized import compose, pod_of

    (pod, *_) = [pod for pod in map(pod_of, compose(deploy / "kubernetes" / "base")) if pod]
    security = pod["securityContext"]
    assert last(stages["cpu"], "USER") == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert int(last(stages["cpu"], "EXPOSE")) == pod["containers"][0]["ports"][0]["containerPort"]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_environment_sets_settings_of_the_service(stages, target):
    pytest.importorskip("pydantic_settings")
    from fusion_diff.service.settings import read_settings

    words = " ".join(value for name, value in stages[target] if name == "ENV")
    given = dict(re.findall(r"FUSION_DIFF_(\w+)=(\S+)", words))
    assert {"HOST", "PORT", "DATA"} <= set(given)
    settings = read_settings(**{name.lower(): value for name, value in given.items()})
    assert {name.lower() for name in given} <= settings.model_fields_set
    assert (settings.device == "cuda") == (target == "cuda")


def test_extras_that_are_installed_exist(steps):
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (asked,) = [value for name, value in steps if name == "ARG" and value.startswith("EXTRAS")]
    for extra in asked.partition("=")[2].strip('"').split(","):
        assert extra in project["optional-dependencies"]
    (version,) = {value for name, value in steps if name == "ARG" and value.startswith("VERSION")}
    assert version == f"VERSION={project['version']}"


def test_what_is_copied_is_there_and_not_ignored(steps):
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = set()
    for name, value in steps:
        if name == "COPY" and not value.startswith("--from"):
            copied |= set(value.split()[:-1])
    for each in copied:
        assert (ROOT / each).exists(), each
    assert copied == let_in
