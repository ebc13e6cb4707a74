"""Numbers with their nouns, for messages."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number and its noun, such as `1 image` or `1,200 images`.

    Args:
        count: how many.
        noun: the singular.
        plural: the plural; the singular with an `s` if omitted.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
