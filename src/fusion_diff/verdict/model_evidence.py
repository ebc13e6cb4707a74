"""The evidence on one micrograph by a model in torch, gathered tile by tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusion_diff.fewshot.classes import top_limit
from fusion_diff.fewshot.correspondence import CORRESPONDENCE
from fusion_diff.perception import ACCELERATED_BATCH
from fusion_diff.verdict.evidence import MicrographEvidence

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusion_diff.fewshot.correspondence import Match
    from fusion_diff.fewshot.keypoints import Keypoints
    from fusion_diff.fewshot.verifier import Verifier
    from fusion_diff.micrograph.tiles import Grid
    from fusion_diff.perception import Part

BATCH = 1
"""Parts judged at once on a CPU, because the distances of more do not fit its cache."""


@dataclass(frozen=True, eq=False)
class ModelEvidence(MicrographEvidence):
    """The evidence on one micrograph, with what names its class and the references that it resembles.

    Attributes:
        mean_token: (C,) mean standardised token.
        strongest: (k, C) standardised tokens with the highest evidence.
        match: reference whose surface was recognised; None where there is none.
    """

    mean_token: Tensor
    strongest: Tensor
    match: Match | None

    @classmethod
    @torch.inference_mode()
    def of(cls, grid: Grid, parts: Iterable[Part], verifier: Verifier) -> ModelEvidence:
        """Judge the tokens of all parts.

        Tokens are dropped as soon as they are judged, so only the maps grow with the micrograph.
        """
        maps: dict[str, Tensor] = {}
        evidence = torch.zeros(grid.rows, grid.columns)
        centre, strange = verifier.heads.scale.mean, 0.0
        total, strength, strongest = torch.zeros_like(centre), centre.new_zeros(0), centre.new_zeros(0, len(centre))
        limit = top_limit(grid.rows * grid.columns)
        waiting, count = iter(parts), BATCH if centre.device.type == "cpu" else ACCELERATED_BATCH
        while group := list(islice(waiting, count)):
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
        fused, contributions = verifier.fused({name: values.flatten() for name, values in maps.items()})
        return cls(
            grid=grid,
            evidence=evidence.numpy(),
            fused=fused,
            log_odds=verifier.calibration.log_odds(fused),
            contributions=contributions,
            strangeness=strange / (grid.rows * grid.columns),
            mean_token=total / (grid.rows * grid.columns),
            strongest=strongest,
            match=None,
        )

    def recognising(self, verifier: Verifier, surface: Keypoints) -> ModelEvidence:
        """Return the evidence with the log-odds of a recognised surface added; the same where none is recognised."""
        match, calibration = verifier.recognise(surface), verifier.calibration
        if match is None:
            return self
        fused = calibration.adding(self.fused, match.log_odds)
        return replace(
            self,
            fused=fused,
            log_odds=calibration.log_odds(fused),
            contributions=self.contributions | {CORRESPONDENCE: match.log_odds},
            match=match,
        )
