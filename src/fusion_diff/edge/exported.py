"""The description of an exported model: everything that a verdict needs in addition to the graph.

An exported model is a folder of

    manifest.json             sha256 of every other file, see `checkpoint`
    edge.json                 the description, read and written by this module
    graph.onnx                or graph.xml and graph.weights, for OpenVINO
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.checkpoint import bounded_size, read_json
from fusion_diff.errors import CheckpointError
from fusion_diff.fewshot.classes import forced_class
from fusion_diff.fewshot.decision import Calibration, DecisionRule
from fusion_diff.fewshot.fusion import Fusion
from fusion_diff.fewshot.readings import READINGS, UnregisteredError
from fusion_diff.printable import printable
from fusion_diff.verdict.compared import Compared, same_file, stored_pixel_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fusion_diff.micrograph import Micrograph

FORMAT = "fusion-diff/edge/7"
"""The format that is read and written. Raise it when readings change, since verdicts are made of them here."""
DESCRIPTION = "edge.json"
GRAPHS = {"onnx": "graph.onnx", "openvino": "graph.xml"}
"""The file of the graph, by runtime."""
WEIGHTS = "graph.weights"
"""Weights of OpenVINO's graph. Its usual suffix .bin is not allowed in checkpoints, because pickles use it."""
INPUTS = ("pixels", "keep")
OUTPUTS = ("dense", "sums", "alike")
EVIDENCE, STRANGENESS = "evidence", "strangeness"
MAX_TILE = 1024
MAX_NAMES = 100_000


@dataclass(frozen=True, eq=False)
class Exported(DecisionRule):
    """A verifier without its tensors, and the properties of the graph.

    Attributes:
        runtime: runtime of the graph, `onnx` or `openvino`.
        precision: `fp32` or `int8`.
        name: name of the model that was exported.
        exported_from: digest of the model that was exported.
        references_sha256: digest of the enrolled references.
        builtin: whether the references are the procedural ones of the embedded model.
        tile: side of a tile in working pixels.
        stride: working pixels per token.
        kinds: kinds of evidence, the first channels of the graph's dense output.
        fusion: weights of the readings.
        scope_limit: strangeness above which a micrograph is out of scope.
        authentic: the class being verified.
        classes: the other classes.
        class_norms: squared length of each other class's prototype.
        references: names of the references.
        labels: classes of the references.
        files: sha256 and page of the file of each reference, None where they are unknown or need not be told.
        notes: sentences that describe differences from the exported model.
        specimens: number of specimens of the references.
        specimens_by_side: number of them on each side, keyed as the p-values are.
        figures: cross-fitted `auroc` and `macro_f1` of the references.
        pixel_sizes_um: pixel size of each reference in µm, None if unknown.
        doubts: why the scores are not to be relied on, in sentences.
        enlargements: how far each reference was enlarged to a whole tile, at least 1; empty says 1 for each.
    """

    runtime: str
    precision: str
    name: str
    exported_from: str
    references_sha256: str
    builtin: bool
    tile: int
    stride: int
    kinds: tuple[str, ...]
    fusion: Fusion
    scope_limit: float
    authentic: str
    classes: tuple[str, ...]
    class_norms: tuple[float, ...]
    references: tuple[str, ...]
    labels: tuple[str, ...]
    files: tuple[tuple[str | None, int | None], ...]
    notes: tuple[str, ...]
    specimens: int
    specimens_by_side: dict[str, int]
    figures: dict[str, float]
    pixel_sizes_um: tuple[float | None, ...]
    doubts: tuple[str, ...]
    enlargements: tuple[float, ...] = ()

    @property
    def verifier(self) -> DecisionRule:
        """The object itself: an enrolment and its verifier are one here."""
        return self

    @cached_property
    def compared(self) -> Compared:
        """Summary of the references for verdicts."""
        return Compared.of(
            self.authentic,
            self.labels,
            specimens=self.specimens,
            figures=self.figures,
            pixel_sizes_um=self.pixel_sizes_um,
            specimens_by_side=self.specimens_by_side,
            doubts=self.doubts,
        )

    @property
    def side(self) -> int:
        """Tokens along the side of a tile."""
        return self.tile // self.stride

    @property
    def channels(self) -> int:
        """Number of channels of the graph's dense output: kinds, evidence, strangeness, and one per other class."""
        return len(self.kinds) + 2 + len(self.classes)

    @property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Sizes of the graph's inputs and outputs, None where they are free or not known here."""
        tokens = (self.side, self.side)
        return {
            "pixels": (None, 3, self.tile, self.tile),
            "keep": (None, *tokens),
            "dense": (None, self.channels, *tokens),
            "sums": (None, None),
            "alike": (None, len(self.references)),
        }

    def enrolled_as(self, micrograph: Micrograph) -> str | None:
        """Return the name of the reference whose file, and page of it, a micrograph is; None if it is none of them."""
        return same_file(self.references, self.files, micrograph)

    def predict(self, products: Sequence[float], score: float) -> str:
        """Return the class of a micrograph.

        Args:
            products: dot product of each class's prototype with the mean of the tokens of highest evidence.
            score: probability of being authentic.
        """
        # Squared distances up to a constant: the squared length of the mean token is the same for all classes.
        distances = np.asarray(self.class_norms) - 2 * np.asarray(products)
        return forced_class(score, self.authentic, self.classes, distances.tolist())

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, with the format version."""
        plain = {"format": FORMAT} | {key: getattr(self, key) for key in self.__dataclass_fields__}
        for key in ("fusion", "calibration"):
            plain[key] = asdict(plain[key])
        plain["files"] = [list(file) for file in self.files]
        return {
            k: v.tolist() if isinstance(v, np.ndarray) else list(v) if isinstance(v, tuple) else v
            for k, v in plain.items()
        }

    @classmethod
    def read(cls, folder: Path) -> Exported:
        """Read the description of an exported model from its folder.

        Raises:
            CheckpointError: it is missing, of another version, inconsistent, or of a reading not known here.
        """
        file = folder / DESCRIPTION
        plain = read_json(file)
        if plain.get("format") != FORMAT:
            raise CheckpointError(
                f"{file}: format {printable(repr(plain.get('format')), 80)}, but this version reads {FORMAT!r}; export "
                "the model again with this version, or use the version it was exported with"
            )
        try:
            return cls._parse(plain)
        except UnregisteredError as error:
            raise CheckpointError(f"{file}: {error}, or export the model again without it") from error
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{file}: damaged ({printable(repr(error), 300)}); export the model again") from error

    @classmethod
    def _parse(cls, plain: dict[str, Any]) -> Exported:
        kinds, classes = _names(plain["kinds"]), _names(plain["classes"])
        norms = tuple(_number(value) for value in _listed(plain["class_norms"]))
        references, labels = _names(plain["references"]), _names(plain["labels"])
        fusion = {
            key: {str(k): _number(v) for k, v in plain["fusion"][key].items()} for key in ("centre", "spread", "weight")
        }
        weighed = {name for name, weight in fusion["weight"].items() if weight > 0}
        texts = {key: _text(plain[key]) for key in ("name", "exported_from", "references_sha256", "authentic")}
        if plain["runtime"] not in GRAPHS or plain["precision"] not in ("fp32", "int8"):
            raise ValueError(f"unknown runtime {plain['runtime']!r:.40} or precision {plain['precision']!r:.40}")
        if len(norms) != len(classes) or len(references) != len(labels):
            raise ValueError("its lists of classes or references differ in length")
        sizes = tuple(stored_pixel_size(size) for size in _listed(plain["pixel_sizes_um"]))
        enlargements = tuple(_number(value) for value in _listed(plain.get("enlargements", [])))
        files = tuple(_file(file) for file in _listed(plain["files"]))
        if not len(sizes) == len(files) == len(references):
            raise ValueError("its lists of references, of their files and of their pixel sizes differ in length")
        if len(enlargements) not in (0, len(references)) or not all(each >= 1 for each in enlargements):
            raise ValueError("its references are not each enlarged by a number of 1 or more")
        calibration = Calibration(*(_number(plain["calibration"][key]) for key in ("slope", "intercept")))
        if unknown := sorted(weighed - set(READINGS)):
            raise UnregisteredError("reading", unknown[0])
        if not Fusion(**fusion).holds or not calibration.slope > 0:
            raise ValueError("its readings have no weight, or have the wrong sign")
        if not all(set(READINGS[name].kinds) & set(kinds) for name in weighed):
            raise ValueError("it lacks the evidence that its readings use")
        if not any(READINGS[name].dense for name in weighed):
            raise ValueError("none of its readings gives an evidence map")
        inside, outside = (_numbers(plain[side]) for side in ("inside", "outside"))
        shares = [_numbers(plain[name]) for name in ("inside_shares", "outside_shares")]
        if [len(each) for each in shares] != [len(inside), len(outside)] or any(
            ((each <= 0) | (each > 1)).any() for each in shares
        ):
            raise ValueError("it does not have one share in (0, 1] per reference")
        tile, stride = bounded_size("tile", plain["tile"], MAX_TILE), bounded_size("stride", plain["stride"], MAX_TILE)
        if tile % stride or tile // stride < 8:
            raise ValueError(f"its tiles of {tile} pixels cannot be divided into 8 or more tokens of {stride} a side")
        return cls(
            runtime=plain["runtime"],
            precision=plain["precision"],
            builtin=bool(plain["builtin"]),
            tile=tile,
            stride=stride,
            kinds=kinds,
            fusion=Fusion(**fusion),
            calibration=calibration,
            inside=inside,
            outside=outside,
            inside_shares=shares[0],
            outside_shares=shares[1],
            scope_limit=_number(plain["scope_limit"]),
            region_threshold=_number(plain["region_threshold"]),
            classes=classes,
            class_norms=norms,
            references=references,
            labels=labels,
            files=files,
            notes=_names(plain["notes"]),
            specimens=bounded_size("specimens", plain["specimens"], MAX_NAMES),
            specimens_by_side=_by_side(plain["specimens_by_side"]),
            figures={_text(name): _number(value) for name, value in plain["figures"].items()},
            pixel_sizes_um=sizes,
            doubts=_names(plain["doubts"]),
            enlargements=enlargements,
            **texts,
        )


def _by_side(value: object) -> dict[str, int]:
    sides = ("authentic", "not authentic")
    if not isinstance(value, dict) or value.keys() != set(sides):
        raise ValueError(f"specimens_by_side is {value!r:.80}, but must have one number for each side")
    if not all(type(count) is int and 0 <= count <= MAX_NAMES for count in value.values()):
        raise ValueError(f"specimens_by_side is {value!r:.80}, but must be whole numbers from 0 to {MAX_NAMES}")
    return {side: value[side] for side in sides}


def _file(value: object) -> tuple[str | None, int | None]:
    sha256, page = _listed(value)
    if page is not None and (type(page) is not int or page < 0):
        raise ValueError(f"{page!r:.40} is not a page")
    return None if sha256 is None else _text(sha256), page


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is not a finite number")
    return float(value)


def _numbers(value: object) -> NDArray[np.float64]:
    return np.asarray([_number(each) for each in _listed(value)], dtype=np.float64)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a string")
    return value


def _listed(value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise TypeError(f"{value!r:.40} is not a list of at most {MAX_NAMES} items")
    return value


def _names(value: object) -> tuple[str, ...]:
    return tuple(_text(each) for each in _listed(value))
