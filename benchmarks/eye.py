"""FusionDiff in the other files here: the same as `enroll` and `inspect`, but every image is encoded only once."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.perception import encode, surface

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol import Image

    from fusion_diff import DiffusionModel
    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.fusion import Difference


class Eye:
    """An encoder with a cache of encoded images."""

    def __init__(self, model: DiffusionModel) -> None:
        self.encoder = model.encoder
        self.detector = model.flaw_detector
        self.bags: dict[tuple[Image, bool], Bag] = {}
        digest = hashlib.sha256()
        weights = {k: v for k, v in self.encoder.own_state().items() if k.startswith(("global_", "local_norm"))}
        if self.detector is not None:
            weights |= self.detector.state_dict()
        for _, value in sorted(weights.items()):  # of what tokens and evidence depend on, the CNN is of its package
            digest.update(value.numpy().tobytes())
        self.sha256 = digest.hexdigest()

    def look(self, image: Image, *, reference: bool = False) -> Bag:
        """Return an image's tokens, with its mark if it has one; for references also those of its mirror image."""
        if (image, reference) not in self.bags:
            micrograph = image.read()
            mark = image.read_mark(micrograph.height, micrograph.width)
            bag, _ = encode(micrograph, self.encoder, mark=mark, twins=reference)
            self.bags[image, reference] = replace(bag, keypoints=surface(micrograph))
        return self.bags[image, reference]

    def enrol(self, references: Sequence[Image], *, marks: bool = False, difference: Difference = "any") -> Verifier:
        """Learn from references: from their labels only, or also from their marks if `marks`."""
        bags = [self.look(image, reference=True) for image in references]
        labels = ["authentic" if image.authentic else "other" for image in references]
        return Verifier.fit(
            bags if marks else [replace(bag, mark=None) for bag in bags],
            labels,
            "authentic",
            [image.group for image in references],
            self.encoder.paths,
            self.detector,
            difference,
        )


def answer(verifier: Verifier, queries: Sequence[Bag]) -> dict[str, object]:
    """Return the log-odds of not being authentic, the forced choices, and the p-values of both sides."""
    fused = [_fused(verifier, bag) for bag in queries]
    odds = np.asarray([verifier.calibration.log_odds(value) for value in fused])
    p_values = [verifier.p_values(value) for value in fused]
    return {"scores": odds.round(6), "verdicts": odds > 0, "p_values": p_values, "weights": verifier.fusion.weight}


def _fused(verifier: Verifier, bag: Bag) -> float:
    """Return the fused score that a verdict has, with the surface where one is recognised."""
    fused, _ = verifier.fused(verifier.heads.maps(bag.tokens, bag.residual))
    match = None if bag.keypoints is None else verifier.recognise(bag.keypoints)
    return fused if match is None else verifier.calibration.adding(fused, match.log_odds)
