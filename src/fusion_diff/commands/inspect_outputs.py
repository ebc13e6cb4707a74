"""The output files of `inspect`: which there are, checked before the work, and written as it goes on and at its end."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fusion_diff.commands.outputs import Output, check_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from fusion_diff.inspection.policy import Ruling
    from fusion_diff.inspection.record import RecordWriter
    from fusion_diff.inspection.run import Outcome


@dataclass(frozen=True)
class InspectOutputs:
    """Output files requested by the options."""

    json: Path | None
    report: Path | None
    record: Path | None
    junit: Path | None
    sarif: Path | None
    markdown: Path | None

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

    def check(self, inputs: Iterable[Path], model: str) -> None:
        """Check that all outputs can be written and none overwrites an input; see `check_outputs`."""
        from fusion_diff.inspection.files import LEDGER, REPORT
        from fusion_diff.inspection.record import STDOUT

        pages = {"--junit": self.junit, "--sarif": self.sarif, "--markdown": self.markdown}
        others = [Output(option, file) for option, file in pages.items() if file is not None]
        if self.report is not None:
            others.append(Output("--report", self.report / "index.html", own=REPORT))
        if self.record is not None:
            head = Output("--record", self.record.with_name(f"{self.record.name}.head"), own=LEDGER)
            others += [Output("--record", self.record, in_place=True, own=LEDGER), head]
        records = [each for each in self.records if each.file != STDOUT]
        check_outputs([*records, *others], inputs, model)

    @contextmanager
    def recording(self) -> Iterator[list[RecordWriter]]:
        """Open the files of records. If one of them is stdout, all other printing goes to stderr."""
        from fusion_diff.inspection.record import STDOUT, RecordWriter

        with ExitStack() as stack:
            writers = [stack.enter_context(RecordWriter(each.file)) for each in self.records]
            if any(writer.path == STDOUT for writer in writers):
                stack.enter_context(redirect_stdout(sys.stderr))
            yield writers

    def pages(
        self, outcomes: Sequence[Outcome], rulings: Sequence[Ruling], code: Callable[[], int]
    ) -> list[tuple[str, Path, Callable[[Path], Path]]]:
        """Return the pages to write at the end, in order: name, path, and a function that writes it.

        Args:
            outcomes: of each micrograph.
            rulings: on each outcome.
            code: gives the exit code of the run, which depends on whether the pages before could be written.
        """
        from fusion_diff.inspection.junit import write_junit
        from fusion_diff.inspection.markdown import write_markdown
        from fusion_diff.inspection.report import write_report
        from fusion_diff.inspection.sarif import write_sarif

        pages = (
            ("JUnit", self.junit, partial(write_junit, rulings)),
            ("Summary", self.markdown, partial(write_markdown, rulings)),
            ("Report", self.report, partial(write_report, outcomes)),
            ("SARIF", self.sarif, lambda file: write_sarif(rulings, code(), file)),
        )
        return [(what, file, write) for what, file, write in pages if file is not None]
