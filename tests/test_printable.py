"""Untrusted text is printed without control characters and within a length limit."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.printable import explained, paragraph, printable


@given(st.text() | st.binary().map(os.fsdecode))
def test_any_name_becomes_printable_text_that_can_be_encoded(name):
    assert printable(name).isprintable()
    printable(name).encode("utf-8")


def test_plain_names_are_left_as_they_are():
    assert printable("Größe 5 µm \u2013 表面.tif") == "Größe 5 µm \u2013 表面.tif"


def test_terminal_escapes_and_reversed_names_are_spelled_out():
    assert printable("\x1b[31m\u202egpj.exe\n") == "\\x1b[31m\\u202egpj.exe\\n"


def test_sentences_lose_their_line_breaks_not_their_words():
    assert paragraph("first\n  second\tthird") == "first second third"


@given(st.text(min_size=1, max_size=40), st.integers(1, 20))
def test_a_long_text_is_cut_where_asked_and_says_so(text, limit):
    whole, cut = printable(text), printable(text, limit)
    assert len(cut) <= limit
    assert cut == whole if len(whole) <= limit else cut == whole[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_its_cure_where_no_file_is_named(number):
    said = explained(OSError(number, os.strerror(number)))
    assert said.startswith(os.strerror(number))
    assert "free some space" in said
    assert explained(OSError(number, os.strerror(number), "a.tif")).startswith("a.tif: cannot be used")
