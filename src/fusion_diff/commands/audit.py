"""`fusion-diff audit`: check a ledger, or audit references; PATH determines which."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion_diff.checkpoint import EMBEDDED
from fusion_diff.commands.options import (
    Device,
    Groups,
    Marks,
    MaxPixels,
    Model,
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
from fusion_diff.commands.outputs import Output, expect_writable
from fusion_diff.commands.terminal import complain, print_figures, print_findings, progress_bar, say
from fusion_diff.counted import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusion_diff.references import ReferenceSet


def _head(value: str | None) -> str | None:
    if value is not None and not re.fullmatch("[0-9a-f]{64}", value):
        raise typer.BadParameter("must be a head as `inspect` prints it, of 64 hexadecimal digits in lower case")
    return value


def audit_command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help=("A ledger; or references, as for enroll: a folder with one sub-folder per class, or a CSV file."),
        ),
    ],
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            callback=_head,
            help="Ledger: hash of a head that was noted elsewhere; the ledger must contain it.",
        ),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Ledger: move a torn last line to FILE.torn, then audit.")
    ] = False,
    authentic: Annotated[
        str | None, typer.Option(metavar="NAME", help="References: name of the authentic class.")
    ] = None,
    report: Annotated[
        Path | None,
        path_option(
            metavar="DIR",
            file_okay=False,
            help="References: write a report with pictures and reasons to DIR/audit.html.",
        ),
    ] = None,
    model: Model = EMBEDDED,
    groups: Groups = None,
    marks: Marks = None,
    pixel_size: PixelSize = None,
    page: Page = None,
    max_pixels: MaxPixels = None,
    device: Device = "cpu",
    require_signed: RequireSigned = False,
    trusted_key: TrustedKeys = None,
) -> int:
    """Check a ledger of verdicts for lines that were altered or removed, or references for wrong labels, duplicates,
    outliers and recurring patches.

    The exit code is 0 if nothing is wrong, 1 if something is, and 3 if PATH could not be audited.
    """
    if not path.exists() and not path.suffix:  # a mistyped folder must not be taken for a ledger
        raise typer.BadParameter(f"{path}: there is no such file or folder; check the path")
    if path.is_dir() or path.suffix.lower() == ".csv":
        if expect is not None or repair:
            raise typer.BadParameter(
                "--expect and --repair apply to a ledger, but PATH holds references; leave them out"
            )
        if authentic is None:
            raise typer.BadParameter(
                "auditing references needs the name of the authentic class; give it with --authentic"
            )
        signed_files(require_signed, trusted_key)  # the keys can be read
        reading = partial(
            read_references,
            path,
            authentic,
            groups=groups,
            marks=marks,
            pixel_size=pixel_size,
            page=page,
            max_pixels=max_pixels,
            allow_conflicts=True,
            trusted_keys=trusted_key,
        )
        return _audit_references(reading, report, model, device, keys_for(model, trusted_key))
    of_references = authentic, report, groups, marks, pixel_size, page, max_pixels, require_signed or None, trusted_key
    if any(each is not None for each in of_references):
        raise typer.BadParameter(
            "--authentic, --report, --groups, --marks, --require-signed, --trusted-key, --pixel-size, --page and "
            "--max-pixels apply to references, but PATH is a file and is read as a ledger; leave them out"
        )
    return _audit_ledger(path, expect, repair)


def _audit_ledger(path: Path, expect: str | None, repair: bool) -> int:
    from fusion_diff.trust.ledger import repair as set_aside
    from fusion_diff.trust.ledger_check import check

    if repair:
        aside = set_aside(path)
        say(f"The torn last line was set aside: {aside}" if aside else "The last line is whole: nothing to repair.")
    report = check(path, expect=expect)
    figures = {"ledger": report.id, "lines, including the header": str(report.lines)}
    print_figures(str(path), figures | {each: str(count) for each, count in sorted(report.decisions.items())})
    for each in report.breaks:
        complain(f"{path}: {each.kind}: {each.message}")
    if report.found > len(report.breaks):
        complain(f"{path}: and {counted(report.found - len(report.breaks), 'more break')}")
    if report.note:
        say(f"Note: {report.note}")
    say(f"Intact. Head: {report.head}" if report.intact else f"Broken in {counted(report.found, 'place')}.")
    return 0 if report.intact else 1


def _audit_references(
    read: Callable[[], ReferenceSet],
    report: Path | None,
    model: str,
    device: str,
    trusted_keys: Sequence[Path],
) -> int:
    from fusion_diff.inspection.audit_report import write_audit
    from fusion_diff.trust.poisoning import audit_references

    if report is not None:
        page = Output("--report", report / "audit.html")
        expect_writable(page)
    references = read()
    with progress_bar("Encoding") as advance:
        findings = audit_references(load_model(model, device, trusted_keys), references, progress=advance)
    print_findings(findings)
    grave = len({each.index for each in findings if each.grave})
    say(f"{counted(len(references), 'reference')}: {grave} to look into, {counted(len(findings), 'finding')} in all.")
    if findings:
        say("A strength of 1 just passes the threshold of a finding; a larger one is clearer.")
    if report is not None:
        say(f"Report: {write_audit(findings, references, report)}")
    return 1 if grave else 0
