"""`fusion-diff batch`: inspect any number of micrographs into Parquet files, resuming an interrupted run."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion_diff.batch import ROWS
from fusion_diff.checkpoint import EMBEDDED
from fusion_diff.commands.options import (
    Alpha,
    Device,
    MaxPixels,
    Model,
    Page,
    PixelSize,
    Record,
    RequireSigned,
    TrustedKeys,
    signed_files,
)
from fusion_diff.commands.outputs import check_outputs, expect_apart, expect_folder, of_ledger
from fusion_diff.commands.stopping import heed_sigterm, stoppable
from fusion_diff.commands.terminal import Minutes, complain, say
from fusion_diff.counted import counted
from fusion_diff.home import absolute, at_home
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fusion_diff.batch.engine import Engine
    from fusion_diff.batch.run import Summary


@stoppable
def batch_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help=(
                "Folders, patterns, image files, CSV files with a column path or file, or addresses such as "
                "s3://bucket/folder."
            ),
        ),
    ],
    out: Annotated[
        str, typer.Option(metavar="OUT", help="Folder for the Parquet files; a run that was interrupted is continued.")
    ],
    model: Model = EMBEDDED,
    alpha: Alpha = 0.1,
    pixel_size: PixelSize = None,
    page: Page = None,
    max_pixels: MaxPixels = None,
    heatmaps: Annotated[
        bool, typer.Option("--heatmaps", help="Write a heat map of each micrograph to OUT/heatmaps, as PNG.")
    ] = False,
    rows: Annotated[
        int,
        typer.Option("--rows", min=1, max=1_000_000, help="Maximum number of rows per Parquet file, and in memory."),
    ] = ROWS,
    record: Record = None,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry",
            help="Inspect again the micrographs that an earlier run could not inspect, and replace their rows.",
        ),
    ] = False,
    device: Device = "cpu",
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on this Ray cluster: host:port, ray://host:port or auto."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="With --cluster: number of workers, each on one core or GPU; all of them if omitted.",
        ),
    ] = None,
    require_signed: RequireSigned = False,
    trusted_key: TrustedKeys = None,
) -> int:
    """Inspect any number of micrographs, and write one Parquet row for each, also for those that cannot be read.

    The exit code is 0 once every micrograph has its row, whatever the verdicts; 3 if the command could not finish; 130
    after Ctrl-C and 143 after SIGTERM, with the finished rows saved.
    """
    from fusion_diff.batch.engine import LocalEngine, Settings
    from fusion_diff.batch.items import Item
    from fusion_diff.batch.run import run_batch
    from fusion_diff.batch.sources import check_source
    from fusion_diff.inspection.run import load_inspector
    from fusion_diff.trust.ledger import Ledger

    if workers is not None and cluster is None:
        raise typer.BadParameter("--workers needs a cluster; give its address with --cluster")
    if "://" in out:
        raise typer.BadParameter(f"{out}: --out must be a folder on this machine; choose one")
    target = at_home(out)
    expect_apart("--out", target)
    expect_folder("--out", target)
    signed = signed_files(require_signed, trusted_key)
    local = [Path(source) for source in sources if not Item(source).remote and "\0" not in source]
    check_outputs(of_ledger(record), [*local, *(trusted_key or ())])
    for source in sources:
        check_source(source, signed, target)
    keys = tuple(str(absolute(key)) for key in trusted_key or ())
    settings = Settings(alpha, pixel_size, heatmaps, keys, page, max_pixels, record is not None)
    folder = at_home(model)
    name = str(absolute(folder)) if folder.is_dir() else model
    engine: AbstractContextManager[Engine]
    if cluster is None:
        engine = nullcontext(LocalEngine(load_inspector(name, device, keys), settings))
    else:
        from fusion_diff.batch.cluster import Cluster

        engine = Cluster(cluster, name, settings, workers=workers, device=device)
    started = time.monotonic()
    try:
        # Set again after the engine starts, because Ray sets its own signal handler when it joins a cluster.
        with (
            engine as judging,
            nullcontext() if record is None else Ledger(record) as ledger,
            heed_sigterm(),
            _progress() as progress,
        ):
            done = run_batch(sources, target, judging, rows=rows, retry=retry, ledger=ledger, progress=progress)
    except KeyboardInterrupt:
        typer.echo(f"Finished rows are saved in {printable(target)}; run the same command again to continue", err=True)
        raise
    _print_summary(done, time.monotonic() - started, target)
    if ledger is not None:
        say(f"Ledger: {record}; its head is now {ledger.head}")
    return 0


def _print_summary(done: Summary, seconds: float, target: Path) -> None:
    """Print what a finished run did, in how many seconds, where its rows are, and its first errors."""
    parts = [f"{count} {decision}" for decision, count in sorted(done.decisions.items()) if decision != "error"]
    if done.decisions["error"]:
        parts.append(f"{done.decisions['error']} could not be inspected")
    if done.finished:
        rate = rate_text(done.finished / max(seconds, 1e-9))
        say(f"{counted(done.finished, 'micrograph')} inspected: {', '.join(parts)}; {rate}.")
    if done.skipped:
        say(f"{counted(done.skipped, 'micrograph was', 'micrographs were')} skipped: done already or named twice.")
    say(f"Rows: {done.kept}, in {target}")
    for failure in done.errors:
        complain(failure)
    if more := done.decisions["error"] - len(done.errors):
        typer.echo(f"and {more:,} more; see the column error of the rows", err=True)


@contextmanager
def _progress() -> Iterator[Callable[[Summary, int | None], None]]:
    """Show progress, rate and time left on stderr: a live bar on a terminal, otherwise one line per minute."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(), TextColumn("{task.description}"))
    started, minutes = time.monotonic(), Minutes()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def progress(done: Summary, total: int | None) -> None:
            if not (console.is_terminal or minutes.over()):
                return
            seen = done.skipped + done.finished
            text = progress_text(seen, total, done.finished, done.decisions["error"], time.monotonic() - started)
            if console.is_terminal:
                bar.update(task, completed=seen, total=total, description=text)
            else:
                console.print(text)

        yield progress


def progress_text(seen: int, total: int | None, finished: int, errors: int, seconds: float) -> str:
    """Return the progress of a run as text.

    Args:
        seen: micrographs done, by this run or before.
        total: micrographs in the sources; None while unknown.
        finished: micrographs done by this run.
        errors: those of them that could not be inspected.
        seconds: time since this run started.
    """
    rate = finished / max(seconds, 1e-9)
    parts = [f"{seen:,}" if total is None else f"{seen:,} of {total:,}", rate_text(rate)]
    if total is not None and rate > 0:
        minutes = max(0, total - seen) / rate / 60
        hours, minutes = divmod(round(minutes), 60)
        parts.append(f"{hours} h {minutes:02d} min left")
    if errors:
        parts.append(f"{errors:,} could not be inspected")
    return ", ".join(parts)


def rate_text(rate: float) -> str:
    """Return a rate, given per second, in the shortest unit of time in which it is at least 1."""
    if rate >= 1:
        return f"{rate:.1f} a second"
    return f"{60 * rate:.1f} a minute" if 60 * rate >= 1 else f"{3600 * rate:.1f} an hour"
