"""Untrusted text is printed without control characters and within a length limit."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.counted import typeset
from fusion_diff.printable import explained, paragraph, printable, printable_lines, quoted


@given(st.text() | st.binary().map(os.fsdecode))
def test_any_name_becomes_printable_text_that_can_be_encoded(name):
    assert printable(name).isprintable()
    printable(name).encode("utf-8")


def test_plain_names_are_left_as_they_are():
    assert printable("Größe 5 µm \u2013 表面.tif") == "Größe 5 µm \u2013 表面.tif"


@pytest.mark.parametrize(
    ("system", "path", "printed"),
    [
        ("win32", r"C:\lots\line-7", r"C:\lots\line-7"),
        ("win32", r"C:\Users\Jo Öz\line 7", r'"C:\Users\Jo Öz\line 7"'),
        ("win32", r"C:\a&b", r'"C:\a&b"'),
        ("linux", "lots/line-7", "lots/line-7"),
        ("linux", "lots/line 7", "'lots/line 7'"),
        ("darwin", "a\\b", "'a\\b'"),
    ],
)
def test_a_path_in_a_command_is_quoted_only_where_it_has_to_be(monkeypatch, system, path, printed):
    monkeypatch.setattr(sys, "platform", system)
    assert quoted(path) == printed


def test_terminal_escapes_and_reversed_names_are_spelled_out():
    assert printable("\x1b[31m\u202egpj.exe\n") == "\\x1b[31m\\u202egpj.exe\\n"


def test_sentences_lose_their_line_breaks_not_their_words():
    assert paragraph("first\n  second\tthird") == "first second third"


def test_lines_stay_lines_and_lose_what_steers_a_terminal():
    assert printable_lines("a\x1b[31m\r\nb\u2028c") == "a\\x1b[31m\\r\nb\\u2028c"


def test_what_a_library_logs_of_a_file_is_printed_on_one_line(tmp_path):
    """libpng repeats the name of a colour profile, with its line breaks."""
    noise = np.random.default_rng(0)
    profile = b"x\x1b]0;PWN\x07\nError: forged\n\0\0" + zlib.compress(bytes(4) + noise.bytes(300))
    chunk = b"iCCP" + profile
    levels = noise.integers(0, 255, (64, 64), dtype=np.uint8)
    data = imagecodecs.png_encode(levels)
    named = len(profile).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data[:33] + named + data[33:])
    program = (
        "import sys; from fusion_diff.printable import escape_on_streams; escape_on_streams();"
        "from fusion_diff.micrograph import load_microstructure_data; load_microstructure_data(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a.png"], capture_output=True, check=False)
    (line,) = done.stderr.decode().splitlines()
    assert r"profile 'x\x1b]0;PWN\x07 Error: forged" in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("cp1252", b"+ x - \x96 \x85 10 000 \xd7 \xb5m\xb2 \\u8868"),
        ("ascii", b"+ x - - ... 10 000 x um2 \\u8868"),
        ("utf-8", "✓ ✗ − – … 10\u202f000 × µm² 表".encode()),
    ],
)
def test_a_stream_that_lacks_a_sign_shows_it_in_ascii(encoding, shown):
    """As redirected output on Windows."""
    program = (
        "from fusion_diff.printable import escape_on_streams; escape_on_streams();"
        r"print('\u2713 \u2717 \u2212 \u2013 \u2026 10\u202f000 \xd7 \xb5m\xb2 \u8868')"
    )
    env = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=env, check=True)
    assert done.stdout.rstrip() == shown


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("program", ["fusion_diff.cli", "fusion_diff.edge"])
def test_streams_that_were_closed_before_are_no_fault(program):
    closed = 'exec "$0" -m "$1" --version >&- 2>&-'
    assert subprocess.run(["sh", "-c", closed, sys.executable, program], check=False).returncode == 0


@given(st.text(min_size=1, max_size=40), st.integers(1, 20))
def test_a_long_text_is_cut_where_asked_and_says_so(text, limit):
    whole, cut = printable(text), printable(text, limit)
    assert len(cut) <= limit
    assert cut == whole if len(whole) <= limit else cut == whole[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_its_cure_whether_a_file_is_named_or_not(number):
    why, cure = os.strerror(number), "; free some space, or raise the limit on a user (quota) or on files (ulimit -f)"
    said = explained(OSError(number, why))
    assert said.startswith(f"{why}: the disk of the results")
    assert said.endswith(cure)
    assert explained(OSError(number, why, "a.tif")) == f"a.tif: cannot be used ({why}){cure}"


def test_the_space_between_thousands_is_kept():
    assert printable(typeset("-1,234\u202f5")) == typeset("-1,234\u202f5") == "\N{MINUS SIGN}1\u202f234\u202f5"
