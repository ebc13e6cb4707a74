"""Model and device of a command: from its options, else from the environment, else the defaults."""

from __future__ import annotations

import pytest
import torch

from fusion_diff.checkpoint import EMBEDDED
from fusion_diff.errors import CheckpointError

COMMANDS = {
    "inspect": ["inspect", "in/a.tif"],
    "batch": ["batch", "in", "--out", "out"],
    "certify": ["certify", "in/a.tif"],
    "audit": ["audit", "refs", "--authentic", "sound"],
}
ENROLL = ["enroll", "refs", "--authentic", "sound", "--out", "model"]


@pytest.fixture
def files(monkeypatch, tmp_path, save_micrograph):
    """What the commands read, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for folder, level in (("in", 0.8), ("refs/sound", 0.7), ("refs/crack", 0.6)):
        (tmp_path / folder).mkdir(parents=True)
        save_micrograph(tmp_path / folder / "a.tif", level)


@pytest.fixture
def asked(monkeypatch, call_cli, files):
    """Runs a command until it loads its model; returns the name and device that it requests."""
    calls = []

    def load(name, device, *_):
        calls.append((name, device))
        raise CheckpointError("no model is needed")

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", load)
    for module in ("certify", "audit", "enroll"):
        monkeypatch.setattr(f"fusion_diff.commands.{module}.load_model", load)

    def ask(command, *words):
        code, _, err = call_cli(*COMMANDS.get(command, ENROLL), *words)
        assert (code, "no model is needed" in err) == (3, True)
        return calls.pop()

    return ask


@pytest.mark.parametrize("command", COMMANDS)
def test_the_environment_names_the_model_unless_the_command_does(asked, monkeypatch, command):
    monkeypatch.delenv("FUSION_DIFF_MODEL", raising=False)
    assert asked(command)[0] == EMBEDDED
    monkeypatch.setenv("FUSION_DIFF_MODEL", "line-7")
    assert asked(command)[0] == "line-7"
    assert asked(command, "--model", "line-8")[0] == "line-8"
    monkeypatch.setenv("FUSION_DIFF_MODEL", "")
    assert asked(command)[0] == EMBEDDED


@pytest.mark.parametrize("command", [*COMMANDS, "enroll"])
def test_the_environment_names_the_device_unless_the_command_does(asked, monkeypatch, command):
    monkeypatch.delenv("FUSION_DIFF_DEVICE", raising=False)
    assert asked(command)[1] == "cpu"
    monkeypatch.setenv("FUSION_DIFF_DEVICE", "cuda")
    assert asked(command)[1] == "cuda"
    assert asked(command, "--device", "cpu")[1] == "cpu"
    monkeypatch.setenv("FUSION_DIFF_DEVICE", "")
    assert asked(command)[1] == "cpu"


@pytest.mark.skipif(hasattr(torch, "npu"), reason="there may be an NPU here")
@pytest.mark.parametrize("command", [*COMMANDS, "enroll"])
def test_a_device_that_is_named_but_not_here_is_an_error_with_its_cure(call_cli, files, monkeypatch, command):
    words = COMMANDS.get(command, ENROLL)
    monkeypatch.delenv("FUSION_DIFF_DEVICE", raising=False)
    for named in (["--device", "npu"], []):
        code, _, err = call_cli(*words, *named)
        assert code == 3
        assert "device npu is not available here; name another one, such as cpu (--device" in " ".join(err.split())
        monkeypatch.setenv("FUSION_DIFF_DEVICE", "npu")
