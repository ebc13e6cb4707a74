"""Wording of names, numbers, p-values and decisions, common to the terminal and the report."""

from __future__ import annotations

import math
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_diff.counted import typeset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusion_diff.fewshot.decision import Decision
    from fusion_diff.verdict.compared import Compared
    from fusion_diff.verdict.result import Inspection

SYMBOLS: dict[Decision, str] = {"authentic": "✓", "not authentic": "✗", "inconclusive": "?"}
"""Symbol of each decision, so that colour is not needed; in the order of the exit codes 0, 1 and 2."""

OFFSET = "offset, the same for all"
"""Name of the offset of the log-odds, among the kinds of evidence."""


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits and a true minus sign; very small numbers have an exponent.

    Large numbers keep all digits before the point, in groups of three separated by narrow spaces; so do all whole
    numbers of type int. None and NaN give a dash.
    """
    if value is None or math.isnan(value):
        return "\N{EN DASH}"
    if math.isinf(value):
        text = "-∞" if value < 0 else "∞"
    elif isinstance(value, int):
        text = f"{value:,}"
    elif value == 0:
        text = "0"
    else:
        exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded number: that of 9.996 is 10.0
        places = max(0, digits - 1 - exponent)
        text = f"{value:.{digits - 1}e}" if places > digits + 3 else f"{value:,.{places}f}"
    return typeset(text)


def region_count(it: Inspection) -> str:
    """Return the number of regions; where as many are listed as may be, there can be more."""
    from fusion_diff.verdict.regions import MAX_REGIONS  # it imports NumPy, which the command line starts without

    return f"≥ {MAX_REGIONS}" if len(it.regions) >= MAX_REGIONS else str(len(it.regions))


def below_common_folder(paths: Sequence[Path]) -> dict[Path, str]:
    """Return each path without the leading folders that all have in common, so that no two are the same."""
    levels = zip(*(path.parent.parts for path in paths), strict=False)  # deeper levels are not common
    shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    return {path: str(Path(*path.parts[shared:])) for path in paths}


def told_apart(first: float, second: float) -> tuple[str, str]:
    """Return two numbers like `number`, with as many more digits as it takes to tell them apart."""
    for digits in range(3, 18):  # 17 tell any two numbers apart
        one, other = number(first, digits), number(second, digits)
        if one != other or first == second:
            break
    return one, other


def p_value_sentences(p_values: Mapping[str, float], compared: Compared) -> list[str]:
    """Return sentences that explain p-values by the number of references that scored as low or as high.

    Args:
        p_values: p-value of each side.
        compared: summary of the references.
    """
    return [f"p({kind}) = {number(p, 2)}: {_counted(kind, p, compared)}" for kind, p in p_values.items()]


def _counted(kind: str, p: float, compared: Compared) -> str:
    """Return the number of references behind a p-value, which is (that number + 1) / (all + 1), in a sentence.

    Where specimens have several references, the share is given instead, with each specimen counting once.
    """
    name, how = ("authentic", "low") if kind == "authentic" else ("other", "high")
    references = compared.sides[kind]
    specimens = compared.specimens_by_side[kind]
    stranger = p * (specimens + 1) - 1
    of = f"the {references} {name} references" + ("" if specimens == references else f", of {specimens} specimens,")
    if stranger < 1e-6:
        many = "so many" if specimens == references else f"{specimens} specimens"
        return (
            f"none of {of} scored as {how} as this micrograph; with {many} it cannot be smaller than 1/{specimens + 1}."
        )
    if specimens < references:
        return (
            f"{number(100 * stranger / specimens, 2)} % of {of} each specimen counting once, scored at least as {how}."
        )
    return f"{round(stranger)} of {of} scored at least as {how}."
