"""Model card of an enrolled model: its references and figures, followed by the card of its base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_diff import __version__
from fusion_diff.counted import counted
from fusion_diff.printable import escaped, paragraph

if TYPE_CHECKING:
    from fusion_diff.enrolment.enrolment import Enrolment

_WHOLE = (
    "The classes were said to differ as a whole, as by grain size, porosity, firing or glaze (`difference` is `whole`)"
    ": flaws that have a place count for little."
)
_BASE = "\n## The model that they were enrolled on\n\n"


def enrolled_card(name: str, enrolment: Enrolment, card: str) -> str:
    """Return the card, in Markdown.

    Args:
        name: name of the enrolled model.
        enrolment: its references and what was learned; with built-in references `card` is returned unchanged.
        card: card of the base model. The section of an earlier enrolment in it is replaced.
    """
    if enrolment.builtin:
        return card
    rows = [
        f"| {escaped(paragraph(label))}{' (authentic)' if label == enrolment.authentic else ''} | {count} |"
        for label, count in enrolment.counts.items()
    ]
    figures = [f"| {figure} | {value:.3f} |" for figure, value in sorted(enrolment.figures.items())]
    notes = [f"- {escaped(paragraph(note))}" for note in enrolment.warnings()]
    lines = [
        f"# {escaped(paragraph(name))}",
        "",
        f"A model saved by FusionDiff {__version__}, enrolled on {counted(len(enrolment.names), 'reference')}, "
        f"{enrolment.compared.of_specimens} (sha256 {enrolment.references_sha256}).",
        "",
        "| class | references |",
        "|---|---|",
        *rows,
        "",
        *([_WHOLE, ""] if enrolment.difference == "whole" else []),
        "Cross-fitted figures (each reference judged without the references of its specimen), and the weight of each "
        "kind of evidence in a verdict:",
        "",
        "| figure | |",
        "|---|---|",
        *figures,
        *(["", *notes] if notes else []),
    ]
    return "\n".join(lines) + "\n" + _BASE + card.rsplit(_BASE, 1)[-1]
