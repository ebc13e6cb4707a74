"""Exporting a model: write its graph, compare its verdicts with the model's, and keep it only if they agree."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fusion_diff.checkpoint import MANIFEST, Writer, as_folder, expect_free, write_json
from fusion_diff.devices import own_settings
from fusion_diff.edge.exported import DESCRIPTION, EVIDENCE, GRAPHS
from fusion_diff.edge.operators import foreign_operator
from fusion_diff.edge.runtime import open_graph
from fusion_diff.edge.session import EdgeSession, is_exported
from fusion_diff.errors import CheckpointError, ExportError
from fusion_diff.export.graph import ScoringGraph
from fusion_diff.export.int8 import Quantiser, choices, losses
from fusion_diff.export.onnx_file import convert_to_openvino, write_onnx
from fusion_diff.export.parity import Parity, supported_alpha
from fusion_diff.export.portable import describe, portable
from fusion_diff.home import is_file
from fusion_diff.judging import read, verdict
from fusion_diff.micrograph import Micrograph
from fusion_diff.perception import encode, surface
from fusion_diff.printable import printable
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusion_diff.enrolment import Enrolment
    from fusion_diff.model import DiffusionModel
    from fusion_diff.references import ReferenceSet
    from fusion_diff.verdict.result import Inspection

PROCEDURAL = 2
"""Procedural micrographs per class that an fp32 export is compared on if no references are given."""
ASKED = 8
"""Tokens of each enrolled reference that are looked for among those given. Half of them are enough: large micrographs
are sampled."""
NEAR = 0.01
"""Distance, relative to a token's length, within which another is the same, computed on another machine."""


@dataclass(frozen=True)
class Export:
    """The result of an export.

    Attributes:
        folder: folder of the exported model.
        parity: comparison with the model.
        exact: groups that stay in fp32 in an int8 export; empty for an fp32 export.
        losses: for each group, the change of the evidence, in log-odds, if it alone is quantised to 8 bits.
        notes: sentences that describe differences from the model.
        seconds: time that exporting took.
    """

    folder: Path
    parity: Parity
    exact: tuple[str, ...]
    losses: dict[str, float]
    notes: tuple[str, ...]
    seconds: float


@own_settings()
def export_model(
    model: DiffusionModel,
    folder: str | os.PathLike[str],
    *,
    runtime: str = "onnx",
    int8: bool = False,
    references: ReferenceSet | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Export:
    """Write a model with its enrolled references to a folder that `EdgeSession.load` reads.

    Args:
        model: the model, with enrolled references, on the CPU.
        folder: new or empty, or an exported model to replace.
        runtime: `onnx` or `openvino`.
        int8: compute products in 8 bits where this changes the evidence little.
        references: labelled micrographs to compare on, and to calibrate 8 bits with. Give those that are enrolled,
            because the model keeps no images. Without them, fp32 is compared on procedural micrographs.
        progress: called with the groups measured for 8 bits and their total.

    Raises:
        ExportError: the exported model does not agree with the model, its verdict cannot be exported, a head that a
            program has added computes with what exports do not hold, 8 bits are requested without the enrolled
            references, or the model is not on the CPU.
        EnrolmentError: no references are enrolled.
        DependencyError: a package that exporting needs is not installed.
        CheckpointError: the folder is no path, or holds something else.

    Warns:
        UserWarning: enrolled references are not among those given, so fp32 is compared on others; the model decides on
            none of the micrographs compared; or it recognises surfaces among them, which the exported model does not.
    """
    started, folder = time.perf_counter(), as_folder(folder)
    if int8 and references is None:
        raise ExportError(
            "8 bits are calibrated on the references' images, which a model does not contain; give them "
            "with --references, or as references in Python"
        )
    _expect_exportable(model, folder, runtime)
    enrolment, notes = portable(model)
    if references is not None:
        _expect_enrolled(model, enrolment, references, int8)
    micrographs, authentic = _compared_on(references)
    alpha = supported_alpha(enrolment.verifier)
    expected, recognising = _judged(model, enrolment, micrographs, alpha)
    graph = ScoringGraph(model.encoder, enrolment.verifier, enrolment.mean_tokens)
    exported = describe(
        model, enrolment, graph.kinds, runtime=runtime, precision="int8" if int8 else "fp32", notes=notes
    )
    lost: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="fusion-diff-") as temporary, Writer(folder) as draft:
        workshop = Path(temporary)
        plain = workshop / "plain.onnx"
        write_onnx(graph, plain)
        write_json(draft / DESCRIPTION, exported.to_dict())

        def compared(source: Path) -> Parity:
            _place(source, draft, runtime, enrolment)
            try:
                session = EdgeSession(exported, open_graph(draft, runtime, "CPU", None))
            except CheckpointError as error:
                raise ExportError(
                    f"the exported graph cannot be run: {error}. Install torch, onnxscript, onnxruntime and openvino "
                    "in the versions that constraints.txt names, and export again"
                ) from error
            found = [session.judge(each, alpha=alpha) for each in micrographs]
            return Parity.of(expected, found, [each.name for each in micrographs], authentic, recognising)

        if not int8:
            parity = compared(plain)
            parity.check("fp32", runtime)
            exact: tuple[str, ...] = ()
        else:
            _place(plain, draft, runtime, enrolment)  # what cannot be exported is refused before minutes are spent
            quantiser = Quantiser.of(plain, workshop / "ranges.json", micrographs, tile=exported.tile)
            lost = losses(quantiser, graph.channels.index(EVIDENCE), workshop, progress)
            parity, exact = _rounded(quantiser, lost, workshop / "rounded.onnx", compared, runtime)
    for doubt in parity.doubts:
        warn(f"{model.name}: {doubt}")
    return Export(folder, parity, exact, lost, notes, time.perf_counter() - started)


def _expect_exportable(model: DiffusionModel, folder: Path, runtime: str) -> None:
    """Check what can be checked before any work.

    Raises:
        ExportError: there is no such runtime, the model is not on the CPU, or the folder holds another model.
        CheckpointError: the folder holds something else.
    """
    if runtime not in tuple(GRAPHS):
        raise ExportError(f"runtime is {runtime!r}; use {' or '.join(GRAPHS)}")
    if model.device.type != "cpu":
        raise ExportError(f"{model.name}: it is on {model.device}; move it with to('cpu') and export it then")
    expect_free(folder)
    if is_file(folder / MANIFEST) and not is_exported(folder):
        raise ExportError(f"{folder}: contains a model that is not an exported one; choose another folder")


def _expect_allowed(graph: Path, runtime: str, enrolment: Enrolment) -> None:
    """Check that heads which a program has added compute with nothing that exports do not hold.

    Raises:
        ExportError: the graph holds something else, and there are such heads.
    """
    package, heads = __name__.partition(".")[0], enrolment.verifier.heads.heads
    added = [name for name, head in heads.items() if type(head).__module__.partition(".")[0] != package]
    if added and (foreign := foreign_operator(graph, runtime)) is not None:
        raise ExportError(
            f"not exported: {' or '.join(added)}, a head that is not built in, computes with {foreign}, which exports "
            "do not hold; write it with the operators of fusion_diff.edge.operators"
        )


def _expect_enrolled(model: DiffusionModel, enrolment: Enrolment, references: ReferenceSet, int8: bool) -> None:
    """Check that the enrolled references are among those given; in fp32 warn where they are not.

    Raises:
        ExportError: they are not, in 8 bits.
    """
    others = others_than_enrolled(model, enrolment, references)
    if others is not None and int8:
        raise ExportError(
            f"{model.name}: {others}; 8 bits are calibrated on these: give the references that it was enrolled with, "
            "or export in fp32"
        )
    if others is not None:
        warn(f"{model.name}: {others}; the exported model is compared with the model on other micrographs")


def others_than_enrolled(model: DiffusionModel, enrolment: Enrolment, references: ReferenceSet) -> str | None:
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


def _judged(
    model: DiffusionModel, enrolment: Enrolment, micrographs: Sequence[Micrograph], alpha: float
) -> tuple[list[Inspection], list[Inspection] | None]:
    """Return the model's verdicts by its exportable enrolment, and as it is if it recognises surfaces, else None."""
    whole, expected, recognising = model.enrolment, [], []
    for each in micrographs:
        found = read(model, enrolment, each)
        expected.append(verdict(model, enrolment, each, found, alpha))
        if whole is not None and whole is not enrolment:
            found = found.recognising(whole.verifier, surface(each))
            recognising.append(verdict(model, whole, each, found, alpha))
    return expected, recognising or None


def _rounded(
    quantiser: Quantiser, lost: dict[str, float], file: Path, compared: Callable[[Path], Parity], runtime: str
) -> tuple[Parity, tuple[str, ...]]:
    """Quantise as many groups as the check accepts; return the comparison and the groups left in fp32.

    Raises:
        ExportError: no choice of groups is accepted.
    """
    tries = choices(lost)
    if not tries:
        raise ExportError(
            "not exported: rounding any part to 8 bits moves the evidence by "
            f"{min(lost.values()):.2g} log-odds or more; export in fp32"
        )
    for groups in tries:
        quantiser.write(file, groups)
        parity = compared(file)
        if parity.fault("int8") is None:
            return parity, tuple(name for name in quantiser.groups if name not in groups)
    parity.check("int8", runtime)
    raise AssertionError("the last try had a fault")


def _place(source: Path, draft: Path, runtime: str, enrolment: Enrolment) -> None:
    """Write an ONNX graph into an exported folder, in the format of its runtime.

    Raises:
        ExportError: as `_expect_allowed` and `convert_to_openvino`.
    """
    if runtime == "onnx":
        (draft / GRAPHS["onnx"]).write_bytes(source.read_bytes())
    else:
        convert_to_openvino(source, draft / GRAPHS["openvino"])
    _expect_allowed(draft / GRAPHS[runtime], runtime, enrolment)


def _compared_on(references: ReferenceSet | None) -> tuple[Sequence[Micrograph], list[bool] | None]:
    """Return the micrographs to compare on, and whether each is authentic, if known."""
    if references is not None:
        return [each.micrograph for each in references], [each.label == references.authentic for each in references]
    from fusion_diff.synthetic import builtin_samples

    drawn = builtin_samples(PROCEDURAL)[0]
    return [
        Micrograph.from_array(each.pixels, pixel_size_um=each.pixel_size_um, name=f"procedural {index}")
        for index, each in enumerate(drawn)
    ], None
