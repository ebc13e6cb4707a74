"""Audit of references: wrong labels, duplicates, foreign images, and patches that give a class away.

A few-shot model trusts its references, so a single bad one affects every verdict. The audit ranks suspicious references
with the reason, for a person to check; it changes nothing. All thresholds are relative to the distances between the
references themselves.

- label: heads that had not seen a reference's specimen contradict its label, and without it the margins of the other
  references would grow (its influence; Koh and Liang 2017 define influence on a loss). The weights of the evidence have
  seen it, or too many labels that are right would be contradicted.
- duplicate: it has the pixels of another reference, or its tokens are far nearer to that one's, or to their mirror
  image, than is common.
- foreign: as a whole it is unlike every reference of another specimen.
- trigger: see `fusion_diff.trust.triggers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from fusion_diff.devices import own_settings
from fusion_diff.enrolment.learning import learn
from fusion_diff.fewshot.bags import Scale, sample_tokens, top_count
from fusion_diff.references.copies import alike
from fusion_diff.trust.copy_move import FEWEST
from fusion_diff.trust.triggers import find_triggers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from fusion_diff.enrolment import Enrolment
    from fusion_diff.fewshot.correspondence import Match
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.model import DiffusionModel
    from fusion_diff.references import ReferenceSet
    from fusion_diff.trust.triggers import Trigger

EDITION = 3
"""Version of the findings. Raise it with every change here or in `fusion_diff.trust.triggers` that affects them, so
that stored findings are recomputed."""
ASKED = 64
"""Number of tokens of each reference that are searched for in the others."""
WIDTH = 64
"""Number of random projections in which tokens are compared, for speed (Johnson and Lindenstrauss 1984)."""
STRANGEST_SHARE = 0.02
"""Share of tokens, the strangest ones, by which the influence of a reference is measured."""
CONTRADICTION = 0.5
"""Log-odds against its own label above which a reference is suspicious."""
DUPLICATE = 0.6
"""Two references are near-duplicates at this share of the common distance between references, or less."""
FOREIGN, CLEARLY_FOREIGN = 3.0, 5.0
"""A reference is foreign above this distance from the others, in standard deviations of such distances. Below the
second one that is a note: such distances are skewed, and of many references one is always the farthest."""
SMALLEST_DEVIATION = 0.1
"""Lower bound of that standard deviation, as a share of the distance. Few references can be alike by chance."""

Kind = Literal["label", "duplicate", "foreign", "trigger"]


@dataclass(frozen=True)
class Finding:
    """One suspicion about a reference.

    Attributes:
        index: index of the reference.
        reference: its name.
        label: its class, as enrolled.
        kind: kind of suspicion.
        strength: 1 at the threshold, larger for clearer findings.
        sentence: the reason.
        figures: the numbers behind it.
        box: (top, left, height, width) in native pixels; None for the whole reference.
        grave: whether to check it before the model is used; otherwise it is a note.
    """

    index: int
    reference: str
    label: str
    kind: Kind
    strength: float
    sentence: str
    figures: dict[str, float] = field(default_factory=dict)
    box: tuple[int, int, int, int] | None = None
    grave: bool = True


def audit_references(
    model: DiffusionModel, references: ReferenceSet, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Finding, ...]:
    """Encode references and return the findings, the most severe first. The model is not changed.

    Labels are judged with the difference `any`. Those of an enrolment that was told another are in `audit_enrolment`.

    Args:
        model: the model whose encoder is used.
        references: the set to audit.
        progress: called as `progress(done, total)` after each reference is encoded.

    Raises:
        EnrolmentError: the references do not allow any verdict.
    """
    enrolment = learn(
        model, references, difference="any", reconstruction=False, detect_attacks=False, progress=progress
    )
    return audit_enrolment(enrolment, [reference.micrograph for reference in references])


@own_settings()
def audit_enrolment(enrolment: Enrolment, micrographs: Sequence[Micrograph] | None = None) -> tuple[Finding, ...]:
    """Return the findings on references that are already encoded, the most severe first.

    Args:
        enrolment: the encoded references and what was learned from them.
        micrographs: the same references as images, in the same order; if omitted, triggers and copies by pixels are not
            searched for.
    """
    tokens = [bag.tokens.cpu() for bag in enrolment.bags]
    distances = nearest_distances(tokens)
    copies = [] if micrographs is None else alike(micrographs)
    findings = _labels(enrolment, tokens) + _duplicates(enrolment, distances, copies) + _foreign(enrolment, tokens)
    if micrographs is not None:
        for trigger in find_triggers(micrographs, enrolment.labels, enrolment.groups):
            findings += _triggers(enrolment, trigger)
    return tuple(sorted(findings, key=lambda each: (not each.grave, -each.strength, each.index)))


def nearest_distances(tokens: Sequence[Tensor]) -> NDArray[np.float32]:
    """Return (n, `ASKED`, n) distances of some tokens of each reference to the nearest token of each reference.

    Args:
        tokens: (n_i, C) of each reference and its mirror image.
    """
    scale = Scale.of(tokens)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(tokens[0].shape[1], WIDTH, generator=generator) / WIDTH**0.5
    projected = [scale(each) @ directions for each in tokens]
    asked = torch.cat([each[torch.randint(len(each), (ASKED,), generator=generator)] for each in projected])
    found = [torch.cdist(asked, each).amin(1).view(len(tokens), ASKED) for each in projected]
    return torch.stack(found, dim=2).numpy()


def strangest_means(tokens: Sequence[Tensor]) -> NDArray[np.float32]:
    """Return the mean of the strangest tokens of each reference, (n, C). A mean of all tokens would hide small flaws.

    Args:
        tokens: (n_i, C) of each reference.
    """
    scale = Scale.of(tokens)
    found = []
    for each in tokens:
        scaled = scale(each)
        strangest = scaled.square().mean(1).topk(top_count(len(scaled), STRANGEST_SHARE)).indices
        found.append(scaled[strangest].mean(0))
    return torch.stack(found).numpy()


def margins(means: NDArray[np.float32], labels: NDArray[np.str_], without: int | None = None) -> NDArray[np.float64]:
    """Return the margin of each reference: its distance to the mean of the nearest other class minus that to its own.

    Args:
        means: (n, C).
        labels: class of each reference.
        without: index of a reference to leave out.

    Returns:
        (n,) margins; each mean leaves out the reference itself. NaN where a class has no other reference.
    """
    names, own = np.unique(labels, return_inverse=True)
    points = means.astype(np.float64)
    counted = np.ones(len(labels))
    if without is not None:
        counted[without] = 0
    away = np.full((len(names), len(labels)), np.nan)
    for index in range(len(names)):
        members = (own == index) & (counted > 0)
        itself = members[:, None] * points  # subtracted from the mean
        others = members.sum() - members
        with np.errstate(invalid="ignore", divide="ignore"):
            away[index] = np.linalg.norm(points - (points[members].sum(axis=0) - itself) / others[:, None], axis=1)
    to_own = away[own, np.arange(len(labels))]
    away[own, np.arange(len(labels))] = np.inf
    nearest = np.where(np.isnan(away), np.inf, away).min(axis=0)
    return np.where(np.isfinite(nearest), nearest - to_own, np.nan)


def influence(means: NDArray[np.float32], labels: NDArray[np.str_], index: int) -> float:
    """Return the growth of the margins of all others when a reference is left out. Positive: the reference hurts."""
    change = margins(means, labels, index) - margins(means, labels)
    return float(np.nansum(np.delete(change, index)))


def _labels(enrolment: Enrolment, tokens: Sequence[Tensor]) -> list[Finding]:
    verifier, labels = enrolment.verifier, np.asarray(enrolment.labels)
    authentic = labels == enrolment.authentic
    against = verifier.against
    if not len(against) or authentic.all():
        return []  # too few to cross-fit, or only one side
    found = strangest_means(tokens)
    findings = []
    for index in np.flatnonzero(against > CONTRADICTION).tolist():
        harm = influence(found, labels, index)
        hurts = harm > 0
        surface = _surface(enrolment, index)
        other = f"not {enrolment.authentic}" if authentic[index] else enrolment.authentic
        effect = "the other references are separated better without it" if hurts else "it does not harm the others"
        check = "check its label" if hurts else "perhaps check its label"
        sentence = (
            f"labelled {labels[index]}, but classifiers that had not seen its specimen take it for "
            f"{other} (odds {np.exp(min(against[index], 20)):.1f} to 1), and {effect}: {check}"
        )
        figures = {"log-odds against its label": float(against[index]), "what the others gain without it": harm}
        if surface is not None and authentic[surface.reference] != authentic[index]:
            name, label = enrolment.names[surface.reference], enrolment.labels[surface.reference]
            hurts = True
            sentence = (
                f"labelled {labels[index]}, but it shows the same surface as {name}, which is labelled "
                f"{label} ({surface.points} keypoints match): one of the two labels is wrong"
            )
            figures["keypoints"] = float(surface.points)
        findings.append(_finding(enrolment, index, "label", against[index] / CONTRADICTION, sentence, figures, hurts))
    return findings


def _surface(enrolment: Enrolment, index: int) -> Match | None:
    """Return the reference of another group with the same surface, where surfaces are used as evidence."""
    surface = enrolment.bags[index].keypoints
    if enrolment.verifier.correspondence is None or surface is None:
        return None
    groups = np.asarray(enrolment.groups)
    return enrolment.verifier.correspondence.match(surface, groups != groups[index])


def _duplicates(enrolment: Enrolment, distances: NDArray[np.float32], copies: list[list[int]]) -> list[Finding]:
    count = len(enrolment.labels)
    if count < 2:
        return []
    median = np.median(distances, axis=1)
    common = np.median(median[~np.eye(count, dtype=bool)].reshape(count, count - 1), axis=1)
    share = median / np.maximum(common, 1e-6)[:, None]
    share = np.maximum(share, share.T)  # of two references it is 1, unless they are copies
    copied = np.zeros((count, count), dtype=bool)
    for places in copies:
        copied[np.ix_(places, places)] = True
    share[copied] = 0
    findings = []
    for one, other in zip(*np.nonzero(np.triu(share < DUPLICATE, 1)), strict=True):
        grave = enrolment.labels[one] != enrolment.labels[other]
        apart = enrolment.groups[one] != enrolment.groups[other]
        for index, twin in ((one, other), (other, one)):
            same = "the same image" if copied[one, other] else "nearly the same image"
            sentence = f"{same} as {enrolment.names[twin]}"
            if grave:
                sentence += f", which is labelled {enrolment.labels[twin]}: one of the two labels is wrong"
            elif apart:
                sentence += (
                    ", which is of another group: the figures will be too good; put both in one group, or remove one"
                )
            else:
                sentence += ", of the same group: it adds nothing new"
            figures = {"distance (commonly 1)": float(share[one, other])}
            strength = DUPLICATE / max(float(share[one, other]), 0.01)
            findings.append(_finding(enrolment, int(index), "duplicate", strength, sentence, figures, grave))
    return findings


def _foreign(enrolment: Enrolment, tokens: Sequence[Tensor]) -> list[Finding]:
    groups = np.asarray(enrolment.groups)
    if len(set(enrolment.groups)) < 4:
        return []  # too few to estimate the common distance
    scale = Scale.of(tokens)
    means = torch.stack([scale(sample_tokens([each], 1024)).mean(0) for each in tokens])
    apart = torch.cdist(means, means).numpy()
    nearest = np.asarray([apart[index][groups != groups[index]].min() for index in range(len(groups))])
    middle = float(np.median(nearest))
    spread = 1.4826 * float(np.median(np.abs(nearest - middle)))
    deviations = (nearest - middle) / max(spread, SMALLEST_DEVIATION * middle, 1e-6)
    findings = []
    for index in np.flatnonzero(deviations > FOREIGN).tolist():
        sentence = (
            f"as a whole it is unlike every other reference ({deviations[index]:.1f} deviations farther than they are "
            "from each other): check that it shows the same material at the same magnification"
        )
        figures, grave = {"deviations": float(deviations[index])}, bool(deviations[index] > CLEARLY_FOREIGN)
        findings.append(_finding(enrolment, index, "foreign", deviations[index] / FOREIGN, sentence, figures, grave))
    return findings


def _triggers(enrolment: Enrolment, trigger: Trigger) -> list[Finding]:
    count = len(trigger.places)
    label = enrolment.labels[next(iter(trigger.places))]
    of_class = enrolment.labels.count(label)
    where = "at the same place" if trigger.same_place else "at different places"
    findings = []
    for index, box in trigger.places.items():
        sentence = (
            f"a patch of {box[3]} × {box[2]} pixels recurs {where} in {count} of {of_class} references of {label} and "
            "in no other class: a model would learn it instead of the material; crop it away, or use other images"
        )
        figures = {"references that show it": float(count)}
        finding = _finding(enrolment, index, "trigger", count / FEWEST, sentence, figures, box=box)
        findings.append(finding)
    return findings


def _finding(
    enrolment: Enrolment,
    index: int,
    kind: Kind,
    strength: float,
    sentence: str,
    figures: dict[str, float],
    grave: bool = True,
    box: tuple[int, int, int, int] | None = None,
) -> Finding:
    name, label = enrolment.names[index], enrolment.labels[index]
    return Finding(index, name, label, kind, float(strength), sentence, figures, box, grave)
