"""Summary in Markdown, short and safe enough to post to a merge request.

File and class names are untrusted. All characters but letters, digits and a few harmless signs are written as character
references, which cannot end a table cell or start a link, tag, mention or emphasis.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fusion_diff.inspection.policy import policy_of
from fusion_diff.inspection.wording import number
from fusion_diff.printable import escaped, paragraph, printable
from fusion_diff.verdict.reasons import doubts, nothing_decided

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.inspection.policy import End, Ruling

ROWS = 20
"""Most micrographs that are listed."""
_NAME, _REASON = 80, 240
_SIGNS: dict[End, str] = {"error": "!", "fail": "✗", "warn": "?", "pass": "✓"}


def to_markdown(rulings: Sequence[Ruling], notes: Sequence[str] = ()) -> str:
    """Return rulings as short Markdown: the number of each action, and the most severe cases that did not pass.

    Args:
        rulings: on each micrograph.
        notes: remarks on the whole, such as which files were skipped.
    """
    counts = Counter(ruling.action for ruling in rulings)
    told = ", ".join(f"{counts[action]} {action}" for action in _SIGNS if counts[action])
    verdict = "nothing was inspected" if not rulings else told
    worst = "✗" if counts["error"] or counts["fail"] or not rulings else _SIGNS["warn" if counts["warn"] else "pass"]
    lines = [f"### {worst} FusionDiff: {verdict}", ""]
    inspected = [ruling.outcome.inspection for ruling in rulings if ruling.outcome.inspection is not None]
    if (why := nothing_decided(inspected)) is not None:
        lines += [f"Nothing could be decided: {why}", ""]
    for doubt in doubts(inspected):
        lines += [f"Doubt about the references: {_code(paragraph(doubt, _REASON))}", ""]
    for note in notes:
        lines += [f"Note: {_code(paragraph(note, _REASON))}", ""]
    order = list(_SIGNS)
    grave = sorted((ruling for ruling in rulings if ruling.action != "pass"), key=lambda each: order.index(each.action))
    if grave:
        lines += ["| | Micrograph | Score | Class | Why |", "|---|---|---:|---|---|"]
        lines += [_row(ruling) for ruling in grave[:ROWS]]
        if len(grave) > ROWS:
            lines += ["", f"And {len(grave) - ROWS} more."]
        lines.append("")
    models = sorted({(it.model_name, it.model_sha256[:12], it.references_sha256[:12], it.alpha) for it in inspected})
    for name, model, references, alpha in models:
        digests = f"{escaped(model)}, references {escaped(references)}"
        lines.append(f"Model {_code(printable(name, _NAME))} {digests}, alpha {alpha:g}.")
    if (policy := policy_of(rulings)) is not None:
        lines.append(f"Policy {escaped(str(policy.sha256)[:12])}.")
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(ruling: Ruling) -> str:
    it = ruling.outcome.inspection
    name = printable(ruling.outcome.path)
    if len(name) > _NAME:  # the end of a long path is more informative
        name = "…" + name[1 - _NAME :]
    said = " ".join(ruling.reasons)
    if it is None:
        score, label, why = "–", "–", _code(paragraph(said, _REASON))
    else:
        score, label, why = number(it.score), _code(printable(it.predicted_class, _NAME)), escaped(said)
    return f"| {_SIGNS[ruling.action]} {ruling.action} | {_code(name)} | {score} | {label} | {why} |"


def _code(text: str) -> str:
    """Return untrusted text as a code element, in which hosts do not look for mentions."""
    return f"<code>{escaped(text)}</code>"
