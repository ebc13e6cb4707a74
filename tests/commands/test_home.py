"""A leading `~` of an option, which shells leave in `--out=~/x`, stands for the home folder with every command."""

from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import pytest
from typer.models import OptionInfo

from fusion_diff import cli


def commands(app, above=""):
    for each in app.registered_commands:
        yield f"{above}{each.name}", each.callback
    for group in app.registered_groups:
        yield from commands(group.typer_instance, f"{group.name} ")


PATHS = [
    (f"{command} {parameter}", next(each for each in hint.__metadata__ if isinstance(each, OptionInfo)))
    for command, function in commands(cli.app)
    for parameter, hint in get_type_hints(function, include_extras=True).items()
    if "Path" in str(hint) and "OptionInfo" in str(hint)
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return home


def test_the_options_were_found():
    found = {name for name, _ in PATHS}
    assert {"inspect report", "inspect trusted_key", "service-keys new data", "verify-model golden"} <= found
    assert len(found) >= 25


@pytest.mark.parametrize(("name", "option"), PATHS, ids=[name for name, _ in PATHS])
def test_every_option_for_a_path_takes_it_from_the_home_folder(home, name, option):
    assert option.callback(Path("~/x")) == home / "x"
    assert option.callback(Path("x~")) == Path("x~")
    assert option.callback(None) is None


def test_what_commands_write_goes_there(home, call_with_darkness, save_micrograph):
    save_micrograph(home / "a.tif", 0.8)
    words = ["--report=~/report", "--json=~/a.jsonl", "--record=~/ledger.jsonl", "--junit=~/a.xml"]
    code, _, err = call_with_darkness("inspect", "~/a.tif", *words)
    assert (code, err) == (0, "")
    code, out, _ = call_with_darkness("batch", "~/*.tif", "--out=~/rows")
    assert code == 0
    assert f"Rows: 1, in {home / 'rows'}" in out
    made = {"report", "a.jsonl", "ledger.jsonl", "ledger.jsonl.head", "a.xml", "rows", "a.tif"}
    assert {path.name for path in home.iterdir()} == made
    assert list(Path().iterdir()) == []
