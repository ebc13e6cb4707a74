"""How verdicts, numbers and names are put into words, alike on the terminal and in the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusion_diff.fewshot.decision import Decision

SYMBOLS: dict[Decision, str] = {"authentic": "✓", "not authentic": "✗", "inconclusive": "?"}
"""A sign for each decision, so that none is told by colour alone; in the order of the exit codes 0, 1 and 2."""

OFFSET = "offset, the same for all"
"""What the offset of the log-odds is called among the kinds of evidence."""


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits and a true minus sign, without an exponent where it is short.

    Large numbers keep all the digits before the point, in groups of three parted by narrow spaces; None and
    NaN give a dash.
    """
    if value is None or math.isnan(value):
        return "\N{EN DASH}"
    if math.isinf(value):
        text = "-∞" if value < 0 else "∞"
    elif value == 0:
        text = "0"
    else:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:.{digits - 1}e}" if places > digits + 3 else f"{value:,.{places}f}"
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")


def p_value_sentences(p_values: Mapping[str, float], sides: Mapping[str, int] | None = None) -> list[str]:
    """Explain conformal p-values: how rare would this micrograph be if it were of the named kind.

    Args:
        p_values: of each side.
        sides: references of each, which are then counted; None in records of earlier versions.
    """
    if sides is not None:
        return [f"p({kind}) = {number(p, 2)}: {_counted(kind, p, sides[kind])}" for kind, p in p_values.items()]
    comparisons = {"authentic": "this unlike the authentic references", "not authentic": "this like the authentic ones"}
    return [
        f"p({kind}) = {number(p, 2)}: were it {kind}, a micrograph at least {comparisons.get(kind, 'this unusual')} "
        f"would come up in about {number(100 * p, 2)} of 100 cases."
        for kind, p in p_values.items()
    ]


def _counted(kind: str, p: float, references: int) -> str:
    """Say of how many references a p-value tells: it is one more than these, over one more than all."""
    name, how = ("authentic", "unlike the others") if kind == "authentic" else ("other", "like the authentic ones")
    stranger = round(p * (references + 1)) - 1
    if stranger < 1:
        floor = f"with so many it can be no smaller than 1/{references + 1}"
        return f"none of the {references} {name} references was as {how} as this micrograph; {floor}."
    were = "was" if stranger == 1 else "were"
    return f"{stranger} of the {references} {name} references {were} at least as {how}."


def package_version() -> str:
    """Return the version of FusionDiff; "unknown" when run from a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fusion-diff")
    except PackageNotFoundError:
        return "unknown"
