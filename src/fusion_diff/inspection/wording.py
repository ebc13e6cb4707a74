"""How verdicts, numbers and names are put into words, alike on the terminal and in the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusion_diff.result import Decision

SYMBOLS: dict[Decision, str] = {"authentic": "✓", "not authentic": "✗", "inconclusive": "?"}
"""A sign for each decision, so that none is told by colour alone; in the order of the exit codes 0, 1 and 2."""


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


def p_value_sentences(p_values: Mapping[str, float]) -> list[str]:
    """Explain conformal p-values: how rare would this micrograph be if it were of the named kind."""
    comparisons = {"authentic": "this unlike the authentic references", "not authentic": "this like the authentic ones"}
    return [
        f"p({kind}) = {number(p, 2)}: were it {kind}, a micrograph at least {comparisons.get(kind, 'this unusual')} "
        f"would come up in about {number(100 * p, 2)} of 100 cases."
        for kind, p in p_values.items()
    ]


def package_version() -> str:
    """Return the version of FusionDiff; "unknown" when run from a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fusion-diff")
    except PackageNotFoundError:
        return "unknown"
