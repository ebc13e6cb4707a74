"""The verdict in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_diff.fewshot.decision import references_needed

if TYPE_CHECKING:
    from fusion_diff.result import Inspection

OUT_OF_SCOPE = (
    "Out of scope: as a whole it is unlike every reference, authentic or not (another material, magnification or "
    "subject?). Its score means nothing; enrol references of its kind."
)
MEANING = {
    "multiple-instance": "parts that resemble what set the other references apart",
    "novelty": "parts unlike anything authentic",
    "likeness": "parts nearer to what is not authentic than to what is",
    "suspicion": "parts that look like flaws of ceramics in general",
    "departures": "parts unlike anything authentic",
    "texture": "the texture as a whole",
    "pooled": "the level and spread of its texture",
    "correspondence": "its very surface, recognised",
    "reconstruction": "parts that the diffusion prior could not give back",
}
"""Of each kind of evidence, and of each reading that is of one kind alone."""


def explain(it: Inspection, inside: int, outside: int) -> tuple[str, ...]:
    """Say why a verdict is what it is, strongest reason first.

    Args:
        it: the verdict; what it gives as its reasons is not looked at.
        inside: authentic references that it was compared with.
        outside: others.
    """
    lines = [] if it.in_scope else [OUT_OF_SCOPE]
    against = it.score < 0.5
    name, value = max(it.contributions.items(), key=lambda item: item[1] if against else -item[1])
    if (value > 0) == against:
        side = "against" if against else "for"
        meaning = MEANING.get(name, "of a kind of its own")  # of a head that somebody added
        lines.append(f"The strongest evidence {side} it is {meaning} ({name}, {value:+.2f} log-odds).")
    if it.recognised is not None:
        lines.append(
            f"It shows the surface of reference {it.recognised.name} ({it.recognised.label}): "
            f"{it.recognised.points} keypoints lie alike on both."
        )
    if it.regions:
        first = it.regions[0]
        place = f"rows {first.top}-{first.top + first.height}, columns {first.left}-{first.left + first.width}"
        size = f"{first.area_px} px" if first.area_um2 is None else f"{float(f'{first.area_um2:.3g}'):.10g} µm²"
        many = f"{len(it.regions)} regions depart" if len(it.regions) > 1 else "One region departs"
        lines.append(f"{many} from the authentic references; the strongest covers {size} at {place}.")
    else:
        lines.append("No region departs from the authentic references.")
    if it.nearest:
        lines.append(f"It resembles reference {it.nearest[0].name} ({it.nearest[0].label}) most.")
    if it.decision == "inconclusive" and it.in_scope:
        lines.append(_why_open(it.p_values, it.alpha, inside, outside))
    return tuple(lines)


def _why_open(p_values: dict[str, float], alpha: float, inside: int, outside: int) -> str:
    if not inside:
        return "Inconclusive: there are too few references to tell how far a score can be trusted."
    needed = references_needed(alpha)
    sides = ("authentic", inside), ("not authentic", outside)
    few = [f"{count} {side}" for side, count in sides if 0 < count < needed]
    if few:
        return f"Inconclusive: alpha {alpha:g} needs {needed} references of a side, and there are {' and '.join(few)}."
    if all(p > alpha for p in p_values.values()):
        return f"Inconclusive: it fits both the authentic and the other references at alpha {alpha:g}."
    return f"Inconclusive: it fits neither the authentic nor the other references at alpha {alpha:g}."
