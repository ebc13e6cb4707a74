"""The check that the references given to an export are those that the model was enrolled with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fusion_diff.perception import encode
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from fusion_diff.enrolment import Enrolment
    from fusion_diff.perception import Networks
    from fusion_diff.references import ReferenceSet

ASKED = 8
"""Tokens of each enrolled reference that are looked for. Half of them are enough: large micrographs are sampled."""
NEAR = 0.01
"""Distance, relative to a token's length, within which another is the same, computed on another machine."""


def others_than_enrolled(model: Networks, enrolment: Enrolment, references: ReferenceSet) -> str | None:
    """Return a sentence on the enrolled references that are not among those given; None if all are.

    Their tokens are compared, because a model keeps no images, and the digest of the set also covers what an export
    does not depend on, such as groups. Further references do no harm: some may have been left out on enrolling.
    """
    asked = torch.stack([bag.tokens[torch.linspace(0, len(bag.tokens) - 1, ASKED).long()] for bag in enrolment.bags])
    found = torch.zeros(asked.shape[:2], dtype=torch.bool)
    for each in references:
        tokens = encode(each.micrograph, model.encoder, mark=each.mark, twins=True)[0].tokens
        apart = torch.cdist(asked.flatten(0, 1), tokens, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        found |= apart.view_as(found) < NEAR * asked.norm(dim=2)
    missing = [name for name, few in zip(enrolment.names, (found.sum(1) < ASKED / 2).tolist(), strict=True) if few]
    if not missing:
        return None
    count = f"{len(missing)} of {len(enrolment.names)}"
    return f"{count} enrolled references are not among those given, such as {printable(missing[0])}"
