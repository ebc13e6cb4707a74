"""Files of a stored enrolment. Their contents are untrusted and checked before use."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fusion_diff.checkpoint import bounded_size, read_json, write_json
from fusion_diff.diffusion.reconstruction import CHANNELS
from fusion_diff.enrolment.enrolment import Enrolment
from fusion_diff.errors import CheckpointError
from fusion_diff.fewshot import state
from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.correspondence import Correspondence
from fusion_diff.fewshot.decision import shares_of
from fusion_diff.fewshot.fusion import check_difference
from fusion_diff.fewshot.keypoints import MAX_KEYPOINTS, WIDTH, Keypoints
from fusion_diff.fewshot.readings import UnregisteredError
from fusion_diff.micrograph.ifd import MAX_PAGES
from fusion_diff.references import MAX_REFERENCES
from fusion_diff.verdict.compared import stored_pixel_size
from fusion_diff.weights import read_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from fusion_diff.encoder.dual_path import DualPathEncoder
    from fusion_diff.encoder.flaw_detector import FlawDetector
    from fusion_diff.fewshot.verifier import Verifier

FORMAT = "fusion-diff/enrolment/7"
INCOMPLETE = "its enrolment is incomplete"
UNUSABLE = "its fitted coefficients cannot be used"


def save_enrolment(enrolment: Enrolment, folder: Path) -> None:
    """Write `enrolment.json` and `enrolment.safetensors` into a checkpoint folder."""
    from safetensors.torch import save_file

    tensors = {"condition": enrolment.condition.cpu().contiguous()}
    for index, bag in enumerate(enrolment.bags):
        tensors[f"tokens.{index}"] = bag.tokens.half().cpu().contiguous()
        tensors[f"residual.{index}"] = bag.residual.half().cpu().contiguous()
        if bag.mark is not None:
            tensors[f"mark.{index}"] = bag.mark.cpu().contiguous()
        if bag.keypoints is not None:
            tensors[f"points.{index}"] = torch.from_numpy(bag.keypoints.points)
            tensors[f"descriptors.{index}"] = torch.from_numpy(bag.keypoints.descriptors)
    learned, values = state.dump(enrolment.verifier)
    for name, value in learned.items():
        exact = value.half().float().equal(value.float())  # half the size, where that is lossless
        tensors[f"verifier.{name}"] = (value.half() if exact else value).cpu().contiguous()
    save_file(tensors, folder / "enrolment.safetensors")
    write_json(
        folder / "enrolment.json",
        {
            "format": FORMAT,
            "authentic": enrolment.authentic,
            "builtin": enrolment.builtin,
            "paths": list(enrolment.paths),
            "references_sha256": enrolment.references_sha256,
            "verifier": values,
            **({"shifts": list(enrolment.shifts)} if enrolment.shifts else {}),
            **({"dropped": enrolment.dropped} if enrolment.dropped else {}),
            **({"difference": enrolment.difference} if enrolment.difference != "any" else {}),
            "references": [
                {"name": name, "label": label, "group": group}
                | ({} if size is None else {"pixel_size_um": size})
                | ({} if digest is None else {"sha256": digest})
                | ({} if page is None else {"page": page})
                | ({} if enlarged == 1 else {"enlarged": enlarged})
                for name, label, group, size, (digest, page), enlarged in zip(
                    enrolment.names,
                    enrolment.labels,
                    enrolment.groups,
                    enrolment.pixel_sizes_um,
                    enrolment.files,
                    enrolment.enlargements or (1.0,) * len(enrolment.names),
                    strict=True,
                )
            ],
        },
    )


def load_enrolment(folder: Path, encoder: DualPathEncoder, detector: FlawDetector | None = None) -> Enrolment | None:
    """Read the enrolment of a checkpoint folder, for the model's encoder and detector; None where there is none.

    Raises:
        CheckpointError: its files are damaged, have another format, belong to another encoder, or have a head that is
            not known here.
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
    learned = {k.removeprefix("verifier."): v for k, v in tensors.items() if k.startswith("verifier.")}
    with _told(folder, INCOMPLETE):
        references = described["references"]
        authentic, labels = str(described["authentic"]), tuple(str(reference["label"]) for reference in references)
        groups = tuple(str(reference["group"]) for reference in references)
        grouped = list(zip(groups, labels, strict=True))
        keypoints = [_keypoints(tensors, i) for i in range(len(references))]
        correspondence = _correspondence(keypoints, labels, authentic)
    with _told(folder, UNUSABLE):
        values = described["verifier"]
        verifier = state.load(
            learned,
            values,
            inside_shares=_shares(values["inside"], [g for g, label in grouped if label == authentic]),
            outside_shares=_shares(values["outside"], [g for g, label in grouped if label != authentic]),
            correspondence=correspondence,
        )
    with _told(folder, INCOMPLETE):
        enrolment = Enrolment(
            authentic=authentic,
            names=tuple(str(reference["name"]) for reference in references),
            labels=labels,
            groups=groups,
            paths=tuple(int(channels) for channels in described["paths"]),
            bags=tuple(
                Bag(tensors[f"tokens.{i}"], tensors[f"residual.{i}"], tensors.get(f"mark.{i}"), keypoints=found)
                for i, found in enumerate(keypoints)
            ),
            condition=tensors["condition"],
            references_sha256=str(described["references_sha256"]),
            verifier=verifier,
            detector=detector,
            builtin=bool(described["builtin"]),
            shifts=tuple(float(shift) for shift in described.get("shifts", ())),
            pixel_sizes_um=tuple(stored_pixel_size(reference.get("pixel_size_um")) for reference in references),
            digests=tuple(str(reference["sha256"]) for reference in references if "sha256" in reference),
            dropped=bounded_size("dropped", described.get("dropped", 0), MAX_REFERENCES, least=0),
            difference=check_difference(described.get("difference", "any")),
            pages=tuple(
                None if page is None else bounded_size("page", page, MAX_PAGES - 1, least=0)
                for page in (reference.get("page") for reference in references)
            ),
            enlargements=tuple(float(reference.get("enlarged", 1.0)) for reference in references),
        )
    if fault := _fault(enrolment) or _misfit(enrolment, encoder):
        raise CheckpointError(f"{folder}: its enrolment is inconsistent ({fault}); enrol the references again")
    with _told(folder, UNUSABLE):
        _check_learned(enrolment.verifier, learned, enrolment.bags[0])
    return enrolment


@contextmanager
def _told(folder: Path, fault: str) -> Iterator[None]:
    """Turn the many errors that damaged values cause into one that names the fault.

    Raises:
        CheckpointError: the block failed.
    """
    try:
        yield
    except UnregisteredError as error:
        raise CheckpointError(f"{folder}: {error}, or enrol the references again without it") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: {fault} ({error!r:.300}); enrol the references again") from error


def _correspondence(
    keypoints: Sequence[Keypoints | None], labels: Sequence[str], authentic: str
) -> Correspondence | None:
    """Return the correspondence evidence of a stored enrolment; None where it has no keypoints."""
    surfaces = tuple(found for found in keypoints if found is not None)
    return Correspondence(surfaces, np.asarray([label == authentic for label in labels])) if surfaces else None


def _shares(scores: Sequence[float], groups: Sequence[str]) -> NDArray[np.float64]:
    """Return the weights of the references of one side; empty where there were too few to cross-fit."""
    return shares_of(groups) if len(scores) else np.zeros(0)


def _fault(enrolment: Enrolment) -> str | None:
    """Return why a stored enrolment is inconsistent; None where it is consistent."""
    if enrolment.authentic not in enrolment.labels:
        return f"no reference has the authentic class {enrolment.authentic!r}"
    if enrolment.condition.ndim != 2 or not enrolment.condition.is_floating_point():
        return f"the condition has shape {tuple(enrolment.condition.shape)} and dtype {enrolment.condition.dtype}"
    if not enrolment.condition.isfinite().all():
        return "the condition is not finite"
    if enrolment.shifts and not (len(enrolment.shifts) == len(enrolment.names) and np.isfinite(enrolment.shifts).all()):
        return "it does not have one finite shift per reference"
    if len(enrolment.digests) not in (0, len(enrolment.names)):
        return "some of its references have a digest and some do not"
    if not all(1 <= each < np.inf for each in enrolment.enlargements):
        return "a reference is not enlarged by a finite number of 1 or more"
    width = enrolment.bags[0].tokens.shape[-1:], enrolment.bags[0].residual.shape[-1:]
    if not enrolment.paths or min(enrolment.paths) < 1 or (sum(enrolment.paths),) != tuple(width[0]):
        return f"its tokens have {width[0]} channels, but its paths {enrolment.paths}"
    if len({bag.keypoints is None for bag in enrolment.bags}) > 1:
        return "some of its references have keypoints and some do not"
    for name, bag in zip(enrolment.names, enrolment.bags, strict=True):
        count = bag.tokens.shape[:1]
        mark = torch.zeros(count, dtype=torch.bool) if bag.mark is None else bag.mark
        shapes = bag.tokens.ndim, bag.residual.shape[:-1], mark.shape, mark.dtype
        if not (bag.tokens.is_floating_point() and bag.residual.is_floating_point()):
            return f"the tokens of {name} have the dtypes {bag.tokens.dtype} and {bag.residual.dtype}"
        if shapes != (2, count, count, torch.bool) or (bag.tokens.shape[1:], bag.residual.shape[1:]) != width:
            return f"the tensors of {name} have inconsistent shapes or dtypes"
        if not (len(bag.tokens) and bag.tokens.isfinite().all() and bag.residual.isfinite().all()):
            return f"the tokens of {name} are missing or not finite"
    return None


def _misfit(enrolment: Enrolment, encoder: DualPathEncoder) -> str | None:
    """Return why a stored enrolment does not fit this encoder; None where it fits."""
    if enrolment.paths != encoder.paths:
        return f"its tokens have {enrolment.paths} channels, but the encoder's have {encoder.paths}"
    words = encoder.condition_tokens, encoder.condition_width
    if tuple(enrolment.condition.shape) != words:
        return f"its condition has shape {tuple(enrolment.condition.shape)}, but the encoder's has {words}"
    if (residual := enrolment.bags[0].residual.shape[1]) not in (0, CHANNELS):
        return f"its residuals have {residual} channels, but the diffusion path's have {CHANNELS}"
    return None


def _keypoints(tensors: dict[str, Tensor], index: int) -> Keypoints | None:
    """Return the stored keypoints of a reference; None where it has none.

    Raises:
        KeyError: one of their two tensors is missing.
        ValueError: the tensors are not keypoints.
    """
    if f"points.{index}" not in tensors and f"descriptors.{index}" not in tensors:
        return None
    points, descriptors = tensors[f"points.{index}"], tensors[f"descriptors.{index}"]
    count = min(len(points), MAX_KEYPOINTS)
    shapes = points.shape, points.dtype, descriptors.shape, descriptors.dtype
    if shapes != ((count, 2), torch.float32, (count, WIDTH), torch.uint8) or not points.isfinite().all():
        raise ValueError(f"reference {index} has keypoints {shapes}")
    return Keypoints(points.numpy(), descriptors.numpy())


def _check_learned(verifier: Verifier, learned: dict[str, Tensor], bag: Bag) -> None:
    """Check what was learned by computing all steps of a verdict on one token of a reference.

    Raises:
        ValueError: a coefficient or a result is not finite, or shapes do not fit. Damaged values may cause any other
            error of arithmetic, type or shape too.
    """
    if not all(value.is_floating_point() and value.isfinite().all() for value in learned.values()):
        raise ValueError("its coefficients are not finite numbers")
    tokens, residual = bag.tokens[:1], bag.residual[:1]
    maps = verifier.heads.maps(tokens, residual)
    evidence = verifier.evidence(maps)
    if any(values.shape != (1,) for values in (evidence, *maps.values())) or not evidence.isfinite().all():
        raise ValueError("its evidence is not finite, or not one value per token")
    scaled = verifier.heads.scale(tokens)
    strange = verifier.scope.distances(scaled)
    if strange.shape != (1,) or not (strange.isfinite().all() and np.isfinite(verifier.scope.limit)):
        raise ValueError("its scope is not finite")
    fused, parts = verifier.fused(maps)
    numbers = [fused, *parts.values(), verifier.calibration.log_odds(fused), verifier.region_threshold]
    if [len(verifier.inside), len(verifier.outside)] != [len(verifier.inside_shares), len(verifier.outside_shares)]:
        raise ValueError("the number of its scores does not match its references")
    if len(verifier.against) != len(verifier.inside) + len(verifier.outside):
        raise ValueError("not every reference that has a score has one against its label")
    if not np.isfinite([*numbers, *verifier.inside, *verifier.outside, *verifier.against]).all():
        raise ValueError("its scores are not finite")
    if not (verifier.fusion.holds and verifier.calibration.slope > 0):
        raise ValueError("its evidence has the wrong sign or no weight")
    classes, texts = verifier.classes, (*verifier.classes.names, verifier.classes.authentic, *verifier.warnings)
    if classes.prototypes.shape != (len(classes.names), tokens.shape[1]):
        raise ValueError(f"it has {len(classes.names)} other classes, but prototypes {tuple(classes.prototypes.shape)}")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("its class names and warnings are not all strings")
