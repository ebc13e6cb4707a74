"""`fusion-diff demo`: enrol and inspect procedural ceramics, from TIFF files to a report, with the truth beside."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion_diff.checkpoint import EMBEDDED
from fusion_diff.commands.options import Device, load_model, path_option
from fusion_diff.commands.outputs import expect_folder
from fusion_diff.commands.terminal import print_learned, print_outcomes, progress_bar, say
from fusion_diff.counted import counted
from fusion_diff.printable import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.inspection.run import Outcome

ALPHA = 0.2
"""Error rate of the demo's decisions. Five references per class can just reach it: their smallest p-value is 1/6."""

SAMPLES_PER_CLASS = 5
"""Number of unseen micrographs of each class that the demo inspects."""


def demo_command(
    out: Annotated[
        Path, path_option(metavar="DIR", file_okay=False, help="Folder for the images and the report.")
    ] = Path("report/demo"),
    shots: Annotated[int, typer.Option(min=1, max=25, metavar="K", help="References per class.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the procedural ceramics.")] = 0,
    device: Device = "cpu",
) -> int:
    """Enrol a few procedural ceramics, inspect unseen ones, and write the report."""
    from fusion_diff.inspection.record import RecordWriter
    from fusion_diff.inspection.report import write_report
    from fusion_diff.inspection.run import inspect_paths
    from fusion_diff.references import ReferenceSet
    from fusion_diff.synthetic import (
        BUILTIN_AUTHENTIC,
        builtin_references,
        builtin_samples,
        write_marks,
        write_micrographs,
    )

    expect_folder("--out", out)
    drawn, labels = builtin_references(shots, lot=seed)
    files = write_micrographs(drawn, labels, out / "references")
    table = out / "references.csv"  # lists only these files, whatever an earlier demo left in the folder
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "label", "group", "mark"))
        for path, label, mark in zip(files, labels, write_marks(drawn, files), strict=True):
            specimen = f"specimen of {path.stem}"  # each image is its own specimen
            writer.writerow((path.relative_to(out), label, specimen, mark.relative_to(out) if mark else ""))
    drawn, truths = builtin_samples(SAMPLES_PER_CLASS, lot=seed)
    files = write_micrographs(drawn, truths, out / "micrographs")

    model = load_model(EMBEDDED, device)
    with progress_bar("Enrolling") as advance:
        references = ReferenceSet.from_csv(table, authentic=BUILTIN_AUTHENTIC)
        enrolment = model.enroll(references, reconstruction=True, progress=advance)
    print_learned(f"Cross-fitted on {counted(shots, 'reference')} per class", enrolment)
    for warning in enrolment.warnings(ALPHA):
        say(f"Note: {warning}")
    outcomes = []
    with RecordWriter(out / "inspections.jsonl") as record, progress_bar("Inspecting") as advance:
        for outcome in inspect_paths(model, files, alpha=ALPHA, progress=advance):
            outcomes.append(outcome)
            record.write(outcome)
    print_outcomes(outcomes, truths)
    say(f"Decisions at alpha {ALPHA:g}.")
    say(_against_the_truth(outcomes, truths, BUILTIN_AUTHENTIC))
    page = write_report(outcomes, out, title=f"Demonstration on procedural ceramics, lot {seed}")
    say(f"Report: {page}")
    say(
        f"To keep this model: fusion-diff enroll {quoted(table)} --authentic {BUILTIN_AUTHENTIC} "
        "--reconstruction --out MODEL"
    )
    return 0


def _against_the_truth(outcomes: Sequence[Outcome], truths: Sequence[str], authentic: str) -> str:
    decisions = [
        (o.inspection.decision, truth == authentic) for o, truth in zip(outcomes, truths, strict=True) if o.inspection
    ]
    open_ = sum(decision == "inconclusive" for decision, _ in decisions)
    right = sum(decision == ("authentic" if is_authentic else "not authentic") for decision, is_authentic in decisions)
    return f"Compared with the truth: {right} right, {len(decisions) - right - open_} wrong, {open_} inconclusive."
