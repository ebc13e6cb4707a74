"""The verdict in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fusion_diff.fewshot.decision import references_needed

if TYPE_CHECKING:
    from collections.abc import Sequence, Sized

    from fusion_diff.result import Decision, NearestReference, RecognisedSurface, Region

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


class Judge(Protocol):
    """How many references of each side a verdict was compared with; a `Verifier` is one."""

    @property
    def inside(self) -> Sized:
        """Scores of the authentic references."""

    @property
    def outside(self) -> Sized:
        """Scores of the others."""


class Enrolled(Protocol):
    """What a verdict was made by; an `Enrolment` is one, and what is exported of it."""

    @property
    def verifier(self) -> Judge:
        """What was learned."""


def explain(
    score: float,
    decision: Decision,
    in_scope: bool,
    p_values: dict[str, float],
    alpha: float,
    contributions: dict[str, float],
    regions: Sequence[Region],
    recognised: RecognisedSurface | None,
    nearest: Sequence[NearestReference],
    enrolment: Enrolled,
) -> tuple[str, ...]:
    """Say why the verdict is what it is, strongest reason first."""
    lines = [] if in_scope else [OUT_OF_SCOPE]
    against = score < 0.5
    name, value = max(contributions.items(), key=lambda item: item[1] if against else -item[1])
    if (value > 0) == against:
        side = "against" if against else "for"
        meaning = MEANING.get(name, "of a kind of its own")  # of a head that somebody added
        lines.append(f"The strongest evidence {side} it is {meaning} ({name}, {value:+.2f} log-odds).")
    if recognised is not None:
        lines.append(
            f"It shows the surface of reference {recognised.name} ({recognised.label}): "
            f"{recognised.points} keypoints lie alike on both."
        )
    if regions:
        first = regions[0]
        place = f"rows {first.top}-{first.top + first.height}, columns {first.left}-{first.left + first.width}"
        size = f"{first.area_px} px" if first.area_um2 is None else f"{float(f'{first.area_um2:.3g}'):.10g} µm²"
        many = f"{len(regions)} regions depart" if len(regions) > 1 else "One region departs"
        lines.append(f"{many} from the authentic references; the strongest covers {size} at {place}.")
    else:
        lines.append("No region departs from the authentic references.")
    if nearest:
        lines.append(f"It resembles reference {nearest[0].name} ({nearest[0].label}) most.")
    if decision == "inconclusive" and in_scope:
        lines.append(_why_open(p_values, alpha, enrolment))
    return tuple(lines)


def _why_open(p_values: dict[str, float], alpha: float, enrolment: Enrolled) -> str:
    verifier, needed = enrolment.verifier, references_needed(alpha)
    if not len(verifier.inside):
        return "Inconclusive: there are too few references to tell how far a score can be trusted."
    few = [
        f"{count} {side}"
        for side, count in (("authentic", len(verifier.inside)), ("not authentic", len(verifier.outside)))
        if 0 < count < needed
    ]
    if few:
        return f"Inconclusive: alpha {alpha:g} needs {needed} references of a side, and there are {' and '.join(few)}."
    if all(p > alpha for p in p_values.values()):
        return f"Inconclusive: it fits both the authentic and the other references at alpha {alpha:g}."
    return f"Inconclusive: it fits neither the authentic nor the other references at alpha {alpha:g}."
