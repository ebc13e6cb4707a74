"""`fusion-diff inspect`: verdicts on micrographs, as a table, a report and records; the exit code is a gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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

    The exit code is 3 if any could not be inspected or the command could not run;
    else 1 if any is not authentic; else 2 if any is inconclusive;
    else 0: all are authentic. With a policy it is 3 as before, else 1 if any fails by the policy, else 0.
    """
    from contextlib import nullcontext

    from fusion_diff.commands.terminal import print_outcomes, progress_bar, say
    from fusion_diff.edge.session import is_exported
    from fusion_diff.inspection.junit import write_junit
    from fusion_diff.inspection.markdown import write_markdown
    from fusion_diff.inspection.policy import Policy, read_policy
    from fusion_diff.inspection.policy import exit_code as exit_code_of_rulings
    from fusion_diff.inspection.record import RecordWriter
    from fusion_diff.inspection.report import write_report
    from fusion_diff.inspection.run import Inspector, exit_code, inspect_paths, load_inspector
    from fusion_diff.inspection.sarif import write_sarif
    from fusion_diff.micrograph import discover
    from fusion_diff.printable import printable
    from fusion_diff.trust.ledger import Ledger
    from fusion_diff.trust.purification import Defended
    from fusion_diff.trust.verdict import identity, verdict

    asked = Policy() if policy is None else read_policy(policy)
    if alpha is not None and asked.alpha is not None and alpha != asked.alpha:
        raise typer.BadParameter(f"--alpha is {alpha:g}, and the policy asks for {asked.alpha:g}; leave --alpha out")
    alpha = alpha or asked.alpha or 0.1
    signed = signed_files(require_signed, trusted_key)
    files = discover(paths)
    if purify or detect_attacks:
        if is_exported(model):
            raise typer.BadParameter("--purify and --detect-attacks need the model itself; this one is exported")
        whole = load_model(model, device, trusted_key or ())
        inspector: Inspector = Defended(whole, purify, detect_attacks)
        names = identity(whole)
    else:
        inspector = load_inspector(model, device, trusted_key or ())
        names = identity(inspector)
    records = json or (report / "inspections.jsonl" if report else None)
    outcomes = []
    with (
        RecordWriter(records) if records else nullcontext() as writer,
        Ledger(record) if record else nullcontext() as ledger,
        progress_bar("Inspecting") as advance,
    ):
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
            if writer is not None:
                writer.write(outcome)
            if ledger is not None:
                ledger.append(verdict(outcome, alpha=alpha, pixel_size_um=pixel_size, model=names))
    # Files first: whoever reads the table may close the pipe.
    rulings = asked.rule_all(outcomes)
    written = [
        f"{what}: {write(rulings, file)}"
        for what, file, write in (
            ("JUnit", junit, write_junit),
            ("SARIF", sarif, write_sarif),
            ("Summary", markdown, write_markdown),
        )
        if file is not None
    ]
    if report:
        written.append(f"Report: {write_report(outcomes, report)}")
    print_outcomes(outcomes)
    for outcome in outcomes:
        if outcome.inspection is not None and outcome.inspection.attacked:
            say(f"Attacked? {printable(outcome.path)}: its pixels may have been tuned to mislead")
    if records:
        say(f"Records: {records}")
    if ledger is not None:
        say(f"Ledger: {record}, whose head is now {ledger.head}")
    for line in written:
        say(line)
    if policy is None:
        return exit_code(outcomes)
    for ruling in rulings:
        if ruling.action in ("warn", "fail"):
            say(f"Policy: {ruling.action}: {printable(ruling.outcome.path)}: {' '.join(ruling.reasons)}")
    return exit_code_of_rulings(rulings)
