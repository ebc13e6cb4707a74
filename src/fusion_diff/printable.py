"""Untrusted text (file names, file contents, library messages) and errors, made fit for output."""

from __future__ import annotations

import codecs
import logging
import os
import re
import shlex
import sys
from pathlib import Path

from fusion_diff.counted import THOUSANDS
from fusion_diff.errors import disk_full, out_of_memory

_IN_ASCII = {"✓": "+", "✗": "x", "−": "-", "–": "-", "…": "...", "×": "x", "≥": ">=", "∞": "inf", "µ": "u", "²": "2"}
_IN_ASCII |= {THOUSANDS: " "}
"""What is printed for the signs of this program where the encoding of a stream lacks them."""
_ROOM = "free some space, or raise the limit on a user (quota) or on files (ulimit -f)"


def printable(text: object, limit: int | None = None) -> str:
    """Return text on one line that is safe to print in a terminal, a page or a log.

    Control characters, line breaks, bidirectional overrides and bytes that are not UTF-8 are written as escapes such as
    `\\x1b`. The narrow space between thousands is kept.

    Args:
        text: the text, or an object to convert to text.
        limit: maximum number of characters returned; longer text ends in an ellipsis.
    """
    whole = str(text)
    plain = whole[:limit].encode("utf-8", "backslashreplace").decode("utf-8")
    out = "".join(
        character if character.isprintable() or character == THOUSANDS else _escape(character) for character in plain
    )
    if limit is not None and (len(whole) > limit or len(out) > limit):
        return out[: limit - 1] + "…"
    return out


def paragraph(text: object, limit: int | None = None) -> str:
    """Return printable text like `printable`, with runs of white space, such as line breaks, replaced by one space."""
    return printable(" ".join(str(text).split()), limit)


def printable_lines(text: object) -> str:
    """Return text in which each line is printable."""
    return "\n".join(printable(line) for line in str(text).split("\n"))


def escaped(text: str) -> str:
    """Return text with all markup escaped, so that Markdown and HTML show it literally."""
    safe = re.sub(r"[^\w ./,µ²%-]|_", lambda match: f"&#{ord(match[0])};", text)
    return re.sub(r"(?i)www\.", lambda match: f"{match[0][:-1]}&#46;", safe)


def quoted(path: object) -> str:
    """Return a path as a command of this system takes it, in quotes only where it needs them."""
    text = str(path)
    if sys.platform != "win32":
        return shlex.quote(text)
    if re.fullmatch(r"[\w\\/:.~+-]+", text):
        return text
    return '"' + text.rstrip("\\") + '"'  # no path has such a quote there; a backslash before one would escape it


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return paragraph(super().format(record))


def _without_encoding(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(each) or _escape(each) for each in lacking), error.end


def escape_on_streams() -> None:
    """Let stdout and stderr show ASCII or escapes for characters that they cannot encode, instead of failing.

    Likewise for what libraries log, which may repeat a file's words: libpng those of a colour profile. A stream that
    was closed before the program began (`>&-`) shows nothing.
    """
    sys.stdout, sys.stderr = (
        stream or Path(os.devnull).open("w")  # noqa: SIM115 - it stays open
        for stream in (sys.stdout, sys.stderr)
    )
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_OneLine())
    codecs.register_error("fusion_diff", _without_encoding)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="fusion_diff")


def explained(error: Exception) -> str:
    """Return the text of an error, with file and cure for errors of the system and of memory."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        name = error.filename if error.filename2 is None else error.filename2
        cure = _ROOM if disk_full(error) else "check the path, its permissions and the free disk space"
        return f"{name}: cannot be used ({error.strerror}); {cure}"
    if isinstance(error, OSError) and disk_full(error):
        return f"{error.strerror}: the disk of the results or of temporary files (TMPDIR) is full, or limited; {_ROOM}"
    if out_of_memory(error):
        return "not enough memory; close other programs, or use fewer or smaller micrographs"
    return str(error) or type(error).__name__
