"""Enrolments: `load_enrolment`, and a first use of what was loaded."""

from __future__ import annotations

import json
import random
import struct
from types import SimpleNamespace

import torch
from common import FOLDER, FindingError, bounded_memory
from structured import mutate_json, mutate_tensors

from fusion_diff.enrolment import Enrolment
from fusion_diff.enrolment.files import load_enrolment, save_enrolment
from fusion_diff.errors import CheckpointError
from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.verifier import Verifier

MAX_LEN = 2**16
_CHANNELS, _TOKENS = 6, 24
_ENCODER = SimpleNamespace(paths=(2, _CHANNELS - 2), condition_tokens=1, condition_width=4)


def _enrolment(labels: tuple[str, ...], *, marked: bool) -> Enrolment:
    generator = torch.Generator().manual_seed(len(labels))
    bags = []
    for label in labels:
        tokens = torch.randn(_TOKENS, _CHANNELS, generator=generator)
        mark = torch.arange(_TOKENS) < 4
        tokens[mark, 0] += 6 * (label != "sound")
        residual = torch.rand(_TOKENS, 2, generator=generator).half().float()
        bags.append(Bag(tokens.half().float(), residual, mark if marked and label != "sound" else None))
    groups, paths = tuple(map(str, range(len(labels)))), (2, _CHANNELS - 2)
    return Enrolment(
        authentic="sound",
        names=tuple(f"{label}/{index}.tif" for index, label in enumerate(labels)),
        labels=labels,
        groups=groups,
        paths=paths,
        bags=tuple(bags),
        condition=torch.ones(1, 4),
        references_sha256="ab" * 32,
        verifier=Verifier.fit(bags, labels, "sound", groups, paths),
        pixel_sizes_um=(None,) * len(labels),
    )


def _pack(described: bytes, tensors: bytes) -> bytes:
    return struct.pack("<I", len(described)) + described + tensors


def _unpack(data: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(data[:4], "little")
    return data[4 : 4 + length], data[4 + length :]


def seeds() -> list[bytes]:
    """Return enrolments: the length of `enrolment.json`, that file, and the tensors."""
    folder, found = FOLDER / "saved", []
    folder.mkdir(exist_ok=True)
    for labels, marked in ((("sound",) * 2 + ("crack",) * 2, True), (("sound",) * 3, False)):
        save_enrolment(_enrolment(labels, marked=marked), folder)
        described = json.dumps(json.loads((folder / "enrolment.json").read_bytes()))  # without the indentation
        found.append(_pack(described.encode(), (folder / "enrolment.safetensors").read_bytes()))
    return found


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change either file."""
    described, tensors = _unpack(data)
    if rng.random() < 0.5:
        return _pack(mutate_json(described, rng), tensors)
    return _pack(described, mutate_tensors(tensors, rng))


def check(data: bytes) -> None:
    """Load an enrolment: it is refused, or can be asked for all that an inspection asks."""
    folder = FOLDER / "enrolment"
    folder.mkdir(exist_ok=True)
    described, tensors = _unpack(data)
    (folder / "enrolment.json").write_bytes(described)
    (folder / "enrolment.safetensors").write_bytes(tensors)
    with bounded_memory():
        try:
            enrolment = load_enrolment(folder, _ENCODER)
        except CheckpointError as error:
            if str(folder) not in str(error) or len(str(error)) > 5000:
                raise FindingError(f"a refusal without the file's name, or endless: {str(error)[:300]}") from error
            return
        if enrolment is None:
            raise FindingError("an enrolment that is there was not seen")
        _use(enrolment)


def _use(enrolment: Enrolment) -> None:
    verifier = enrolment.verifier
    enrolment.warnings()
    bag = enrolment.bags[-1]
    maps = verifier.heads.maps(bag.tokens, bag.residual)
    fused, parts = verifier.fused(maps)
    values = [fused, *parts.values(), verifier.calibration.log_odds(fused), verifier.region_threshold]
    values += [*verifier.p_values(fused).values(), float(verifier.evidence(maps).sum())]
    if any(value != value for value in values):
        raise FindingError(f"a verdict that is not a number: {values}")
    scaled = verifier.heads.scale(bag.tokens)
    verifier.classes.predict(scaled[:4], 0.1)
    verifier.scope.distances(scaled)
    enrolment.nearest(scaled.mean(0))
