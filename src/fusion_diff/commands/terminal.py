"""Printing by commands: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fusion_diff.counted import counted
from fusion_diff.inspection.wording import SYMBOLS, below_common_folder, number, region_count
from fusion_diff.printable import paragraph, printable, printable_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fusion_diff.enrolment import Enrolment
    from fusion_diff.inspection.run import Outcome
    from fusion_diff.trust.poisoning import Finding


class Advance(Protocol):
    """Moves a progress bar, given the number done, the total, and the current file if there is one."""

    def __call__(self, done: int, total: int, path: Path | None = None, /) -> None:
        """Move the bar."""


_STYLES = {"authentic": "green", "not authentic": "red", "inconclusive": "yellow"}
_READINGS = {
    "departures": "places unlike the authentic references, or like the flaws of the others, added up",
    "multiple-instance": "places like the flaws of the references",
    "outliers": "the strangest places",
    "pooled": "the texture as a whole",
    "reconstruction": "what the diffusion prior could not reconstruct",
}
"""Meaning of every reading that ships, in a few words; those of heads added by users are left unexplained."""


class Minutes:
    """Minute timer, for progress that is printed once a minute where there is no terminal."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def over(self) -> bool:
        """Return whether a minute has passed, and if so start the next."""
        now = time.monotonic()
        if now - self._began < 60:
            return False
        self._began = now
        return True


def stdout() -> Console:
    """Return a console for stdout. Tables are folded to a terminal's width, and have one line per row in a pipe."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 10_000, highlight=False)


def say(text: str) -> None:
    """Print text on stdout, without markup and in printable characters."""
    stdout().print(Text(printable_lines(text)), soft_wrap=True)


def complain(text: str) -> None:
    """Print an error on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble(("Error: ", "bold red"), paragraph(text)))


@contextmanager
def progress_bar(verb: str, then: str | None = None) -> Iterator[Advance]:
    """Show progress on stderr: a progress bar on a terminal, a line per minute elsewhere.

    Args:
        verb: description of the work.
        then: description after all steps are done, while the block still runs.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(verb, total=None)
        minutes = Minutes()

        def advance(done: int, total: int, path: Path | None = None, /) -> None:
            name = "" if path is None else " " + _shortened(printable(path.name))
            doing = then if then is not None and done == total else verb
            bar.update(task, completed=done, total=total, description=escape(doing + name))
            if not console.is_terminal and minutes.over():
                console.print(Text(f"{doing} {done}/{total}{name}"), soft_wrap=True)

        yield advance


def _shortened(name: str) -> str:
    """Return a name without its middle where it is so long that it would leave no room for the bar."""
    return name if len(name) <= 30 else f"{name[:14]}…{name[-14:]}"


@contextmanager
def stage_progress(*, enabled: bool) -> Iterator[Callable[[str, int, int, float], None]]:
    """Show one progress bar per stage on stderr on a terminal, a line per minute elsewhere.

    The function yielded takes the stage's name, step, number of steps and loss.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[loss]}"), console=console, disable=not enabled) as bar:
        tasks: dict[str, TaskID] = {}
        minutes = Minutes()

        def advance(stage: str, step: int, steps: int, loss: float, /) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=steps, loss="")
            shown = "" if stage == "pool" else f"loss {loss:.4f}"
            bar.update(tasks[stage], completed=step, loss=shown)
            if enabled and not console.is_terminal and (step == steps or minutes.over()):
                console.print(f"{stage} {step}/{steps} {shown}", highlight=False)

        yield advance


def print_figures(title: str, figures: Mapping[str, float | str]) -> None:
    """Print named figures as a two-column table with a title."""
    say(title)
    table = Table(show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for name, value in figures.items():
        told = value if isinstance(value, str) else number(float(value))
        table.add_row(Text(printable(name)), Text(printable(told)))
    stdout().print(table)


def print_learned(title: str, enrolment: Enrolment) -> None:
    """Print the figures of an enrolment with explanations, or that there are none with a single class."""
    known = enrolment.verifier.correspondence is not None
    say(
        "Surfaces of references are recognised where enough keypoints match."
        if known
        else "Surfaces of references are not recognised: views of one stand on both sides, or none recurs."
    )
    if len(enrolment.counts) == 1:
        say("All references are of one class, so there are no cross-fitted figures yet.")
        return
    figures = enrolment.figures
    print_figures(title, figures)
    if "auroc" in figures:
        say(
            "auroc, macro_f1: how well models that had not seen a reference's specimen separated the "
            "authentic references from the others; 1 is perfect, 0.5 is guessing."
        )
    told = "; ".join(f"{name}: {what}" for name, what in _READINGS.items() if f"weight of {name}" in figures)
    say(f"weight of …: the share of that reading in a verdict. {told}.")


def print_outcomes(outcomes: Sequence[Outcome], truths: Sequence[str] | None = None) -> None:
    """Print a table of outcomes and a line of counts on stdout, and the errors in full on stderr.

    Args:
        outcomes: in the order to list them.
        truths: true class of each micrograph, where known.
    """
    from fusion_diff.verdict.reasons import nothing_decided  # it imports NumPy, which `--help` does without

    console = stdout()
    table = _table(outcomes, truths, details=True)
    whole = console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width
    console.print(table if whole else _table(outcomes, truths, details=False))
    inspected = [outcome.inspection for outcome in outcomes if outcome.inspection is not None]
    if whole and any(it.p_values for it in inspected):
        two_sided = any("not authentic" in it.p_values for it in inspected)
        say(
            "p auth., p not: p-values of authentic and of not authentic. A p-value of at most alpha rules its side out"
            + ("; a decision needs exactly one side ruled out." if two_sided else ".")
        )
    if not all(it.in_scope for it in inspected):
        say("A score in brackets is of a micrograph out of scope: ignore it.")
    say(tally(outcomes))
    if not all(it.calibrated for it in inspected):
        say("The scores are not calibrated: that takes references of two specimens of each side at least.")
    if (why := nothing_decided(inspected)) is not None:
        say(f"Nothing could be decided: {why}")
    for outcome in outcomes:
        if outcome.error is not None:
            complain(outcome.error)


def _table(outcomes: Sequence[Outcome], truths: Sequence[str] | None, *, details: bool) -> Table:
    """Return the table of outcomes; details are the columns that a narrow terminal has no room for."""
    table = Table()
    table.add_column("Micrograph", overflow="fold")
    table.add_column("Score", justify="right", no_wrap=True)
    table.add_column("Decision", no_wrap=True)
    table.add_column("Class", overflow="fold")
    if details:
        for name in ("p auth.", "p not", "Regions"):
            table.add_column(name, justify="right", no_wrap=True)
    if truths is not None:
        table.add_column("Truth", overflow="fold")
    shown = below_common_folder([outcome.path for outcome in outcomes])
    for index, outcome in enumerate(outcomes):
        cells = [Text(printable(shown[outcome.path])), *_verdict(outcome)[: None if details else 3]]
        if truths is not None:
            cells.append(Text(printable(truths[index])))
        table.add_row(*cells)
    return table


def print_findings(findings: Sequence[Finding]) -> None:
    """Print findings on references as a table; nothing where there are none."""
    if not findings:
        return
    table = Table()
    for name in ("Reference", "Kind", "Strength", "Reason"):
        table.add_column(name, overflow="fold", justify="right" if name == "Strength" else "left")
    for each in findings:
        kind = Text(each.kind if each.grave else f"{each.kind} (note)", "red" if each.grave else "yellow")
        cells = Text(printable(each.reference)), kind, Text(number(each.strength, 2)), Text(paragraph(each.sentence))
        table.add_row(*cells)
    stdout().print(table)


def tally(outcomes: Sequence[Outcome]) -> str:
    """Return the number of micrographs of each decision, as a sentence."""
    counts = Counter("error" if o.inspection is None else o.inspection.decision for o in outcomes)
    parts = [f"{counts[decision]} {decision}" for decision in SYMBOLS]
    if beyond := sum(o.inspection is not None and not o.inspection.in_scope for o in outcomes):
        parts[-1] += f" ({beyond} out of scope)"
    if counts["error"]:
        parts.append(f"{counts['error']} could not be inspected")
    return f"{counted(len(outcomes), 'micrograph')}: {', '.join(parts)}."


def _verdict(outcome: Outcome) -> list[Text]:
    it = outcome.inspection
    if it is None:
        return [Text("–"), Text("! error", "bold red"), *[Text("")] * 4]
    return [
        Text(f"{it.score:.3f}" if it.in_scope else f"({it.score:.3f})", "" if it.in_scope and it.calibrated else "dim"),
        Text(f"{SYMBOLS[it.decision]} {it.decision if it.in_scope else 'out of scope'}", _STYLES[it.decision]),
        Text(printable(it.predicted_class)),
        Text(number(it.p_values.get("authentic"), 2)),
        Text(number(it.p_values.get("not authentic"), 2)),
        Text(region_count(it)),
    ]
