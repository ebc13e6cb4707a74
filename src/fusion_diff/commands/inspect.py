"""`fusion-diff inspect`: verdicts on micrographs, as a table, a report and records; the exit code is a gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion_diff.checkpoint import EMBEDDED
from fusion_diff.commands.options import (
    AlphaOrPolicy,
    Device,
    PixelSize,
    RequireSigned,
    TrustedKeys,
    load_model,
    signed_files,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusion_diff.commands.outputs import Output


def inspect_command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Image files, folders or patterns.")],
    model: Annotated[
        str, typer.Option(help="An enrolled model: a name, a folder or a hub id; or an exported one.")
    ] = EMBEDDED,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Write DIR/index.html, a report, and DIR/inspections.jsonl."),
    ] = None,
    alpha: AlphaOrPolicy = None,
    pixel_size: PixelSize = None,
    device: Device = "cpu",
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Write the records here, one line of JSON a micrograph."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Add every outcome to this ledger, which `fusion-diff audit FILE` checks.",
        ),
    ] = None,
    purify: Annotated[
        bool, typer.Option("--purify", help="Judge each micrograph as the diffusion prior repaints it; slower.")
    ] = False,
    detect_attacks: Annotated[
        bool,
        typer.Option("--detect-attacks", help="Say whether pixels seem tuned to mislead: judge with and without it."),
    ] = False,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What is asked of verdicts, in TOML; see `fusion-diff policy check FILE`."),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Write JUnit XML here, one test case a micrograph."),
    ] = None,
    sarif: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Write SARIF 2.1.0 here, with every region as a result."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write a summary here, fit for a merge request.")
    ] = None,
    require_signed: RequireSigned = False,
    trusted_key: TrustedKeys = None,
) -> int:
    """Inspect micrographs.

    The exit code is 3 if any could not be inspected, an output could not be written, or the command could not run;
    else 1 if any is not authentic; else 2 if any is inconclusive;
    else 0: all are authentic. With a policy it is 3 as before, else 1 if any fails by the policy, else 0.
    """
    from contextlib import ExitStack
    from functools import partial

    from fusion_diff.commands.outputs import check_outputs
    from fusion_diff.commands.terminal import complain, explained, print_outcomes, progress_bar, say
    from fusion_diff.edge.session import is_exported
    from fusion_diff.inspection.junit import write_junit
    from fusion_diff.inspection.markdown import write_markdown
    from fusion_diff.inspection.policy import Policy, read_policy
    from fusion_diff.inspection.policy import exit_code as exit_code_of_rulings
    from fusion_diff.inspection.record import RecordWriter
    from fusion_diff.inspection.report import write_report
    from fusion_diff.inspection.run import Inspector, exit_code, inspect_paths, load_inspector
    from fusion_diff.inspection.sarif import write_sarif
    from fusion_diff.inspection.verdict import verdict
    from fusion_diff.micrograph import discover
    from fusion_diff.printable import printable
    from fusion_diff.trust.identity import identity
    from fusion_diff.trust.ledger import Ledger
    from fusion_diff.trust.purification import Defended

    asked = Policy() if policy is None else read_policy(policy)
    if alpha is not None and asked.alpha is not None and alpha != asked.alpha:
        raise typer.BadParameter(f"--alpha is {alpha:g}, and the policy asks for {asked.alpha:g}; leave --alpha out")
    alpha = alpha or asked.alpha or 0.1
    signed = signed_files(require_signed, trusted_key)
    files = discover(paths)
    records = _records(json, report)
    pages = {"--junit": junit, "--sarif": sarif, "--markdown": markdown}
    check_outputs(
        [*records, *_others(record, report, pages)],
        inputs=[*files, *(trusted_key or ()), *([policy] if policy else ())],
        model=model,
    )
    if purify or detect_attacks:
        if is_exported(model):
            raise typer.BadParameter("--purify and --detect-attacks need the model itself; this one is exported")
        whole = load_model(model, device, trusted_key or ())
        inspector: Inspector = Defended(whole, purify, detect_attacks)
        names = identity(whole)
    else:
        inspector = load_inspector(model, device, trusted_key or ())
        names = identity(inspector)
    outcomes = []
    with ExitStack() as stack:
        writers = [stack.enter_context(RecordWriter(each.file)) for each in records]
        ledger = stack.enter_context(Ledger(record)) if record else None
        advance = stack.enter_context(progress_bar("Inspecting"))
        try:
            for outcome in inspect_paths(
                inspector,
                files,
                alpha=alpha,
                pixel_size_um=pixel_size,
                signed_sha256=signed.digest if signed else None,
                progress=advance,
                thumbnails=report is not None,
            ):
                outcomes.append(outcome)
                for writer in writers:
                    writer.write(outcome)
                if ledger is not None:
                    ledger.append(verdict(outcome, alpha=alpha, pixel_size_um=pixel_size, model=names))
        except KeyboardInterrupt:
            stack.close()  # the bar first, which would be drawn over what is said
            kept = [printable(each) for each in (*(each.file for each in records), record) if each is not None]
            typer.echo(
                f"{len(outcomes)} of {len(files)} micrographs were inspected; "
                + (f"their verdicts are kept in {' and '.join(kept)}" if kept else "nothing of it is kept"),
                err=True,
            )
            raise
    # Files first: whoever reads the table may close the pipe. Yet what cannot be written must not cost the verdicts.
    rulings = asked.rule_all(outcomes)
    written, failed = [], []
    for what, file, write in (
        ("JUnit", junit, partial(write_junit, rulings)),
        ("SARIF", sarif, partial(write_sarif, rulings)),
        ("Summary", markdown, partial(write_markdown, rulings)),
        ("Report", report, partial(write_report, outcomes)),
    ):
        if file is not None:
            try:
                written.append(f"{what}: {write(file)}")
            except (OSError, MemoryError) as error:
                failed.append(explained(error))
    print_outcomes(outcomes)
    for outcome in outcomes:
        if outcome.inspection is not None and outcome.inspection.attacked:
            say(f"Attacked? {printable(outcome.path)}: its pixels may have been tuned to mislead")
    for each in records:
        say(f"Records: {each.file}")
    if ledger is not None:
        say(f"Ledger: {record}, whose head is now {ledger.head}")
    for line in written:
        say(line)
    for problem in failed:
        complain(problem)
    if policy is None:
        return 3 if failed else exit_code(outcomes)
    for ruling in rulings:
        if ruling.action in ("warn", "fail"):
            say(f"Policy: {ruling.action}: {printable(ruling.outcome.path)}: {' '.join(ruling.reasons)}")
    return 3 if failed else exit_code_of_rulings(rulings)


def _records(json: Path | None, report: Path | None) -> list[Output]:
    """The files that a line a micrograph goes into; one, where both options name the same."""
    from fusion_diff.commands.outputs import Output, same_file

    records = [] if json is None else [Output("--json", json, in_place=True)]
    if report is not None:
        file = report / "inspections.jsonl"
        if json is None or not same_file(json, file):
            records.append(Output("--report", file, in_place=True))
    return records


def _others(record: Path | None, report: Path | None, pages: Mapping[str, Path | None]) -> list[Output]:
    """The files that are written besides."""
    from fusion_diff.commands.outputs import Output

    others = [Output(option, file) for option, file in pages.items() if file is not None]
    if report is not None:
        others.append(Output("--report", report / "index.html"))
    if record is not None:
        head = Output("--record", record.with_name(f"{record.name}.head"))
        others += [Output("--record", record, in_place=True), head]
    return others
