"""Benchmarks say how they are called, and every call that is printed anywhere has words that they take."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
RUN = [script.stem for script in SCRIPTS if "def main(" in script.read_text(encoding="utf-8")]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md")), *SCRIPTS]
PRINTED = sorted(
    {
        command.strip()
        for page in PAGES
        for command in re.findall(r'python benchmarks/([^`"\n]+)', page.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize("name", RUN)
def test_help_is_printed(call, capsys, name):
    with pytest.raises(SystemExit) as stopped:
        call(name, "--help")
    assert stopped.value.code == 0
    assert f"usage: {name}.py" in capsys.readouterr().out


class UnderstoodError(Exception):
    """The words were taken, and the work would begin."""


@pytest.mark.parametrize("command", PRINTED)
def test_a_printed_command_is_understood(call, monkeypatch, command):
    parse = argparse.ArgumentParser.parse_args

    def stop(parser, *args):
        parse(parser, *args)
        raise UnderstoodError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    script, *words = shlex.split(re.sub(r"[\[\]]", "", command), comments=True)  # brackets: what may be left out
    with pytest.raises(UnderstoodError):
        call(script.removesuffix(".py"), *words)


def test_every_benchmark_prints_its_own_command():
    assert {command.partition(".py")[0] for command in PRINTED} == set(RUN)
