"""Enrolment: what a model keeps of its references, learns from them, and writes to a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_diff.checkpoint import read_json, read_tensors, write_json
from fusion_diff.errors import CheckpointError, ReferenceSetError
from fusion_diff.fewshot import state
from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.decision import references_needed
from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.result import NearestReference

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "fusion-diff/enrolment/3"


@dataclass(frozen=True, eq=False)
class Enrolment:
    """References as tokens, and the verifier learned from them.

    Attributes:
        authentic: the class being verified.
        names: name of each reference.
        labels: class of each reference.
        groups: specimen of each reference.
        paths: channels of each of the encoder's paths in a token.
        bags: tokens of each reference; halves rounded to float16, as they are stored.
        condition: (tokens, condition width), the mean condition of the authentic references.
        references_sha256: digest of the reference set.
        builtin: whether these are the procedural references that come with the embedded model.
        shifts: how far purification moves the log-odds of each reference, see `trust.purification`; empty where that
            was not measured.
        seconds: time that enrolling took.
    """

    authentic: str
    names: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    paths: tuple[int, ...]
    bags: tuple[Bag, ...]
    condition: Tensor
    references_sha256: str
    builtin: bool = False
    shifts: tuple[float, ...] = ()
    seconds: float = 0.0

    @cached_property
    def verifier(self) -> Verifier:
        """What is learned from the references (computed once; a second or so for a handful)."""
        return Verifier.fit(self.bags, self.labels, self.authentic, self.groups, self.paths)

    @property
    def counts(self) -> dict[str, int]:
        """References of each class, the authentic one first."""
        names = sorted(set(self.labels), key=lambda label: (label != self.authentic, label))
        return {name: self.labels.count(name) for name in names}

    @property
    def figures(self) -> dict[str, float]:
        """Cross-fitted figures: how well references were judged by heads that had not seen them or their group.

        `auroc` and `macro_f1` (authentic against the rest; absent with authentic references alone or where there are
        too few to cross-fit), and `weight of …`, the share each reading has in the verdict.
        """
        from sklearn.metrics import f1_score, roc_auc_score

        verifier, figures = self.verifier, {}
        if len(verifier.inside) and len(verifier.outside):
            truth = np.r_[np.zeros(len(verifier.inside)), np.ones(len(verifier.outside))]
            fused = np.r_[verifier.inside, verifier.outside]
            guessed = verifier.calibration.slope * fused + verifier.calibration.intercept > 0
            figures["auroc"] = float(roc_auc_score(truth, fused))
            figures["macro_f1"] = float(f1_score(truth, guessed, average="macro", zero_division=0))
        return figures | {f"weight of {name}": weight for name, weight in verifier.fusion.weight.items()}

    def warnings(self, alpha: float = 0.1) -> tuple[str, ...]:
        """Return what the references do not allow, in sentences, for decisions at an error rate of `alpha`."""
        needed, lines = references_needed(alpha), list(self.verifier.warnings)
        inside, outside = self.labels.count(self.authentic), len(self.labels) - self.labels.count(self.authentic)
        if inside < needed:
            lines.append(
                f"{inside} authentic references are too few to ever decide 'not authentic' at alpha {alpha:g}: "
                f"enrol {needed}, or accept a larger alpha"
            )
        if 0 < outside < needed:
            lines.append(
                f"{outside} other references are too few to ever decide 'authentic' at alpha {alpha:g}: "
                f"enrol {needed}, or accept a larger alpha"
            )
        return tuple(lines)

    def shots(self, count: int) -> Enrolment:
        """Return an enrolment of at most `count` references of each class, the first of each.

        Raises:
            ReferenceSetError: `count` is not a whole number from 1 to the size of the largest class.
        """
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise ReferenceSetError(f"shots is {count!r}; give a whole number of references per class, 1 or more")
        if count > max(self.counts.values()):
            enrolled = ", ".join(f"{number} {label}" for label, number in self.counts.items())
            raise ReferenceSetError(f"shots is {count}, but only {enrolled} are enrolled; ask for fewer or enrol more")
        if all(number <= count for number in self.counts.values()):
            return self
        taken: dict[str, int] = {}
        keep = []
        for index, label in enumerate(self.labels):
            taken[label] = taken.get(label, 0) + 1
            if taken[label] <= count:
                keep.append(index)
        return replace(
            self,
            names=tuple(self.names[i] for i in keep),
            labels=tuple(self.labels[i] for i in keep),
            groups=tuple(self.groups[i] for i in keep),
            bags=tuple(self.bags[i] for i in keep),
            shifts=tuple(self.shifts[i] for i in keep) if self.shifts else (),
        )

    @cached_property
    def _signatures(self) -> Tensor:
        scale = self.verifier.heads.scale
        return F.normalize(torch.stack([scale(bag.tokens).mean(0) for bag in self.bags]), dim=1)

    def nearest(self, mean_token: Tensor, count: int = 3) -> tuple[NearestReference, ...]:
        """Return the references whose mean standardised token points most nearly the same way as `mean_token` (C,)."""
        similarity = self._signatures @ F.normalize(mean_token, dim=0)
        order = similarity.argsort(descending=True)[:count].tolist()
        return tuple(NearestReference(self.names[i], self.labels[i], float(similarity[i])) for i in order)

    def to(self, device: torch.device) -> Enrolment:
        """Return the enrolment with its tensors on a device; on another one it learns anew, at first use."""
        if self.condition.device == device:
            return self
        bags = tuple(
            Bag(bag.tokens.to(device), bag.residual.to(device), None if bag.mark is None else bag.mark.to(device))
            for bag in self.bags
        )
        return replace(self, bags=bags, condition=self.condition.to(device))

    def save(self, folder: Path) -> None:
        """Write `enrolment.json` and `enrolment.safetensors` into a checkpoint folder."""
        from safetensors.torch import save_file

        tensors = {"condition": self.condition.cpu().contiguous()}
        for index, bag in enumerate(self.bags):
            tensors[f"tokens.{index}"] = bag.tokens.half().cpu().contiguous()
            tensors[f"residual.{index}"] = bag.residual.half().cpu().contiguous()
            if bag.mark is not None:
                tensors[f"mark.{index}"] = bag.mark.cpu().contiguous()
        learned, values = state.dump(self.verifier)
        for name, value in learned.items():
            exact = value.half().float().equal(value.float())  # half the size, where nothing is lost
            tensors[f"verifier.{name}"] = (value.half() if exact else value).cpu().contiguous()
        save_file(tensors, folder / "enrolment.safetensors")
        write_json(
            folder / "enrolment.json",
            {
                "format": FORMAT,
                "authentic": self.authentic,
                "builtin": self.builtin,
                "paths": list(self.paths),
                "references_sha256": self.references_sha256,
                "verifier": values,
                **({"shifts": list(self.shifts)} if self.shifts else {}),
                "references": [
                    {"name": name, "label": label, "group": group}
                    for name, label, group in zip(self.names, self.labels, self.groups, strict=True)
                ],
            },
        )

    @classmethod
    def load(cls, folder: Path) -> Enrolment | None:
        """Read the enrolment of a checkpoint folder; None where it has none.

        Raises:
            CheckpointError: its files are damaged or of another format.
        """
        if not (folder / "enrolment.json").exists():
            return None
        described: dict[str, Any] = read_json(folder / "enrolment.json")
        if described.get("format") != FORMAT:
            raise CheckpointError(
                f"{folder / 'enrolment.json'}: format {described.get('format')!r:.80}, but this version reads "
                f"{FORMAT!r}; enrol the references again"
            )
        tensors = read_tensors(folder / "enrolment.safetensors")
        try:
            references = described["references"]
            enrolment = cls(
                authentic=str(described["authentic"]),
                names=tuple(str(reference["name"]) for reference in references),
                labels=tuple(str(reference["label"]) for reference in references),
                groups=tuple(str(reference["group"]) for reference in references),
                paths=tuple(int(channels) for channels in described["paths"]),
                bags=tuple(
                    Bag(tensors[f"tokens.{i}"], tensors[f"residual.{i}"], tensors.get(f"mark.{i}"))
                    for i in range(len(references))
                ),
                condition=tensors["condition"],
                references_sha256=str(described["references_sha256"]),
                builtin=bool(described["builtin"]),
                shifts=tuple(float(shift) for shift in described.get("shifts", ())),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{folder}: its enrolment is incomplete ({error!r:.300}); enrol the references again"
            ) from error
        if fault := enrolment._fault():
            raise CheckpointError(
                f"{folder}: its enrolment does not hold together ({fault}); enrol the references again"
            )
        learned = {k.removeprefix("verifier."): v for k, v in tensors.items() if k.startswith("verifier.")}
        try:
            verifier = state.load(learned, described["verifier"])
            _check_learned(verifier, learned, enrolment.bags[0])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder}: what it learned cannot be used ({error!r:.300}); enrol the references again"
            ) from error
        enrolment.__dict__["verifier"] = verifier  # in the place of the cached property
        return enrolment

    def _fault(self) -> str | None:
        """Say what keeps a stored enrolment from being learned from."""
        if self.authentic not in self.labels:
            return f"no reference is of the authentic class {self.authentic!r}"
        if self.condition.ndim != 2 or not self.condition.is_floating_point():
            return f"the condition has shape {tuple(self.condition.shape)} and is of {self.condition.dtype}"
        if not self.condition.isfinite().all():
            return "the condition is not finite"
        if self.shifts and not (len(self.shifts) == len(self.names) and np.isfinite(self.shifts).all()):
            return "the shifts of its references are not one finite number for each"
        width = self.bags[0].tokens.shape[-1:], self.bags[0].residual.shape[-1:]
        if not self.paths or min(self.paths) < 1 or (sum(self.paths),) != tuple(width[0]):
            return f"its tokens have {width[0]} channels and its paths {self.paths}"
        for name, bag in zip(self.names, self.bags, strict=True):
            count = bag.tokens.shape[:1]
            mark = torch.zeros(count, dtype=torch.bool) if bag.mark is None else bag.mark
            shapes = bag.tokens.ndim, bag.residual.shape[:-1], mark.shape, mark.dtype
            if not (bag.tokens.is_floating_point() and bag.residual.is_floating_point()):
                return f"the tokens of {name} are of {bag.tokens.dtype} and {bag.residual.dtype}"
            if shapes != (2, count, count, torch.bool) or (bag.tokens.shape[1:], bag.residual.shape[1:]) != width:
                return f"the tensors of {name} do not fit each other"
            if not (len(bag.tokens) and bag.tokens.isfinite().all() and bag.residual.isfinite().all()):
                return f"the tokens of {name} are none or not finite"
        return None


def _check_learned(verifier: Verifier, learned: dict[str, Tensor], bag: Bag) -> None:
    """Go through all steps of a verdict on a token of a reference.

    Raises:
        ValueError: a number in what was learned, or one that comes of it, is not finite, or parts do not fit; or any
            other error of arithmetic, type or shape that they cause.
    """
    if not all(value.is_floating_point() and value.isfinite().all() for value in learned.values()):
        raise ValueError("its coefficients are not finite numbers")
    tokens, residual = bag.tokens[:1], bag.residual[:1]
    maps = verifier.heads.maps(tokens, residual)
    evidence = verifier.evidence(maps)
    if any(values.shape != (1,) for values in (evidence, *maps.values())) or not evidence.isfinite().all():
        raise ValueError("its evidence is not finite, or not one value a token")
    scaled = verifier.heads.scale(tokens)
    strange = verifier.scope.distances(scaled)
    if strange.shape != (1,) or not (strange.isfinite().all() and np.isfinite(verifier.scope.limit)):
        raise ValueError("its scope is not finite")
    fused, parts = verifier.fused(maps)
    numbers = [fused, *parts.values(), verifier.calibration.log_odds(fused), verifier.region_threshold]
    if not np.isfinite([*numbers, *verifier.inside, *verifier.outside]).all():
        raise ValueError("its scores are not finite")
    classes, texts = verifier.classes, (*verifier.classes.names, verifier.classes.authentic, *verifier.warnings)
    if classes.prototypes.shape != (len(classes.names), tokens.shape[1]):
        raise ValueError(f"it has {len(classes.names)} other classes and prototypes {tuple(classes.prototypes.shape)}")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("its names and warnings are not texts")
