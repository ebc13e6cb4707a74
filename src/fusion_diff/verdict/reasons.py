"""Reasons for a verdict, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_diff.counted import typeset
from fusion_diff.fewshot.decision import ROUNDING, specimens_needed
from fusion_diff.verdict.regions import MAX_REGIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fusion_diff.verdict.compared import Compared
    from fusion_diff.verdict.inspector import Enrolled
    from fusion_diff.verdict.result import Inspection, Region

OPEN = "Inconclusive: "
"""Start of the reason why a decision is open."""
OUT_OF_SCOPE = (
    "Out of scope: as a whole it is unlike every reference, authentic or not (another material, "
    "magnification or subject?). Ignore its score; enrol references of its kind."
)
MEANING = {
    "multiple-instance": "that parts of it look like the references that are not authentic",
    "novelty": "that parts of it are unlike the authentic references",
    "outliers": "that its strangest parts are far from any part of the authentic references",
    "suspicion": "that parts of it look like flaws of ceramics in general",
    "departures": "that parts of it are unlike the authentic references",
    "pooled": "its texture as a whole",
    "correspondence": "its surface, recognised from a reference",
    "reconstruction": "that the diffusion prior could not reconstruct parts of it",
}
"""What each kind of evidence means where it speaks against a micrograph; keys include readings of a single kind."""
IN_FAVOUR = {
    "multiple-instance": "that hardly any part looks like the references that are not authentic",
    "novelty": "that hardly any part is unlike the authentic references",
    "outliers": "that even its strangest parts are not far from parts of the authentic references",
    "suspicion": "that hardly any part looks like a flaw of ceramics in general",
    "departures": "that hardly any part is unlike the authentic references",
    "pooled": "its texture as a whole, like that of authentic references",
    "correspondence": "its surface, recognised from an authentic reference",
    "reconstruction": "that the diffusion prior could reconstruct nearly all of it",
}
"""What each means where it speaks for a micrograph."""


def changed(contributions: dict[str, float], offset: float) -> bool:
    """Return whether an authentic reference is recognised although the rest of the evidence, added up, is against it.

    It may have cracked since: its places still match, so the surface alone must not decide.

    Args:
        contributions: contribution of each kind of evidence to the log-odds.
        offset: log-odds without any.
    """
    surface = contributions.get("correspondence", 0.0)
    return surface < 0 < offset + sum(contributions.values()) - surface


def beyond(pixel_size_um: float | None, compared: Compared) -> str:
    """Return why a micrograph is out of scope: another magnification, or unlike every reference."""
    if compared.comparable(pixel_size_um):
        return OUT_OF_SCOPE
    return (
        f"Out of scope: its pixels are {pixel_size_um:.4g} µm wide, but those of the references "
        f"{compared.pixel_sizes}: another magnification. Ignore its score; take the image at their "
        "magnification, enrol references of this one, or correct the pixel size."
    )


def too_few(p_values: dict[str, float], compared: Compared, alpha: float) -> str | None:
    """Return that some side has too few references to be ruled out at `alpha`; None where there are enough.

    Args:
        p_values: p-value of each side that has cross-fitted references, whatever it is.
        compared: the references.
        alpha: error rate.
    """
    if "authentic" not in p_values:
        return "there are too few references to calibrate the score and to decide."
    needed, specimens = specimens_needed(alpha), compared.specimens_by_side
    few = [f"{specimens[side]} {side}" for side in p_values if specimens[side] < needed]
    if not few:
        return None
    # Without groups each image is its own specimen, so "references" is exact.
    shared = sum(compared.sides.values()) > sum(specimens.values())
    what = "specimens of references" if shared else "references"
    where = " on each side" if "not authentic" in p_values else ""
    return (
        f"alpha {alpha:g} needs {needed} {what}{where}, but there are {' and '.join(few)}; enrol more specimens, or "
        "choose a larger alpha before you look at scores."
    )


def undecidable(enrolment: Enrolled, alpha: float) -> str | None:
    """Return why no micrograph can be decided on at `alpha`; None where some may be."""
    p_values, specimens = enrolment.verifier.p_values(0.0), enrolment.compared.specimens_by_side
    if any(specimens[side] >= specimens_needed(alpha) for side in p_values):
        return None
    return too_few(p_values, enrolment.compared, alpha)


def nothing_decided(verdicts: Sequence[Inspection]) -> str | None:
    """Return why too few references are enrolled to decide on any micrograph; None where it was not that."""
    if any(it.decision != "inconclusive" for it in verdicts):
        return None
    found = (too_few(it.p_values, it.compared_with, it.alpha) for it in verdicts if it.in_scope)
    return next((why for why in found if why is not None), None)


def doubts(verdicts: Iterable[Inspection]) -> list[str]:
    """Return the doubts about the references that verdicts were made with, each once."""
    return list(dict.fromkeys(doubt for it in verdicts for doubt in it.compared_with.doubts))


def main_reason(reasons: Sequence[str]) -> str:
    """Return the reason that tells most of a decision, where there is room for one: of an open one, why it is open.

    What is said of purification stands behind that.
    """
    why_open = (line for line in reversed(reasons) if line.startswith(OPEN))
    return next(why_open, reasons[0] if reasons else "")


def explain(it: Inspection) -> tuple[str, ...]:
    """Return the reasons for a verdict, the strongest first; its own `reasons` are ignored."""
    lines = [] if it.in_scope else [beyond(it.pixel_size_um, it.compared_with)]
    against = it.score < 0.5 if it.decision == "inconclusive" else it.decision == "not authentic"
    name, value = max(it.contributions.items(), key=lambda item: item[1] if against else -item[1])
    if (value > 0) == against:
        side = "against" if against else "for"
        meaning = (MEANING if against else IN_FAVOUR).get(name, "of an unknown kind")  # of a head added by a user
        size = typeset(f"{value:+.2f}")
        lines.append(f"The strongest evidence {side} authenticity is {meaning} ({name}, {size} log-odds).")
    if it.decision != "inconclusive" and against != (it.score < 0.5):
        lines.append(_beside_the_score(it))
    if it.recognised is not None:
        lines.append(
            f"It shows the surface of reference {it.recognised.name} ({it.recognised.label}): "
            f"{it.recognised.points} keypoints match."
        )
    if it.regions:
        more = " or more" if len(it.regions) >= MAX_REGIONS else ""
        many = f"{len(it.regions)}{more} regions depart" if len(it.regions) > 1 else "One region departs"
        which = "the strongest, region 1," if len(it.regions) > 1 else "region 1"
        lines.append(f"{many} from the authentic references; {which} covers {_place(it.regions[0])}.")
    else:
        lines.append("No region departs from the authentic references.")
    if it.nearest:
        nearest = it.nearest[0]
        lines.append(
            f"Nearest in overall appearance, which is no part of the decision: {nearest.name} ({nearest.label}), "
            f"similarity {typeset(f'{round(nearest.similarity, 2) + 0.0:.2f}')}."
        )
    if it.decision == "inconclusive" and it.in_scope:
        lines.append(f"{OPEN}{_why_open(it)}")
    return tuple(lines)


def _place(region: Region) -> str:
    """Return area and centroid of a region as text, in µm where they are known."""
    if region.area_um2 is None:
        area = typeset(f"{region.area_px:,}")
        return f"{area} px² about x = {region.centroid_column:.0f} px, y = {region.centroid_row:.0f} px"
    measures = (region.area_um2, region.centroid_x_um, region.centroid_y_um)
    area, x, y = (typeset(f"{float(f'{value:.3g}'):,.10g}") for value in measures)
    return f"{area} µm² about x = {x} µm, y = {y} µm"


def _beside_the_score(it: Inspection) -> str:
    """Return why a decision is made that the score, with its even odds, does not suggest."""
    side = "not authentic" if it.decision == "authentic" and "not authentic" in it.p_values else "authentic"
    whose, way = ("authentic", "low") if side == "authentic" else ("other", "high")
    limit = "more than" if side == it.decision else "not more than"
    return (
        f"{it.decision.capitalize()}, although its score is {it.score:.3g}: decisions are made by p-values. The "
        f"share of {whose} specimens, its own included, that score at least as {way} is {it.p_values[side]:.2g}, "
        f"{limit} alpha {it.alpha:g}."
    )


def _why_open(it: Inspection) -> str:
    if "authentic" in it.p_values and changed(it.contributions, it.offset):
        return (
            "its surface is that of an authentic reference, but the rest of the evidence, added up, is against it: it "
            "may have changed since, or been taken in another way."
        )
    if (few := too_few(it.p_values, it.compared_with, it.alpha)) is not None:
        return few
    if all(p > it.alpha + ROUNDING for p in it.p_values.values()):
        return f"it fits both the authentic and the other references at alpha {it.alpha:g}."
    return f"it fits neither the authentic nor the other references at alpha {it.alpha:g}."
