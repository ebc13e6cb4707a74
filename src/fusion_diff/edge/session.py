"""Inspection of micrographs with an exported model, which gives the verdicts of the original model."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.checkpoint import as_folder, verify
from fusion_diff.counted import counted
from fusion_diff.edge.evidence import EdgeEvidence
from fusion_diff.edge.exported import DESCRIPTION, GRAPHS, Exported
from fusion_diff.edge.runtime import open_graph
from fusion_diff.errors import ArgumentError, CheckpointError
from fusion_diff.fewshot.decision import check_alpha, probability
from fusion_diff.home import at_home, is_file, is_folder
from fusion_diff.micrograph.micrograph import expect_micrograph, several
from fusion_diff.verdict.concluding import conclude, predict
from fusion_diff.verdict.result import NEAREST, NearestReference
from fusion_diff.warn import warn, warn_of_builtin_references

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from fusion_diff.edge.runtime import Runtime
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.verdict.result import Inspection

BATCH = 1
"""Tiles computed at once. More cost memory and save no time on a CPU (docs/performance.md); a GPU may profit."""


def is_exported(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder is an exported model."""
    return is_file(at_home(folder) / DESCRIPTION)


class EdgeSession:
    """Verifies micrographs with an exported model. Create one with `load`.

    Attributes:
        name: name of the model that was exported.
        sha256: digest of this export, which differs from that of the model and from those of its other exports; the
            model's is `enrolment.exported_from`. Empty if the session was not loaded from a folder.
        enrolment: the exported part of the enrolment.
        device: device that the graph runs on, as named by the runtime.
    """

    def __init__(self, exported: Exported, graph: Runtime, batch: int = BATCH, sha256: str = "") -> None:
        self.enrolment = exported
        self.name = exported.name
        self.sha256 = sha256
        self.device = graph.device
        self._graph = graph
        self._batch = batch

    def __repr__(self) -> str:
        """Return the name of the model and the device."""
        return f"EdgeSession({self.name!r}, on {self.device})"

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, device: str = "AUTO", threads: int | None = None, batch: int = BATCH
    ) -> EdgeSession:
        """Load an exported model, after checking every file against its manifest.

        Args:
            folder: folder written by `fusion-diff export`.
            device: `AUTO`, `CPU`, `GPU`, `NPU`, or a device name of the runtime: an execution provider of onnxruntime
                such as `CUDAExecutionProvider`, or a device of OpenVINO such as `GPU.1` or `AUTO:GPU,CPU`.
            threads: number of threads on a CPU; the runtime's default if omitted.
            batch: tiles computed at once.

        Raises:
            CheckpointError: there is no such folder, or it is not an exported model, or one that is incomplete,
                altered or of another version, or whose graph is that of another export.
            DependencyError: the runtime of the exported model is not installed.
            DeviceError: the device is not available.
            ArgumentError: `threads` or `batch` is not an integer of at least 1.

        Warns:
            UserWarning: something that the model has is missing in the exported one, so that verdicts may differ.
        """
        folder = as_folder(folder)
        if not is_exported(folder):
            what = "not an exported model" if is_folder(folder) or is_file(folder) else "does not exist"
            raise CheckpointError(f"{folder}: {what}; give a folder written by `fusion-diff export`")
        for name, number in (("batch", batch), ("threads", 1 if threads is None else threads)):
            if not isinstance(number, Integral) or number < 1:
                raise ArgumentError(f"{name} is {number!r:.40}; give an integer of at least 1")
        sha256 = verify(folder)
        exported = Exported.read(folder)
        for note in exported.notes:
            warn(f"{exported.name}: {note}")
        graph = open_graph(folder, exported.runtime, device, threads)
        _expect_described(folder / GRAPHS[exported.runtime], graph, exported)
        return cls(exported, graph, batch, sha256)

    def inspect(self, micrograph: Micrograph, *, alpha: float = 0.1) -> Inspection:
        """Return the verdict on a micrograph, as `DiffusionModel.inspect` does.

        Args:
            micrograph: any size; very large ones are read and judged tile by tile.
            alpha: error rate of the decision on each side, in (0, 1).

        Raises:
            ArgumentError: `alpha` does not lie between 0 and 1.
            MicrographError: this is not a micrograph.
            CheckpointError: the graph cannot be run, or its outputs are not valid.
        """
        alpha = check_alpha(alpha)
        if self.enrolment.builtin:
            warn_of_builtin_references(exported=True)
        return self.judge(micrograph, alpha=alpha)

    def judge(self, micrograph: Micrograph, *, alpha: float) -> Inspection:
        """Return the verdict on a micrograph, without the warning about built-in references; see `inspect`.

        Raises:
            MicrographError: this is not a micrograph.
            CheckpointError: the graph cannot be run, or its outputs are not valid.
        """
        exported = self.enrolment
        started = time.perf_counter()
        found = self._read(micrograph)
        it = conclude(
            micrograph,
            exported,
            found,
            alpha=alpha,
            model_name=self.name,
            model_sha256=self.sha256,
            predicted_class=exported.predict(found.products.tolist(), probability(found.log_odds)),
            nearest=tuple(
                NearestReference(exported.references[i], exported.labels[i], float(found.similarity[i]))
                for i in np.argsort(-found.similarity, kind="stable")[:NEAREST].tolist()
            ),
        )
        return replace(it, reasons=(*it.reasons, *exported.notes), seconds=time.perf_counter() - started)

    def predict_authenticity(
        self, sample: Micrograph | Iterable[Micrograph], shots: int | None = None
    ) -> np.float32 | NDArray[np.float32]:
        """Return the probability of being authentic, as `DiffusionModel.predict_authenticity` does.

        Args:
            sample: a micrograph, or any iterable of several.
            shots: a number of references per class that takes them all, since nothing is learned here of fewer.

        Returns:
            A float32 number in [0, 1] for one micrograph, (B,) float32 for several.

        Raises:
            ArgumentError: `shots` would leave references out, or is no whole number.
            MicrographError: this is not a micrograph.
            CheckpointError: the graph cannot be run, or its outputs are not valid.

        Warns:
            UserWarning: the references are the built-in procedural ones; no class has as many as `shots`; or a
                micrograph is out of scope, so that its score is meaningless.
        """
        self._expect_all(shots)
        if self.enrolment.builtin:
            warn_of_builtin_references(exported=True)
        micrographs, single = several(sample)
        scores = [
            predict(each, self.enrolment, self._read(each), None if single else index)
            for index, each in enumerate(micrographs)
        ]
        return np.float32(scores[0]) if single else np.asarray(scores, dtype=np.float32)

    def _expect_all(self, shots: int | None) -> None:
        """Check that so many shots are all the references."""
        if shots is None:
            return
        most = max(Counter(self.enrolment.labels).values())
        if not isinstance(shots, Integral) or shots < most:
            raise ArgumentError(
                f"shots is {shots!r:.40}, but an exported model has learned from {counted(most, 'reference')} of a "
                "class and learns from no fewer; leave shots out, or use the model that was exported"
            )
        if shots > most:
            warn(f"shots is {shots}, but no class has more than {counted(most, 'reference')} enrolled; all are used")

    def _read(self, micrograph: Micrograph) -> EdgeEvidence:
        expect_micrograph(micrograph)
        return EdgeEvidence.of(micrograph, self._graph, self.enrolment, self._batch)


def _expect_described(file: Path, graph: Runtime, exported: Exported) -> None:
    """Check that a graph has the inputs and outputs that its description speaks of, as far as it tells their sizes.

    Raises:
        CheckpointError: it has others.
    """
    for name, described in exported.shapes.items():
        found = graph.shapes[name]
        if len(found) != len(described) or any(
            None not in sizes and sizes[0] != sizes[1] for sizes in zip(found, described, strict=True)
        ):
            here, there = (str(sizes).replace("None", "any") for sizes in (found, described))
            raise CheckpointError(
                f"{file}: its {name} are {here}, but {there} by {DESCRIPTION}: the graph is that of another export; "
                "export the model again"
            )
