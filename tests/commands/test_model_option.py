"""Which model a command takes: the one that --model names, or else the environment, or else the embedded one."""

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


@pytest.fixture
def asked(monkeypatch, call_cli, tmp_path, save_micrograph):
    """Runs a command until it loads its model, and gives the name that it asks for."""
    names = []

    def load(name, *_):
        names.append(name)
        raise CheckpointError("no model is needed")

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", load)
    for module in ("certify", "audit"):
        monkeypatch.setattr(f"fusion_diff.commands.{module}.load_model", load)
    monkeypatch.chdir(tmp_path)
    for folder, level in (("in", 0.8), ("refs/sound", 0.7), ("refs/crack", 0.6)):
        (tmp_path / folder).mkdir(parents=True)
        save_micrograph(tmp_path / folder / "a.tif", level)

    def ask(command, *words):
        code, _, err = call_cli(*COMMANDS[command], *words)
        assert (code, "no model is needed" in err) == (3, True)
        return names.pop()

    return ask


@pytest.mark.parametrize("command", COMMANDS)
def test_the_environment_names_the_model_unless_the_command_does(asked, monkeypatch, command):
    monkeypatch.delenv("FUSION_DIFF_MODEL", raising=False)
    assert asked(command) == EMBEDDED
    monkeypatch.setenv("FUSION_DIFF_MODEL", "line-7")
    assert asked(command) == "line-7"
    assert asked(command, "--model", "line-8") == "line-8"
    monkeypatch.setenv("FUSION_DIFF_MODEL", "")
    assert asked(command) == EMBEDDED
