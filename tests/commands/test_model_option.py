"""Model and device of a command: from its options, else from the environment, else the defaults."""

from __future__ import annotations

import pytest

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
def asked(monkeypatch, call_cli, tmp_path, save_micrograph):
    """Runs a command until it loads its model; returns the name and device that it requests."""
    calls = []

    def load(name, device, *_):
        calls.append((name, device))
        raise CheckpointError("no model is needed")

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", load)
    for module in ("certify", "audit", "enroll"):
        monkeypatch.setattr(f"fusion_diff.commands.{module}.load_model", load)
    monkeypatch.chdir(tmp_path)
    for folder, level in (("in", 0.8), ("refs/sound", 0.7), ("refs/crack", 0.6)):
        (tmp_path / folder).mkdir(parents=True)
        save_micrograph(tmp_path / folder / "a.tif", level)

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
