"""`fusion-diff export`: export an enrolled model as one graph, for machines without torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion_diff.checkpoint import expect_free
from fusion_diff.commands.options import (
    MaxPixels,
    Page,
    RequireSigned,
    TrustedKeys,
    load_model,
    path_option,
    read_references,
    signed_files,
)
from fusion_diff.commands.outputs import expect_away, expect_folder
from fusion_diff.commands.stopping import stoppable
from fusion_diff.commands.terminal import print_figures, progress_bar, say
from fusion_diff.errors import EnrolmentError
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from fusion_diff.export.run import Export


class Runtime(StrEnum):
    """Runtime of the graph."""

    ONNX = "onnx"
    OPENVINO = "openvino"


@stoppable
def export_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An enrolled model: a name, a folder or a hub id.")],
    out: Annotated[Path, path_option(metavar="FOLDER", help="Folder to write the exported model to.")],
    runtime: Annotated[Runtime, typer.Option(help="Runtime to export for.")] = Runtime.ONNX,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise to 8 bits where that costs little accuracy. Needs --references.")
    ] = False,
    references: Annotated[
        Path | None,
        path_option(
            metavar="REFS",
            help=(
                "The enrolled references: a folder with one sub-folder per class, or a CSV file. They "
                "calibrate 8 bits, and the exported model is compared with the original on them. If omitted, "
                "procedural micrographs are used to compare, which say little of decisions on your ware."
            ),
        ),
    ] = None,
    page: Page = None,
    max_pixels: MaxPixels = None,
    require_signed: RequireSigned = False,
    trusted_key: TrustedKeys = None,
) -> int:
    """Export a model together with its references, to inspect without torch and diffusers.

    The exported model is compared with the original first, and nothing is written if they disagree.
    """
    from fusion_diff.export.run import export_model

    if references is None and (page is not None or max_pixels is not None):
        raise typer.BadParameter("--page and --max-pixels apply to --references; give these, or leave the two out")
    signed_files(require_signed, trusted_key)  # the keys can be read
    expect_away("--out", out, [references, *(trusted_key or ())])
    expect_folder("--out", out)
    expect_free(out)
    loaded = load_model(model, "cpu", trusted_key or ())
    known = None
    if references is not None:
        if loaded.enrolment is None:
            raise EnrolmentError(f"{model}: it has no enrolled references to export; enrol some first")
        known = read_references(
            references,
            loaded.enrolment.authentic,
            page=page,
            max_pixels=max_pixels,
            allow_conflicts=True,  # as --drop-suspicious does
            trusted_keys=trusted_key,
        )
    typer.echo(
        "Writing the graph and comparing it with the model; this takes a minute, or some minutes in 8 bits …", err=True
    )
    with progress_bar("Measuring the effect of 8 bits") as advance:
        done = export_model(loaded, out, runtime=runtime.value, int8=int8, references=known, progress=advance)
    _print_export(done)
    return 0


def _print_export(done: Export) -> None:
    """Print how an exported model compares with its model, what 8 bits change, and where it is."""
    from fusion_diff.inspection.wording import number

    parity = done.parity
    figures = {
        "micrographs": str(parity.micrographs),
        f"of these decided by the model at alpha {parity.alpha:.2g}": str(parity.decided),
        "largest difference of scores": f"{parity.difference:.2g}",
    }
    if (whole := parity.recognising) is not None:
        told = (
            f"{whole.difference:.2g} ({printable(whole.furthest)})"
            if whole.recognised
            else "unknown: it recognised none"
        )
        figures["the same where the model recognises surfaces"] = told
    if parity.f1 is not None and parity.exported_f1 is not None:
        figures |= {
            "macro F1 of the model": number(parity.f1),
            "macro F1 of the exported model": number(parity.exported_f1),
        }
    print_figures(
        "Compared with the model" + (", which recognises no surface here either" if done.notes else ""), figures
    )
    if done.losses:
        print_figures("Change of the evidence by 8 bits in one part (log-odds)", done.losses)
        say(f"Kept in fp32: {', '.join((*done.exact, 'the evidence'))}")
    for note in done.notes:
        say(f"Note: {note}")
    say(f"Exported in {done.seconds:.0f} s to {done.folder}")
