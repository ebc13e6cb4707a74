"""A verifier as tensors and JSON values, so that a saved model is loaded without learning again."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.fewshot.bags import Scale
from fusion_diff.fewshot.classes import ClassHead
from fusion_diff.fewshot.decision import Calibration
from fusion_diff.fewshot.fusion import Fusion
from fusion_diff.fewshot.heads import Heads, known
from fusion_diff.fewshot.readings import UnregisteredError
from fusion_diff.fewshot.scope import Scope
from fusion_diff.fewshot.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from fusion_diff.fewshot.correspondence import Correspondence


def dump(verifier: Verifier) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a verifier's tensors by name, and everything else as JSON-ready values."""
    tensors = {
        "scale.mean": verifier.heads.scale.mean,
        "scale.std": verifier.heads.scale.std,
        "classes.prototypes": verifier.classes.prototypes,
        "scope.bank": verifier.scope.bank,
    }
    for name, head in verifier.heads.heads.items():
        tensors |= {f"{name}.{key}": value for key, value in head.state().items()}
    return tensors, {
        "heads": list(verifier.heads.heads),
        "fusion": asdict(verifier.fusion),
        "calibration": asdict(verifier.calibration),
        "inside": verifier.inside.tolist(),
        "outside": verifier.outside.tolist(),
        "classes": {"authentic": verifier.classes.authentic, "names": list(verifier.classes.names)},
        "scope_limit": verifier.scope.limit,
        "region_threshold": verifier.region_threshold,
        "warnings": list(verifier.warnings),
        "against": verifier.against.tolist(),
    }


def load(
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
    *,
    inside_shares: NDArray[np.float64],
    outside_shares: NDArray[np.float64],
    correspondence: Correspondence | None,
) -> Verifier:
    """Rebuild a verifier from the output of `dump` and from what follows from its references: shares and surfaces.

    Raises:
        KeyError: a tensor or value is missing.
        UnregisteredError: a head is not known here.
    """
    by_name = known()
    if unknown := [name for name in values["heads"] if name not in by_name]:
        raise UnregisteredError("head", unknown[0])
    heads = {
        name: by_name[name].from_state(
            {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        )
        for name in values["heads"]
    }
    return Verifier(
        heads=Heads(Scale(tensors["scale.mean"], tensors["scale.std"]), heads),
        fusion=Fusion(**values["fusion"]),
        calibration=Calibration(**values["calibration"]),
        inside=np.asarray(values["inside"], dtype=np.float64),
        outside=np.asarray(values["outside"], dtype=np.float64),
        inside_shares=inside_shares,
        outside_shares=outside_shares,
        classes=ClassHead(
            values["classes"]["authentic"], tuple(values["classes"]["names"]), tensors["classes.prototypes"]
        ),
        scope=Scope(tensors["scope.bank"], float(values["scope_limit"])),
        region_threshold=float(values["region_threshold"]),
        warnings=tuple(values["warnings"]),
        against=np.asarray(values["against"], dtype=np.float64),
        correspondence=correspondence,
    )


def on_device(verifier: Verifier, device: torch.device) -> Verifier:
    """Return a copy of a verifier with its tensors on a device."""
    tensors, values = dump(verifier)
    return load(
        {name: tensor.to(device) for name, tensor in tensors.items()},
        values,
        inside_shares=verifier.inside_shares,
        outside_shares=verifier.outside_shares,
        correspondence=verifier.correspondence,
    )
