"""`fusion-diff enroll`: learn from a few labelled micrographs, and save the model."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion_diff.checkpoint import EMBEDDED, EMBEDDED_EDGE, expect_free
from fusion_diff.commands.options import (
    Device,
    Groups,
    Marks,
    MaxPixels,
    Page,
    PixelSize,
    RequireSigned,
    TrustedKeys,
    keys_for,
    load_model,
    path_option,
    read_references,
    signed_files,
)
from fusion_diff.commands.outputs import expect_away, expect_folder, model_there
from fusion_diff.commands.stopping import stoppable
from fusion_diff.commands.terminal import print_figures, print_learned, progress_bar, say
from fusion_diff.errors import CheckpointError, EnrolmentError
from fusion_diff.printable import paragraph, printable, quoted

if TYPE_CHECKING:
    from fusion_diff.enrolment import Enrolment
    from fusion_diff.references import ReferenceSet


class SetApart(StrEnum):
    """What sets the classes apart; see `fewshot.fusion.Difference`, which is not imported for `--help` alone."""

    ANY = "any"
    WHOLE = "whole"


@stoppable
def enroll_command(
    references: Annotated[
        Path,
        typer.Argument(
            metavar="REFS",
            help=(
                "A folder with one sub-folder per class, or a CSV file with the columns file and label and, "
                "optionally, group, mark and pixel_size_um."
            ),
        ),
    ],
    authentic: Annotated[str, typer.Option(metavar="NAME", help="Name of the authentic class.")],
    out: Annotated[Path, path_option(metavar="MODEL", help="Folder to save the enrolled model in.")],
    base: Annotated[
        str, typer.Option(help=f"Model to start from: a name, a folder or a hub id. {EMBEDDED_EDGE} is faster.")
    ] = EMBEDDED,
    groups: Groups = None,
    marks: Marks = None,
    difference: Annotated[
        SetApart,
        typer.Option(
            help=(
                "What sets the classes apart: `whole` if the whole material differs, as by grain size, porosity, "
                "firing or glaze; `any` looks for flaws that have a place as well."
            )
        ),
    ] = SetApart.ANY,
    reconstruction: Annotated[
        bool,
        typer.Option("--reconstruction", help="Also use the diffusion path as evidence, as far as it helps; slower."),
    ] = False,
    detect_attacks: Annotated[
        bool, typer.Option("--detect-attacks", help="Prepare the model for `inspect --detect-attacks`; slower.")
    ] = False,
    drop_suspicious: Annotated[
        bool,
        typer.Option(
            "--drop-suspicious",
            help="Leave out the references that the audit finds suspicious, and list them; check them yourself.",
        ),
    ] = False,
    shots: Annotated[int | None, typer.Option(min=1, metavar="K", help="Use at most K references per class.")] = None,
    pixel_size: PixelSize = None,
    page: Page = None,
    max_pixels: MaxPixels = None,
    device: Device = "cpu",
    require_signed: RequireSigned = False,
    trusted_key: TrustedKeys = None,
) -> int:
    """Learn from a few labelled micrographs, and save the model."""
    from fusion_diff.edge.session import is_exported
    from fusion_diff.references.reference import named_specimens
    from fusion_diff.trust.poisoning import audit_enrolment

    expect_away("--out", out, [references, marks, *(trusted_key or ())])
    expect_folder("--out", out)
    expect_free(out)
    if is_exported(out):  # it took minutes, and is no earlier state of what replaces it
        raise CheckpointError(f"{out}: contains an exported model; choose another folder")
    signed_files(require_signed, trusted_key)  # the keys can be read
    model = load_model(base, device, keys_for(base, trusted_key))  # before the references, whose reading may take long
    enrolled = read_references(
        references,
        authentic,
        groups=groups,
        marks=marks,
        pixel_size=pixel_size,
        page=page,
        max_pixels=max_pixels,
        allow_conflicts=drop_suspicious,
        trusted_keys=trusted_key,
    )
    if shots is not None:
        enrolled = enrolled.shots(shots)
    counts = {label: str(count) for label, count in enrolled.counts.items()}
    grouped = named_specimens((each.name for each in enrolled), enrolled.groups)
    each = "" if grouped else " (each image counted as one)"
    print_figures("References", counts | {"specimens": f"{len(enrolled.specimens)}{each}"})

    def learn(chosen: ReferenceSet) -> Enrolment:
        with progress_bar("Encoding", then="Learning") as advance:
            return model.enroll(
                chosen,
                difference=difference.value,
                reconstruction=reconstruction,
                detect_attacks=detect_attacks,
                progress=advance,
            )

    enrolment = learn(enrolled)
    findings = audit_enrolment(enrolment, [reference.micrograph for reference in enrolled])
    suspicious = {finding.index for finding in findings if finding.grave}
    for finding in findings:
        if finding.grave:
            say(f"Suspicious: {printable(finding.reference)}: {paragraph(finding.sentence)}")
    if drop_suspicious and suspicious:
        enrolled = _without(enrolled, suspicious, references)
        for index in sorted(suspicious):
            say(f"Dropped: {printable(enrolment.names[index])}, labelled {printable(enrolment.labels[index])}")
        enrolment = model.enrolment = replace(learn(enrolled), dropped=len(suspicious))
    print_learned("Cross-fitted on the references", enrolment)
    for warning in enrolment.warnings():
        say(f"Note: {warning}")
    model.name = out.resolve().name
    before = model_there(out)
    model.save_pretrained(out)
    if before is not None:
        say(f"Replaced the model that was there, sha256 {before}")
    say(f"Enrolled in {enrolment.seconds:.1f} s. Saved in {out}, sha256 {model.sha256}")
    say(f"Next: fusion-diff inspect NEW --model {quoted(out)} --report report")
    return 0


def _without(references: ReferenceSet, suspicious: set[int], path: Path) -> ReferenceSet:
    """Return the set without the suspicious references.

    Raises:
        EnrolmentError: no reference of some class would be left.
    """
    kept = [index for index in range(len(references)) if index not in suspicious]
    if lost := set(references.classes) - {references[index].label for index in kept}:
        raise EnrolmentError(
            f"{path}: every reference of {' and of '.join(sorted(lost))} is suspicious, so none would be "
            "left; check them (`fusion-diff audit --report`), or enrol without --drop-suspicious"
        )
    return references.subset(kept)
