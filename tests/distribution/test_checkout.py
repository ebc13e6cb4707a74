"""A checkout has the bytes that were committed, whatever git is set to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fusion_diff.checkpoint import EMBEDDED, EMBEDDED_EDGE, verify

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Clones what is committed, as git for Windows does by default."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout, or git is not installed")
    clone = tmp_path_factory.mktemp("checkout") / "clone"
    as_on_windows = ("git", "clone", "--quiet", "--shared", "--config", "core.autocrlf=true", ROOT, clone)
    done = subprocess.run(as_on_windows, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return clone


@pytest.mark.parametrize("name", [EMBEDDED, EMBEDDED_EDGE])
def test_the_embedded_models_are_those_that_were_committed(checkout, name):
    verify(checkout / "src" / "fusion_diff" / "checkpoints" / name)


def test_no_line_ends_are_changed(checkout):
    listed = subprocess.run(("git", "-C", checkout, "ls-files", "--eol"), capture_output=True, text=True, check=True)
    ends = [line.split() for line in listed.stdout.splitlines()]
    assert len(ends) > 100
    assert [each for each in ends if each[0].removeprefix("i/") != each[1].removeprefix("w/")] == []
