"""The tutorials run as they stand: files, Python and commands in their order, and what they show comes out."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fusion_diff import cli

TUTORIALS = sorted((Path(__file__).resolve().parents[2] / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)(?: title=\"([\w.-]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"\$ (?P<words>.*?)(?:\s+# exit code (?P<codes>\d(?: or \d)*))?")


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What a tutorial registers is gone afterwards."""
    from fusion_diff.fewshot import heads, readings

    monkeypatch.setattr(heads, "HEADS", heads.HEADS)
    kept = dict(readings.READINGS)
    yield
    readings.READINGS.clear()
    readings.READINGS.update(kept)


def shown(expected: str, out: str) -> bool:
    """Tell whether a line came out; … stands for anything, and lines may hold more."""
    pattern = ".*?".join(re.escape(part) for part in " ".join(expected.split()).split("…"))
    return re.search(pattern, " ".join(out.split())) is not None


def follow(page: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Do what a page says, in this folder; return the kinds of its blocks."""
    names: dict[str, object] = {}
    out, kinds = "", []
    for kind, title, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        kinds.append(kind)
        if title:
            Path(title).write_text(text, encoding="utf-8")
        elif kind == "python":
            exec(compile(text, page.name, "exec"), names)
            out = capsys.readouterr().out
        elif kind == "output":
            for line in text.splitlines():
                assert shown(line, out), f"{page.name} shows {line!r}, but what came out is:\n{out}"
        elif kind == "console":
            out = ""
            for line in text.splitlines():
                if command := COMMAND.fullmatch(line):
                    program, *words = shlex.split(command["words"])
                    assert program == "fusion-diff"
                    code = cli.main(words)
                    captured = capsys.readouterr()
                    out = captured.out
                    codes = [int(each) for each in (command["codes"] or "0").split(" or ")]
                    assert code in codes, f"{line}\n{captured.err}"
                else:
                    assert shown(line, out), f"{page.name} shows {line!r}, but what came out is:\n{out}"
        else:
            assert kind == "sh"  # shown, and not run: it needs what is not here
    return kinds


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs_as_it_stands(page, tmp_path, monkeypatch, capsys):
    if "pyarrow" in page.read_text(encoding="utf-8"):
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("FUSION_DIFF_KEY_PASSPHRASE", raising=False)
    kinds = follow(page, capsys)
    assert kinds.count("python") + kinds.count("console") >= 4


def test_what_a_page_shows_and_does_not_come_out_is_found(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text('```python\nprint("a 1 b")\n```\n\n```output\na … b\n```\n', encoding="utf-8")
    assert follow(page, capsys) == ["python", "output"]
    page.write_text('```python\nprint("a 1 c")\n```\n\n```output\na … b\n```\n', encoding="utf-8")
    with pytest.raises(AssertionError, match="shows 'a … b'"):
        follow(page, capsys)
    page.write_text("```console\n$ fusion-diff nonsense\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="nonsense"):
        follow(page, capsys)
