"""`fusion-diff validate`: error rates of a model on labelled micrographs that it has not learned from."""

from __future__ import annotations

import json as json_format
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fusion_diff.checkpoint import EMBEDDED
from fusion_diff.commands.options import (
    Alpha,
    Device,
    Groups,
    MaxPixels,
    Model,
    Page,
    PixelSize,
    RequireSigned,
    TrustedKeys,
    path_option,
    read_references,
    signed_files,
)
from fusion_diff.commands.outputs import Output, check_outputs
from fusion_diff.commands.stopping import stoppable
from fusion_diff.commands.terminal import progress_bar, say, stdout
from fusion_diff.counted import counted
from fusion_diff.errors import EnrolmentError
from fusion_diff.inspection.wording import number
from fusion_diff.printable import printable
from fusion_diff.verdict.inspector import identity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusion_diff.inspection.validation import Judged, Rate
    from fusion_diff.references import ReferenceSet
    from fusion_diff.verdict.inspector import Enrolled, Inspector

FORMAT = "fusion-diff/validation/1"
"""Name and version of the format of the JSON file."""


@stoppable
def validate_command(
    held_out: Annotated[
        Path,
        typer.Argument(
            metavar="HELD_OUT",
            help="Labelled micrographs that the model has not learned from, laid out as references for enroll: a "
            "folder with one sub-folder per class, or a CSV file.",
        ),
    ],
    authentic: Annotated[str, typer.Option(metavar="NAME", help="Name of the authentic class.")],
    model: Model = EMBEDDED,
    groups: Groups = None,
    alpha: Alpha = 0.1,
    pixel_size: PixelSize = None,
    page: Page = None,
    max_pixels: MaxPixels = None,
    device: Device = "cpu",
    json: Annotated[
        Path | None,
        path_option(metavar="FILE", dir_okay=False, help="Write settings, counts, rates and verdicts to FILE as JSON."),
    ] = None,
    require_signed: RequireSigned = False,
    trusted_key: TrustedKeys = None,
) -> int:
    """Judge labelled micrographs that the model has not learned from, and print its error rates with exact limits.

    The exit code is 0 once all are judged, whatever the rates; 3 if the command could not run.
    """
    from fusion_diff.inspection.run import load_inspector
    from fusion_diff.inspection.validation import Judged, error_rates

    if json is not None:
        check_outputs([Output("--json", json)], [held_out, *([Path(groups)] if groups else []), *(trusted_key or ())])
    signed_files(require_signed, trusted_key)  # the keys can be read
    inspector = load_inspector(model, device, trusted_key or ())
    enrolled = inspector.enrolment
    if enrolled is None:
        raise EnrolmentError(
            f"{inspector.name} has no enrolled references; enrol some first, with `fusion-diff enroll`"
        )
    found = read_references(
        held_out,
        authentic,
        groups=groups,
        pixel_size=pixel_size,
        page=page,
        max_pixels=max_pixels,
        allow_conflicts=False,
        trusted_keys=trusted_key,
    )
    judged = []
    with progress_bar("Inspecting") as advance:
        for done, each in enumerate(found):
            advance(done, len(found), Path(each.name))
            it = inspector.inspect(each.micrograph, alpha=alpha)
            own = each.label == found.authentic
            judged.append(
                Judged(each.name, it.file_sha256, each.label, each.group, own, it.decision, it.score, it.in_scope)
            )
    rates, notes = error_rates(judged), _doubts(enrolled, found, alpha)
    if json is not None:
        from fusion_diff.inspection.files import write_text

        settings = {"authentic": found.authentic, "alpha": alpha, "groups": groups}
        settings |= {"pixel_size_um": pixel_size, "page": page, "max_pixels": max_pixels}
        record = _record(inspector, found, judged, rates, settings, notes)
        write_text(json, json_format.dumps(record, indent=2, allow_nan=False) + "\n")
    _print(judged, found, rates, alpha)
    for note in notes:
        say(f"Note: {note}")
    if json is not None:
        say(f"Written: {json}")
    return 0


def _doubts(enrolled: Enrolled, found: ReferenceSet, alpha: float) -> list[str]:
    """Return what speaks against the rates, in sentences."""
    from fusion_diff.enrolment import Enrolment
    from fusion_diff.references.reference import named_specimens
    from fusion_diff.verdict.reasons import undecidable

    lines = [f"of the model: {doubt}" for doubt in enrolled.compared.doubts]
    if found.authentic != enrolled.compared.authentic:
        lines.append(f"the model verifies {enrolled.compared.authentic!r}; here {found.authentic!r} is taken for it")
    if known := [each.name for each in found if enrolled.enrolled_as(each.micrograph) is not None]:
        are = "micrograph is a reference", "micrographs are references"
        lines.append(
            f"{counted(len(known), *are)} of the model ({_some(known)}): what it has learned from says nothing about "
            "new ones; leave it out"
        )
    given = named_specimens((each.name for each in found), found.groups)
    if isinstance(enrolled, Enrolment) and (seen := given & named_specimens(enrolled.names, enrolled.groups)):
        lines.append(
            f"{counted(len(seen), 'specimen')} of the same name as one of the references ({_some(sorted(seen))}): "
            "hold whole specimens out, or name different ones differently"
        )
    if not given:
        lines.append(
            "no groups are given here, so each micrograph counts as a specimen of its own: if several show one "
            "specimen, give them one group (--groups, the column group of a CSV file), because the limits are too "
            "narrow otherwise"
        )
    if (why := undecidable(enrolled, alpha)) is not None:
        lines.append(f"nothing can be decided: {why.removesuffix('.')}")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(printable(name, 100) for name in names[:5]) + (", …" if len(names) > 5 else "")


def _record(
    inspector: Inspector,
    found: ReferenceSet,
    judged: Sequence[Judged],
    rates: Mapping[str, tuple[Rate, Rate]],
    settings: Mapping[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    from fusion_diff import __version__
    from fusion_diff.inspection.validation import CONFIDENCE, counts, figures

    return {
        "format": FORMAT,
        "version": __version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": identity(inspector),
        "held_out_sha256": found.sha256,
        "settings": settings,
        "classes": {label: counts(judged, label) for label in found.classes},
        "confidence": CONFIDENCE,
        "rates": {
            kind: {"micrographs": images.to_dict(), "specimens": specimens.to_dict()}
            for kind, (images, specimens) in rates.items()
        },
        "figures": figures(judged),
        "notes": notes,
        "verdicts": [
            {
                "name": each.name,
                "file_sha256": each.sha256,
                "class": each.label,
                "specimen": each.specimen,
                "decision": each.decision,
                "score": each.score,
                "in_scope": each.in_scope,
            }
            for each in judged
        ],
    }


def _print(judged: Sequence[Judged], found: ReferenceSet, rates: Mapping[str, tuple[Rate, Rate]], alpha: float) -> None:
    from fusion_diff.inspection.validation import counts, figures

    rows = {label: counts(judged, label) for label in found.classes}
    table = Table()
    for name in ("class", *rows[found.authentic]):
        table.add_column(name, justify="left" if name == "class" else "right", overflow="fold")
    for label, row in rows.items():
        table.add_row(Text(printable(label)), *map(str, row.values()))
    stdout().print(table)
    decided = sum(each.decision != "inconclusive" for each in judged)
    say(f"Decided at alpha {alpha:g}: {decided} of {len(judged)} micrographs ({100 * decided / len(judged):.3g} %).")
    if told := figures(judged):
        say(
            f"AUROC {number(told['auroc'])}, macro-F1 at a score of 0.5 {number(told['macro_f1'])}, of "
            f"{counted(sum(each.in_scope for each in judged), 'micrograph')} in scope."
        )
    grouped = any(images.of > specimens.of for images, specimens in rates.values())
    table = Table()
    table.add_column("errors", overflow="fold")
    for unit in ("micrographs", "specimens")[: 1 + grouped]:
        for name in (f"of {unit}", "rate", "95 % limits"):
            table.add_column(name, justify="right", overflow="fold")
    for kind, both in rates.items():
        table.add_row(Text(printable(kind)), *(cell for each in both[: 1 + grouped] for cell in _cells(each)))
    stdout().print(table)
    say(
        "An error is a decision for the wrong side; inconclusive ones are counted, but not as errors."
        + (" A specimen is an error if any of its micrographs is. Limits by micrograph are too narrow." * grouped)
    )
    for kind, (_, specimens) in list(rates.items())[:2]:
        say(f"{kind}: {_supported(specimens, alpha, 'specimen' if grouped else 'micrograph')}")
    for each in judged:
        if each.wrong:
            say(f"Wrong: {printable(each.name)} ({printable(each.label)}): {each.decision}, score {each.score:.3f}")


def _cells(rate: Rate) -> tuple[str, str, str]:
    low, high = rate.limits
    return f"{rate.errors} of {rate.of}", number(rate.errors / rate.of), f"{number(low)} to {number(high)}"


def _supported(rate: Rate, alpha: float, unit: str) -> str:
    """Return what a rate allows to state of `alpha`."""
    from fusion_diff.inspection.validation import Rate, needed

    low, high = rate.limits
    if high <= alpha:
        return f"a rate of at most {alpha:g} is shown."
    if low > alpha:
        return f"the rate is above {alpha:g}."
    if rate.of >= (least := needed(alpha)):
        return f"a rate of at most {alpha:g} is not shown, as the upper limit is {number(high)}."
    best = Rate(0, rate.of).limits[1]
    return (
        f"{counted(rate.of, unit)} {'is' if rate.of == 1 else 'are'} too few to show a rate of at most {alpha:g}: "
        f"without an error the upper limit would be {number(best)}. {least} without an error are needed."
    )
