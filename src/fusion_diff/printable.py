"""Text by strangers (names of files, what they hold, what libraries say of them) as it may stand in a line of ours."""

from __future__ import annotations

import re


def printable(text: object, limit: int | None = None) -> str:
    """Return text that cannot disturb a terminal, a page or a log, whatever a file was named.

    Control characters, line breaks, bidirectional overrides and bytes that are not UTF-8 are written as escapes, as in
    `\\x1b`.

    Args:
        text: the text, or what has one.
        limit: characters that are returned at most, the last one an ellipsis where more were there.
    """
    whole = str(text)
    plain = whole[:limit].encode("utf-8", "backslashreplace").decode("utf-8")
    out = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in plain
    )
    if limit is not None and (len(whole) > limit or len(out) > limit):
        return out[: limit - 1] + "…"
    return out


def paragraph(text: object, limit: int | None = None) -> str:
    """Like `printable`, for text in sentences: line breaks and tabs become spaces."""
    return printable(" ".join(str(text).split()), limit)


def escaped(text: str) -> str:
    """Return text that Markdown and HTML show as it is, whatever it holds."""
    safe = re.sub(r"[^\w ./,µ²%-]|_", lambda match: f"&#{ord(match[0])};", text)
    return re.sub(r"(?i)www\.", lambda match: f"{match[0][:-1]}&#46;", safe)
