"""Doubts about an enrolment: why its scores are not to be relied on, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_diff.counted import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusion_diff.fewshot.fusion import Difference

LITTLE_SKILL = 0.65
"""Cross-fitted AUROC below which a warning is issued."""
ENOUGH_ALONE = 5
"""Fewest specimens of authentic references alone whose scores mean something. Those of fewer are far too high: the
references are scored by heads that lack one of them, which is much of what they know."""
TELLING = 3
"""Fewest specimens of a side whose cross-fitted figures say anything: a model that lacks one of two is another one."""


def doubts(specimens: Mapping[str, int], auroc: float | None, dropped: int, difference: Difference) -> list[str]:
    """Return the doubts that follow from the references and the figures.

    Args:
        specimens: number of specimens of the authentic side and of the other.
        auroc: cross-fitted AUROC; None where a side has no scores.
        dropped: number of references that the audit left out.
        difference: what was said to set the classes apart.
    """
    lines = []
    if dropped:
        were = "was" if dropped == 1 else "were"
        lines.append(
            f"{counted(dropped, 'reference')} that the audit found suspicious {were} left out, so all figures are of "
            "references that agree with each other, and too good, and the error rate alpha does not hold"
        )
    authentic, others = specimens.values()
    if not others and authentic < ENOUGH_ALONE:
        lines.append(
            f"authentic references alone of {counted(authentic, 'specimen')} are too few for a score: nearly all seems "
            f"authentic; enrol {ENOUGH_ALONE} specimens at least, or references of other classes too"
        )
    if auroc is not None and auroc < LITTLE_SKILL and min(authentic, others) >= TELLING:
        cure = (
            "mark what flaws there are, say so if the whole material differs (difference `whole`)"
            if difference == "any"
            else "leave the difference at `any` if flaws that have a place are sought"
        )
        lines.append(
            "the model separates authentic references from the others little better than chance (cross-fitted "
            f"AUROC {auroc:.3f}, chance is 0.5): do not rely on its scores; enrol more references, {cure}, or check "
            "the labels"
        )
    return lines
