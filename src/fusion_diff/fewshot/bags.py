"""Bags: the tokens that enrolment keeps of a reference, and the scale that standardises them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from fusion_diff.fewshot.keypoints import Keypoints

TOP_SHARE = 0.01
"""Share of a micrograph's tokens, those of highest evidence, that decide on its class. It is small, as flaws are."""
CLIP = 6.0
"""Standardised channels are clipped to ±`CLIP`, so that one broken channel cannot dominate."""
BANK = 1024
"""Size of a bank: authentic tokens that nearest-neighbour distances are measured to."""
OWN = 300
"""Tokens sampled per reference to measure the mean and standard deviation of distances to other specimens."""
HALVES = "halves"
"""Group of all bags if each reference is to be compared with itself, half with half; see `compared`."""


@dataclass(frozen=True, eq=False)
class Bag:
    """The tokens of one micrograph.

    Attributes:
        tokens: (n, C) float32.
        residual: (n, R) float32, distance of each token from its reconstruction by the prior; R is 0 without the
            diffusion path.
        mark: (n,) bool, True on a flaw; None without marks.
        suspicion: (n,) log-odds of the flaw detector; None without a detector.
        label: class of the micrograph; empty if unknown or irrelevant.
        group: specimen of the micrograph; empty if unknown or irrelevant.
        keypoints: keypoints of its surface; None if they were not computed.
    """

    tokens: Tensor
    residual: Tensor
    mark: Tensor | None = None
    suspicion: Tensor | None = None
    label: str = ""
    group: str = ""
    keypoints: Keypoints | None = None

    def path(self, paths: Sequence[int], index: int) -> Bag:
        """Return the bag with the channels of path number `index` only; `paths` gives the channels of each."""
        first = sum(paths[:index])
        return replace(self, tokens=self.tokens[:, first : first + paths[index]])


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and standard deviation of the authentic tokens, per channel: (C,) each."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, tokens: Iterable[Tensor]) -> Scale:
        """Measure authentic tokens [(n, C), …]; every reference has the same weight, whatever its size."""
        import torch

        means, variances = [], []
        for each in tokens:
            means.append(each.mean(0))
            variances.append(each.var(0, correction=0))
        between = torch.stack(means)
        mean, variance = between.mean(0), torch.stack(variances).mean(0) + between.var(0, correction=0)
        return cls(mean, variance.sqrt().clamp_min(1e-3))

    def __call__(self, tokens: Tensor) -> Tensor:
        """Standardise and clip tokens (n, C)."""
        return ((tokens - self.mean) / self.std).clamp(-CLIP, CLIP)


def content_order(bags: Sequence[Bag]) -> list[int]:
    """Return indices that sort bags by their content, so that the result does not depend on the order given."""
    # On the CPU: some devices lack float64, and the order must be the same on all.
    keys = [(*bag.tokens.cpu().double().sum(0).tolist(), bag.label) for bag in bags]
    return sorted(range(len(bags)), key=keys.__getitem__)


def top_count(count: int, share: float = TOP_SHARE) -> int:
    """Return the number of tokens in the top `share` of `count`, at least 1."""
    return max(1, round(share * count))


def sample_tokens(tensors: Sequence[Tensor], limit: int, seed: int = 0) -> Tensor:
    """Sample at most `limit` tokens from tensors [(n, C), …], uniformly and reproducibly.

    The tensors are not concatenated, because together they can take hundreds of megabytes.

    Returns:
        (at most limit, C), in random order; all tokens in their own order if there are no more than `limit`.
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
    """Yield the tokens (n, C) of each reference, with the tokens of all references of other specimens.

    Distances between the two are like those of a new micrograph, which is of another specimen. A token's distance to
    its own reference is zero, and small to others of its specimen. With a single specimen, each reference is compared
    with the other references; with a single reference, or if the group is `HALVES`, each half with the other half.
    """
    if len(references) == 1 or groups[0] == HALVES:
        for one, other in (reference.tensor_split(2) for reference in references):
            yield one, [other]
            yield other, [one]
        return
    apart = groups if len(set(groups)) > 1 else range(len(references))
    for tokens, own in zip(references, apart, strict=True):
        yield tokens, [rest for rest, other in zip(references, apart, strict=True) if other != own]
