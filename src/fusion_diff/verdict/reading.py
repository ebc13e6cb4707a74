"""Evidence of a verifier on one micrograph, accumulated tile by tile."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fusion_diff.fewshot.classes import top_limit
from fusion_diff.perception import ACCELERATED_BATCH
from fusion_diff.verdict.result import EvidenceMap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fusion_diff.fewshot.correspondence import Match
    from fusion_diff.fewshot.keypoints import Keypoints
    from fusion_diff.fewshot.verifier import Verifier
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.micrograph.tiles import Grid
    from fusion_diff.perception import Part


@dataclass(frozen=True, eq=False)
class Reading:
    """The evidence on one micrograph.

    Attributes:
        grid: token grid of the micrograph.
        evidence: (rows, columns) log-odds of each token.
        fused: fused score.
        log_odds: calibrated log-odds of not being authentic.
        contributions: contribution of each kind of evidence to the log-odds.
        mean_token: (C,) mean standardised token.
        strongest: (k, C) standardised tokens with the highest evidence.
        match: reference whose surface was recognised; None where there is none.
        strangeness: mean distance of its tokens to the nearest token of any reference, see `fewshot.scope`.
    """

    grid: Grid
    evidence: Tensor
    fused: float
    log_odds: float
    contributions: dict[str, float]
    mean_token: Tensor
    strongest: Tensor
    match: Match | None
    strangeness: float

    @classmethod
    @torch.inference_mode()
    def of(cls, grid: Grid, parts: Iterable[Part], verifier: Verifier, surface: Keypoints | None = None) -> Reading:
        """Judge the tokens of all parts, and match the keypoints of the surface where they are given.

        Tokens are dropped as soon as they are judged, so only the maps grow with the micrograph.
        """
        maps: dict[str, Tensor] = {}
        evidence = torch.zeros(grid.rows, grid.columns)
        centre, strange = verifier.heads.scale.mean, 0.0
        total, strength, strongest = torch.zeros_like(centre), centre.new_zeros(0), centre.new_zeros(0, len(centre))
        limit = top_limit(grid.rows * grid.columns)
        for group in _batches(parts, _at_once(centre.device)):
            tokens = verifier.heads.scale(torch.cat([part.tokens for part in group]))
            judged = verifier.heads.judge(tokens, torch.cat([part.residual for part in group]))
            values = verifier.evidence(judged)
            maps = maps or {name: torch.zeros_like(evidence) for name in judged}
            found = torch.stack([*judged.values(), values]).cpu()
            for part, own in zip(group, torch.split(found, [len(part.tokens) for part in group], dim=1), strict=True):
                rows, columns = slice(*part.rows), slice(*part.columns)
                for whole, piece in zip((*maps.values(), evidence), own, strict=True):
                    whole[rows, columns] = piece.view_as(whole[rows, columns])
            total = total + tokens.sum(0)
            strange += float(verifier.scope.distances(tokens).sum())
            level, index = values.topk(min(limit, len(values)))
            strength, strongest = torch.cat([strength, level]), torch.cat([strongest, tokens[index]])
            best = strength.topk(min(limit, len(strength))).indices
            strength, strongest = strength[best], strongest[best]
        match = verifier.recognise(surface)
        fused, contributions = verifier.fused({name: values.flatten() for name, values in maps.items()}, match)
        return cls(
            grid,
            evidence,
            fused,
            verifier.calibration.log_odds(fused),
            contributions,
            total / (grid.rows * grid.columns),
            strongest,
            match,
            strange / (grid.rows * grid.columns),
        )

    def evidence_map(self, micrograph: Micrograph) -> EvidenceMap:
        """Return the evidence as a map over the micrograph."""
        values = self.evidence.numpy().astype(np.float32, copy=False)
        return EvidenceMap(values, self.grid.scale, micrograph.height, micrograph.width)


def _at_once(device: torch.device) -> int:
    """Return how many parts to judge at once: on a CPU one, because the distances of more do not fit its cache."""
    return 1 if device.type == "cpu" else ACCELERATED_BATCH


def _batches(parts: Iterable[Part], count: int) -> Iterator[list[Part]]:
    waiting = iter(parts)
    while group := list(islice(waiting, count)):
        yield group


@torch.inference_mode()
def mean_strangeness(grid: Grid, parts: Iterable[Part], verifier: Verifier) -> float:
    """Return the strangeness alone, see `Reading`."""
    scale, scope = verifier.heads.scale, verifier.scope
    return sum(float(scope.distances(scale(part.tokens)).sum()) for part in parts) / (grid.rows * grid.columns)
