"""docs/commands.md names every command, no option that is not there, and the exit codes that commands have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from fusion_diff import cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
TEXT = PAGE.read_text(encoding="utf-8")
LISTED = re.findall(r"^\| `fusion-diff ([^`]+)` \|.*\|([^|]*)\|$", TEXT, flags=re.MULTILINE)
CODES = {
    re.sub("`", "", cells[0]): cells[1:]
    for line in TEXT.split("## Exit codes\n")[1].split("\n## ")[0].splitlines()
    if line.startswith("|") and len(cells := [cell.strip() for cell in line.split("|")[1:-1]]) == 5
}


def commands(group, above=()):
    """Every command below a group, as its words and itself."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))
        else:
            yield " ".join((*above, name)), command


THERE = dict(commands(typer.main.get_command(cli.app)))


def named(words: str) -> str:
    """The command at the start of what the page shows."""
    return max((name for name in THERE if f"{words} ".startswith(f"{name} ")), key=len, default=words)


def test_every_command_is_listed_once():
    assert sorted(named(words) for words, _ in LISTED) == sorted(THERE)


@pytest.mark.parametrize(("words", "options"), LISTED)
def test_options_and_arguments_are_those_of_the_command(words, options):
    parameters = THERE[named(words)].params
    known = {option for parameter in parameters for option in parameter.opts}
    assert set(re.findall(r"--[\w-]+", options)) <= known
    shown = words.removeprefix(named(words)).split()
    needed = [each for each in parameters if each.param_type_name == "argument" and each.required]
    assert len(shown) == len(needed)


def test_inspect_has_the_options_told_below_the_table():
    known = {option for parameter in THERE["inspect"].params for option in parameter.opts}
    (paragraph,) = re.findall(r"^`inspect` also takes.*?\n\n", TEXT, flags=re.MULTILINE | re.DOTALL)
    told = set(re.findall(r"--[\w-]+", paragraph))
    assert told
    assert told <= known


@pytest.mark.parametrize("command", ["inspect", "batch", "certify", "enroll", "audit", "validate"])
def test_commands_that_read_files_have_the_options_told_below_the_table(command):
    known = {option for parameter in THERE[command].params for option in parameter.opts}
    (paragraph,) = re.findall(
        r"^`inspect`, `batch`, `certify`, `enroll`, `audit` and `validate` read.*?\n\n",
        TEXT,
        flags=re.MULTILINE | re.DOTALL,
    )
    told = set(re.findall(r"--[\w-]+", paragraph))
    assert told == {"--pixel-size", "--page", "--max-pixels", "--references", "--make"}
    assert told - {"--references", "--make"} <= known
    assert "`export --references`" in paragraph
    assert "`verify-model --make`" in paragraph
    for name in ("export", "verify-model"):
        assert {"--page", "--max-pixels"} <= {option for parameter in THERE[name].params for option in parameter.opts}


def told(command: str) -> set[int]:
    """The exit codes that the page gives a command a meaning for."""
    return {code for code, meaning in enumerate(CODES.get(command, CODES["all others"])) if meaning}


def test_inspect_exits_as_the_page_says_the_gravest_first(call_with_darkness, tmp_path, save_micrograph):
    for name, level in (("bright", 0.8), ("grey", 0.3), ("dark", 0.05)):
        save_micrograph(tmp_path / f"{name}.tif", level)
    save_micrograph(tmp_path / "spot.tif", 0.8, spot=True)
    (tmp_path / "broken.tif").write_bytes(b"nothing")
    codes = [
        call_with_darkness("inspect", *(tmp_path / f"{name}.tif" for name in names))[0]
        for names in (("bright",), ("bright", "grey"), ("bright", "grey", "spot"), ("spot", "broken"))
    ]
    assert codes == [0, 2, 1, 3]
    assert told("inspect") == set(codes)
    (order,) = re.findall(r"Where several apply, (\d) goes before (\d), \d before (\d), and \d before (\d)", TEXT)
    assert [int(each) for each in order] == [3, 1, 2, 0]


def test_keys_and_signatures_exit_as_the_page_says(call_cli, tmp_path, monkeypatch):
    monkeypatch.delenv("FUSION_DIFF_KEY_PASSPHRASE", raising=False)
    key, public, file = tmp_path / "lab.key", tmp_path / "lab.key.pub", tmp_path / "a.txt"
    file.write_text("as it was", encoding="utf-8")
    codes: dict[str, set[int]] = {name: set() for name in ("keys new", "keys show", "keys revoke", "sign", "verify")}

    def call(command, *words):
        code = call_cli(*command.split(), *words)[0]
        codes[command].add(code)
        return code

    assert call("keys new", key) == 0
    assert call("keys new", key) == 3  # never overwritten
    assert call("keys show", public) == 0
    assert call("keys show", file) == 3
    assert call("sign", file, "--key", key) == 0
    assert call("sign", file, "--key", file) == 3
    assert call("verify", file, "--trusted-key", public) == 0
    assert call("verify", file, "--trusted-key", file) == 3
    file.write_text("altered", encoding="utf-8")
    assert call("verify", file, "--trusted-key", public) == 1
    assert call("keys revoke", key) == 3  # without a reason: an error of usage
    assert call("keys revoke", key, "--because", "lost") == 0
    assert call("keys show", public) == 1
    assert codes == {command: told(command) for command in codes}


def test_a_ledger_is_audited_as_the_page_says(call_with_darkness, tmp_path, save_micrograph):
    ledger = tmp_path / "verdicts.jsonl"
    save_micrograph(tmp_path / "bright.tif", 0.8)
    assert call_with_darkness("inspect", tmp_path / "bright.tif", "--record", ledger)[0] == 0
    codes = [call_with_darkness("audit", ledger)[0]]
    ledger.write_text(ledger.read_text(encoding="utf-8").replace("bright", "grey"), encoding="utf-8")
    codes.append(call_with_darkness("audit", ledger)[0])
    codes.append(call_with_darkness("audit", tmp_path / "none.jsonl")[0])
    assert codes == [0, 1, 3]
    assert set(codes) == told("audit")
