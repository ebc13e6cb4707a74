"""Bags: what enrolment keeps of a reference, and the scale on which tokens are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from fusion_diff.fewshot.keypoints import Keypoints

TOP_SHARE = 0.01
"""This share of a micrograph's tokens, those of highest evidence, tells what sort of flaw it has: flaws are small."""
CLIP = 6.0
"""Standardised channels are clipped here, so that one broken channel cannot outvote all others."""
BANK = 1024
"""Tokens of a class that nearest-neighbour distances are measured to."""
OWN = 300
"""Tokens of each reference whose distances to the other specimens give mean and deviation."""


@dataclass(frozen=True, eq=False)
class Bag:
    """The tokens of one micrograph.

    Attributes:
        tokens: (n, C) float32.
        residual: (n, R) float32, how far each token is from what the prior restored; R is 0 without the diffusion path.
        mark: (n,) bool, True on a flaw, or None where nothing was marked.
        suspicion: (n,) how much each token looks like a flaw, or None where no detector was asked.
        label: class of the micrograph, empty where it is not known or does not matter.
        group: specimen of the micrograph, in the same way.
        keypoints: those of its surface, or None where they were not looked for.
    """

    tokens: Tensor
    residual: Tensor
    mark: Tensor | None = None
    suspicion: Tensor | None = None
    label: str = ""
    group: str = ""
    keypoints: Keypoints | None = None

    def path(self, paths: Sequence[int], index: int) -> Bag:
        """Return the bag with the channels of one path only, of `paths` channels each."""
        first = sum(paths[:index])
        return replace(self, tokens=self.tokens[:, first : first + paths[index]])


@dataclass(frozen=True, eq=False)
class Scale:
    """Centre and spread of the authentic tokens, per channel: (C,) each."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, tokens: Iterable[Tensor]) -> Scale:
        """Measure the scale of authentic tokens [(n, C), …], every reference counting alike whatever its size."""
        import torch

        means, squares = [], []
        for each in tokens:
            means.append(each.mean(0))
            squares.append(each.square().mean(0))
        mean = torch.stack(means).mean(0)
        variance = (torch.stack(squares).mean(0) - mean.square()).clamp_min(0)
        return cls(mean, variance.sqrt().clamp_min(1e-3))

    def __call__(self, tokens: Tensor) -> Tensor:
        """Standardise tokens (n, C)."""
        return ((tokens - self.mean) / self.std).clamp(-CLIP, CLIP)


def content_order(bags: Sequence[Bag]) -> list[int]:
    """Return indices that put bags in an order of their own, the same in whichever order they come."""
    # On the CPU, for some devices have no doubles, and the order is to be the same on all.
    keys = [(*bag.tokens.cpu().double().sum(0).tolist(), bag.label) for bag in bags]
    return sorted(range(len(bags)), key=keys.__getitem__)


def top_count(count: int, share: float = TOP_SHARE) -> int:
    """Return how many of `count` tokens make the top `share`, at least one."""
    return max(1, round(share * count))


def sample_tokens(tensors: Sequence[Tensor], limit: int, seed: int = 0) -> Tensor:
    """Sample at most `limit` tokens from tensors [(n, C), …], uniformly and the same ones every time.

    The tensors are not concatenated for it, because together they can be hundreds of megabytes.

    Returns:
        (at most limit, C), in random order; all tokens in their own order where there are no more than `limit`.
    """
    import torch

    total = sum(len(each) for each in tensors)
    if total <= limit:
        return torch.cat(list(tensors))
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:limit]
    drawn = tensors[0].new_empty(limit, tensors[0].shape[1])
    first = 0
    for each in tensors:
        places = ((chosen >= first) & (chosen < first + len(each))).nonzero().squeeze(1)
        drawn[places.to(each.device)] = each[(chosen[places] - first).to(each.device)]
        first += len(each)
    return drawn


def compared(references: Sequence[Tensor], groups: Sequence[str]) -> Iterator[tuple[Tensor, Sequence[Tensor]]]:
    """Give the tokens (n, C) of each reference and those of all other specimens, as new micrographs will meet them.

    A token is at no distance from its own reference, and near to others of its specimen. Of a single specimen each
    reference meets the others; of a single reference each half meets the other one.
    """
    if len(references) == 1:
        references = references[0].tensor_split(2)
    apart = groups if len(set(groups)) > 1 else range(len(references))
    for tokens, own in zip(references, apart, strict=True):
        yield tokens, [rest for rest, other in zip(references, apart, strict=True) if other != own]
