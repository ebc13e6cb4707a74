"""`fusion-diff inspect`: verdicts on micrographs as a table, records, reports and a gating exit code."""

from __future__ import annotations

import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusion_diff.checkpoint import EMBEDDED
from fusion_diff.commands.inspect_outputs import InspectOutputs
from fusion_diff.commands.options import (
    AlphaOrPolicy,
    Device,
    MaxPixels,
    Model,
    Page,
    PixelSize,
    Record,
    RequireSigned,
    TrustedKeys,
    load_model,
    path_option,
    signed_files,
)
from fusion_diff.commands.stopping import stoppable
from fusion_diff.commands.terminal import complain, print_outcomes, progress_bar, say
from fusion_diff.counted import counted
from fusion_diff.errors import MicrographError, foreseen
from fusion_diff.printable import explained, printable
from fusion_diff.verdict.inspector import identity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fusion_diff.inspection.policy import Policy, Ruling
    from fusion_diff.inspection.record import RecordWriter
    from fusion_diff.inspection.run import Outcome
    from fusion_diff.verdict.inspector import Inspector


@stoppable
def inspect_command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Image files, folders or patterns.")],
    model: Model = EMBEDDED,
    report: Annotated[
        Path | None,
        path_option(
            metavar="DIR",
            file_okay=False,
            help="Write a report to DIR/index.html, and the records to DIR/inspections.jsonl.",
        ),
    ] = None,
    alpha: AlphaOrPolicy = None,
    pixel_size: PixelSize = None,
    page: Page = None,
    max_pixels: MaxPixels = None,
    device: Device = "cpu",
    json: Annotated[
        Path | None,
        path_option(
            metavar="FILE",
            dir_okay=False,
            help="Write the records to FILE as JSON Lines, one per micrograph; - is stdout.",
        ),
    ] = None,
    record: Record = None,
    purify: Annotated[
        bool,
        typer.Option(
            "--purify", help="Purify each micrograph with the diffusion prior before it is inspected; slower."
        ),
    ] = False,
    detect_attacks: Annotated[
        bool,
        typer.Option(
            "--detect-attacks",
            help=(
                "Inspect each micrograph with and without purification, and mark it where the two differ too "
                "much. Needs a model enrolled with --detect-attacks."
            ),
        ),
    ] = False,
    policy: Annotated[
        Path | None,
        path_option(
            metavar="FILE", help="Policy that verdicts must meet, in TOML; `fusion-diff policy check FILE` explains it."
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        path_option(metavar="FILE", dir_okay=False, help="Write JUnit XML to FILE, one test case per micrograph."),
    ] = None,
    sarif: Annotated[
        Path | None,
        path_option(metavar="FILE", dir_okay=False, help="Write SARIF 2.1.0 to FILE, with every region as a result."),
    ] = None,
    markdown: Annotated[
        Path | None,
        path_option(metavar="FILE", dir_okay=False, help="Write a summary in Markdown to FILE, for a merge request."),
    ] = None,
    csv: Annotated[
        Path | None,
        path_option(metavar="FILE", dir_okay=False, help="Write the verdicts to FILE as CSV, for spreadsheets."),
    ] = None,
    require_signed: RequireSigned = False,
    trusted_key: TrustedKeys = None,
) -> int:
    """Inspect micrographs: score, decision, and where they depart from the references.

    The exit code is 3 if a micrograph could not be inspected, an output could not be written or the command could not
    run; else 1 if any micrograph is not authentic; else 2 if any is inconclusive; else 0. With a policy it is 3 in the
    same cases, else 1 if any micrograph fails the policy, else 0.
    """
    from fusion_diff.inspection.policy import exit_code as exit_code_of_rulings
    from fusion_diff.inspection.policy import warn_of_unknown_classes
    from fusion_diff.inspection.run import exit_code, not_inspected, remarks
    from fusion_diff.micrograph import discover
    from fusion_diff.warn import collected, warn

    outputs = InspectOutputs(json, report, record, junit, sarif, markdown, csv)
    others = [*(trusted_key or ()), *([policy] if policy else ())]
    try:
        with collected() as skipped:
            files = discover(paths)
    except MicrographError:  # nothing to inspect: pages of an earlier run must not pass for those of this one either
        outputs.check([*(Path(path) for path in paths if "\0" not in path), *others])
        outputs.remove_old_pages()
        raise
    outputs.check([*files, *others])
    outputs.remove_old_pages()
    asked, alpha = _policy(policy, alpha)
    signed = signed_files(require_signed, trusted_key)
    inspector = _load(model, device, trusted_key or (), purify, detect_attacks)
    if policy is not None and inspector.enrolment is not None:
        warn_of_unknown_classes(asked, inspector.enrolment.labels, printable(policy))
    with outputs.recording() as writers:
        outcomes, kept, faults = _inspect(
            inspector,
            files,
            outputs,
            writers,
            asked,
            {"alpha": alpha, "pixel_size_um": pixel_size, "page": page, "max_pixels": max_pixels},
            signed.digest if signed else None,
        )
        # Files are written before the table, as the reader of the table may close the pipe. Neither an error that ended
        # the inspection nor a file that cannot be written loses the verdicts.
        missing = [not_inspected(file, faults[0]) for file in files[len(outcomes) :]]
        every = [*outcomes, *missing]
        rulings = asked.rule_all(every)
        code = exit_code(every) if policy is None else exit_code_of_rulings(rulings)
        remarked = remarks(outcomes)
        written = outputs.write_pages(rulings, code, faults, [*skipped, *remarked])
        _print_verdicts(outcomes, [*kept, *written], rulings if policy else ())
        for told in remarked:
            warn(told)
        if missing:
            complain(f"{counted(len(missing), 'micrograph was', 'micrographs were')} not inspected: the run broke off")
        for error in faults:
            if foreseen(error):
                complain(explained(error))
            else:
                traceback.print_exception(error)
        return 3 if faults else code


def _policy(file: Path | None, alpha: float | None) -> tuple[Policy, float]:
    """Return the policy, the given or the default one, and the error rate of the decisions."""
    from fusion_diff.inspection.policy import NO_POLICY, read_policy

    asked = NO_POLICY if file is None else read_policy(file)
    if alpha is not None and asked.alpha is not None and alpha != asked.alpha:
        raise typer.BadParameter(f"--alpha is {alpha:g}, but the policy requires {asked.alpha:g}; leave --alpha out")
    return asked, alpha or asked.alpha or 0.1


def _load(name: str, device: str, trusted_keys: Sequence[Path], purify: bool, detect_attacks: bool) -> Inspector:
    """Load a whole or exported model, with its defences."""
    from fusion_diff.edge.session import is_exported
    from fusion_diff.inspection.run import Defended, load_inspector
    from fusion_diff.verdict.attacked import AttackTest

    if not (purify or detect_attacks):
        return load_inspector(name, device, trusted_keys)
    if is_exported(name):
        raise typer.BadParameter(
            "--purify and --detect-attacks do not work with an exported model; give the model that it was exported from"
        )
    model = load_model(name, device, trusted_keys)
    if detect_attacks and model.enrolment is not None:  # refused here, before any micrograph is read
        AttackTest.of(model.name, model.enrolment.shifts, model.enrolment.groups)
    return Defended(model, purify, detect_attacks)


def _inspect(
    inspector: Inspector,
    files: Sequence[Path],
    outputs: InspectOutputs,
    writers: Sequence[RecordWriter],
    asked: Policy,
    settings: Mapping[str, Any],
    signed_sha256: Callable[[Path], str] | None,
) -> tuple[list[Outcome], list[str], list[Exception]]:
    """Inspect with a progress bar, storing each verdict at once.

    Args:
        inspector: the model.
        files: the micrographs.
        outputs: the output files.
        writers: those of records, open.
        asked: the policy.
        settings: alpha, pixel size, page and limit of pixels, as `inspect_paths` takes them and the ledger keeps them.
        signed_sha256: as `inspect_paths` takes it.

    Returns:
        The outcomes, lines on where they are stored, and the error that ended the inspection, if any.
    """
    from fusion_diff.inspection.ledger_entry import verdict
    from fusion_diff.inspection.record import STDOUT
    from fusion_diff.inspection.run import inspect_paths
    from fusion_diff.trust.ledger import Ledger

    names = identity(inspector)
    outcomes: list[Outcome] = []
    faults: list[Exception] = []
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(outputs.record)) if outputs.record else None
        advance = stack.enter_context(progress_bar("Inspecting"))
        try:
            for outcome in inspect_paths(
                inspector,
                files,
                **settings,
                signed_sha256=signed_sha256,
                progress=advance,
                thumbnails=outputs.report is not None,
            ):
                ruling = asked.rule(outcome)
                if ledger is not None:  # first of all, so that no verdict is shown that it lacks
                    ledger.append(verdict(outcome, **settings, model=names, ruling=ruling))
                outcomes.append(outcome)
                for writer in writers:
                    writer.write(outcome, ruling)
        except KeyboardInterrupt:
            stack.close()  # closes the progress bar, which would overwrite the message
            _keep_what_was_done(asked.rule_all(outcomes), counted(len(files), "micrograph"), outputs)
            raise
        except Exception as error:
            faults.append(error)
    said = [f"Records: {writer.path}" for writer in writers if writer.lines and writer.path != STDOUT]
    if ledger is not None:
        said.append(f"Ledger: {outputs.record}; its head is now {ledger.head}")
    return outcomes, said, faults


def _keep_what_was_done(rulings: Sequence[Ruling], of_all: str, outputs: InspectOutputs) -> None:
    """Say where the verdicts of a run that was stopped are saved, and write the report on them if one was asked for."""
    from fusion_diff.inspection.record import STDOUT
    from fusion_diff.inspection.report import write_report

    kept = ["stdout" if each.file == STDOUT else printable(each.file) for each in outputs.records]
    kept += [printable(outputs.record)] if outputs.record else []
    saved = f"their verdicts are saved in {' and '.join(kept)}" if kept else "no verdict was saved"
    typer.echo(f"Inspected {len(rulings)} of {of_all}; {saved}", err=True)
    if rulings and outputs.report is not None:
        title = f"Inspection report, stopped after {len(rulings)} of {of_all}"
        index = write_report([each.outcome for each in rulings], outputs.report, title=title, rulings=rulings)
        typer.echo(f"Report on these: {printable(index)}; no other page was written", err=True)


def _print_verdicts(outcomes: Sequence[Outcome], written: Sequence[str], rulings: Sequence[Ruling]) -> None:
    """Print verdicts, doubts, signs of attacks, what was written, and what the policy does not pass."""
    from fusion_diff.verdict.compared import BUILTIN
    from fusion_diff.verdict.reasons import doubts  # it imports NumPy, which `--help` does without

    print_outcomes(outcomes)
    for doubt in doubts(outcome.inspection for outcome in outcomes if outcome.inspection is not None):
        if doubt != BUILTIN:  # of which the model warns itself
            say(f"Doubt about the references: {doubt}.")
    for outcome in outcomes:
        if outcome.inspection is not None and outcome.inspection.attacked:
            say(f"Attacked? {printable(outcome.path)}: its pixels may have been tuned to mislead")
    for line in written:
        say(line)
    for ruling in rulings:
        if ruling.action in ("warn", "fail"):
            say(f"Policy: {ruling.action}: {printable(ruling.outcome.path)}: {' '.join(ruling.reasons)}")
