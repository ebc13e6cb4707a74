"""The output files of `inspect`: which there are, checked before the work, and written as it goes on and at its end."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import typer

from fusion_diff.commands.outputs import Output, check_outputs, of_ledger
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from fusion_diff.inspection.policy import Ruling
    from fusion_diff.inspection.record import RecordWriter


@dataclass(frozen=True)
class InspectOutputs:
    """Output files requested by the options."""

    json: Path | None
    report: Path | None
    record: Path | None
    junit: Path | None
    sarif: Path | None
    markdown: Path | None
    csv: Path | None

    @property
    def records(self) -> list[Output]:
        """Files of records, one line per micrograph; a single one where both options name the same file."""
        from fusion_diff.inspection.files import place

        records = [] if self.json is None else [Output("--json", self.json, in_place=True)]
        if self.report is not None:
            file = self.report / "inspections.jsonl"
            if self.json is None or place(self.json) != place(file):
                records.append(Output("--report", file, in_place=True))
        return records

    def check(self, inputs: Iterable[Path]) -> None:
        """Check that all outputs can be written and none overwrites an input; see `check_outputs`."""
        from fusion_diff.inspection.files import REPORT
        from fusion_diff.inspection.record import STDOUT

        pages = {"--junit": self.junit, "--sarif": self.sarif, "--markdown": self.markdown, "--csv": self.csv}
        others = [Output(option, file) for option, file in pages.items() if file is not None]
        if self.report is not None:
            others.append(Output("--report", self.report / "index.html", own=REPORT))
        others += of_ledger(self.record)
        records = [each for each in self.records if each.file != STDOUT]
        check_outputs([*records, *others], inputs)
        if self.csv is not None and self.csv.suffix.lower() in (".xlsx", ".xls", ".ods"):
            told = "spreadsheets take a table in CSV for damaged under this name; name it"
            raise typer.BadParameter(f"--csv {printable(self.csv)}: {told} {printable(self.csv.stem)}.csv")

    @contextmanager
    def recording(self) -> Iterator[list[RecordWriter]]:
        """Open the files of records. If one of them is stdout, all other printing goes to stderr."""
        from fusion_diff.inspection.record import STDOUT, RecordWriter

        with ExitStack() as stack:
            writers = [stack.enter_context(RecordWriter(each.file)) for each in self.records]
            if any(writer.path == STDOUT for writer in writers):
                stack.enter_context(redirect_stdout(sys.stderr))
            yield writers

    def remove_old_pages(self) -> None:
        """Remove the pages of an earlier run, which would pass for those of this run if it ended without any.

        Call it after `check`, by which they are no input and nothing that cannot be made again.

        Raises:
            OSError: one cannot be removed.
        """
        page = None if self.report is None else self.report / "index.html"
        for file in (self.junit, self.markdown, self.csv, page, self.sarif):
            if file is not None:
                file.unlink(missing_ok=True)

    def write_pages(
        self,
        rulings: Sequence[Ruling],
        code: int,
        faults: list[Exception],
        notes: Sequence[str],
    ) -> list[str]:
        """Write the pages, and return a line on each. Whatever keeps one from being written, the others are.

        Args:
            rulings: on each micrograph.
            code: exit code of the run without faults.
            faults: errors of the run so far; those of the pages are added.
            notes: remarks on the files as a whole, for the report and the pages of CI.
        """
        from fusion_diff.inspection.files import write_text
        from fusion_diff.inspection.junit import to_junit
        from fusion_diff.inspection.markdown import to_markdown
        from fusion_diff.inspection.report import write_report
        from fusion_diff.inspection.sarif import write_sarif
        from fusion_diff.inspection.spreadsheet import to_csv

        outcomes = [each.outcome for each in rulings]
        pages: tuple[tuple[str, Path | None, Callable[[Path], Path]], ...] = (
            ("JUnit", self.junit, lambda file: write_text(file, to_junit(rulings, notes))),
            ("Summary", self.markdown, lambda file: write_text(file, to_markdown(rulings, notes))),
            ("Table", self.csv, lambda file: write_text(file, to_csv(rulings))),
            ("Report", self.report, partial(write_report, outcomes, rulings=rulings, notes=notes)),
            ("SARIF", self.sarif, lambda file: write_sarif(rulings, 3 if faults else code, file, notes)),
        )
        written = []
        for what, file, write in pages:
            try:
                if file is not None:
                    written.append(f"{what}: {write(file)}")
            except Exception as error:
                faults.append(error)
        return written
