"""Numbers with their nouns and units, for messages."""

from __future__ import annotations

THOUSANDS = "\N{NARROW NO-BREAK SPACE}"
"""Space between thousands."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number and its noun, such as `1 image` or `1,200 images`.

    Args:
        count: how many.
        noun: the singular.
        plural: the plural; the singular with an `s` if omitted.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def sized(count: int) -> str:
    """Return a number of bytes, in MiB from one on, such as `512 MiB`."""
    return counted(count, "byte") if count < 2**20 else f"{count / 2**20:,.1f}".removesuffix(".0") + " MiB"


def typeset(number: str) -> str:
    """Return a formatted number with a true minus sign, and narrow spaces in place of commas between its thousands."""
    return number.replace(",", THOUSANDS).replace("-", "\N{MINUS SIGN}")
