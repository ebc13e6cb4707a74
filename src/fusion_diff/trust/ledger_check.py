"""Check of a ledger line by line: where lines were altered, removed, inserted, reordered or cut off."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from fusion_diff.counted import counted
from fusion_diff.errors import TrustError
from fusion_diff.fewshot.decision import Decision
from fusion_diff.printable import quoted
from fusion_diff.trust.files import expect_ledger
from fusion_diff.trust.ledger import FORMAT, MAX_LINE_BYTES, NOTHING, may_start, parse, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["altered", "removed", "inserted", "reordered", "truncated", "torn"]
MAX_BREAKS = 1000
"""Most breaks that are listed, which bounds the memory. Further breaks are only counted."""

OTHER = "other"
"""Key for the count of unknown decisions."""
_DECISIONS = (*get_args(Decision), "overruled", "withdrawn", "error")


@dataclass(frozen=True)
class Break:
    """A place where the chain does not hold.

    Attributes:
        line: number of the line in the file, from 1; for missing lines, that of the next line.
        kind: what happened there.
        message: the same in a sentence.
    """

    line: int
    kind: Kind
    message: str


@dataclass(frozen=True)
class LedgerReport:
    """Result of checking a ledger.

    Attributes:
        id: random id of the ledger; empty where its header is damaged.
        lines: number of complete lines, with the header.
        decisions: number of lines of each decision, of errors, and of `OTHER` decisions.
        head: hash of the last valid line, to be noted elsewhere; empty where there is none.
        breaks: breaks sorted by line, at most `MAX_BREAKS`.
        found: number of breaks in all.
        note: a remark that is not a break; may be empty.
    """

    id: str
    lines: int
    decisions: dict[str, int]
    head: str
    breaks: tuple[Break, ...]
    found: int
    note: str = ""

    @property
    def intact(self) -> bool:
        """True where every line is as it was written and no line is missing, as far as the head shows."""
        return self.found == 0


@dataclass
class _Checker:
    """Follows the chain. `tips` are candidates for the last true line; several where a number occurs twice."""

    breaks: list[Break] = field(default_factory=list)
    found: int = 0
    expected: int = 0
    tips: list[tuple[int, str]] = field(default_factory=lambda: [(0, NOTHING)])
    damaged: list[int] = field(default_factory=list)
    gaps: dict[int, tuple[int, int]] = field(default_factory=dict)  # first missing: (last missing, line after it)

    def add(self, line: int, kind: Kind, message: str) -> None:
        self.found += 1
        if len(self.breaks) < MAX_BREAKS:
            self.breaks.append(Break(line, kind, f"line {line}: {message}"))

    def unreadable(self, line: int) -> None:
        """Remember an invalid line. Whether it was altered or inserted follows from the next valid line."""
        if len(self.damaged) < MAX_BREAKS:
            self.damaged.append(line)
        else:
            self.add(line, "altered", "it was altered")

    def good(self, line: int, record: dict[str, Any]) -> None:
        """Process a line whose hash is valid."""
        sequence = record["sequence"]
        if sequence < self.expected:
            self._late(line, sequence, record)
            return
        missing = sequence - self.expected
        self._settle(missing)
        if missing > len(self.damaged):
            first = self.expected + len(self.damaged)
            if len(self.gaps) < MAX_BREAKS:
                self.gaps[first] = (sequence - 1, line)
            else:
                self.add(line, "removed", f"lines with the numbers {first} to {sequence - 1} are missing before it")
        elif missing == 0:
            self._join(record["previous"])
        self.damaged.clear()
        self.expected, self.tips = sequence + 1, [(line, record["hash"])]

    def _late(self, line: int, sequence: int, record: dict[str, Any]) -> None:
        """Process a line with a number below the expected one: it was moved here, or inserted."""
        for first, (last, after) in self.gaps.items():
            if first <= sequence <= last:
                if len(self.gaps) < MAX_BREAKS:  # else the search for each further line would take ever longer
                    del self.gaps[first]
                    if first < sequence:
                        self.gaps[first] = (sequence - 1, after)
                    if sequence < last:
                        self.gaps[sequence + 1] = (last, after)
                self.add(line, "reordered", f"number {sequence} is here, but was written before line {after}")
                return
        if sequence == self.expected - 1 and len(self.tips) < MAX_BREAKS:
            self.tips.append((line, record["hash"]))
        else:
            self.add(line, "inserted", f"number {sequence} is repeated, in another place than it was written")

    def _settle(self, missing: int) -> None:
        """Classify the damaged lines, given how many sequence numbers are missing."""
        for index, line in enumerate(self.damaged):
            if index < missing:
                self.add(line, "altered", "it was altered: its hash does not match")
            else:
                self.add(line, "inserted", "it is not a line of this ledger: the lines around it follow each other")

    def _join(self, previous: str) -> None:
        """Find the last line that the next line follows; the other candidates were inserted."""
        hashes = [each for _, each in self.tips]
        true = hashes.index(previous) if previous in hashes else 0
        if previous not in hashes:
            self.add(self.tips[0][0] or 1, "altered", "it was rewritten: the line after it holds another hash of it")
        for index, (line, _) in enumerate(self.tips):
            if index != true:
                self.add(
                    line, "inserted", "it repeats a number: the line after it follows the other line of that number"
                )
        self.tips = [self.tips[true]]

    def close(self, known: str | None) -> None:
        """Classify what is open at the end of the file; `known` is the last hash according to the head."""
        self._settle(len(self.damaged))
        self.expected += len(self.damaged)
        if len(self.tips) > 1:
            hashes = [each for _, each in self.tips]
            self._join(known if known is not None and known in hashes else hashes[0])
        for first, (last, after) in self.gaps.items():
            what = (
                f"line with the number {first} is" if first == last else f"lines with the numbers {first} to {last} are"
            )
            self.add(after, "removed", f"the {what} missing before it")
        self.breaks.sort(key=lambda each: each.line)


def check(path: str | os.PathLike[str], *, expect: str | None = None) -> LedgerReport:
    """Check a ledger in one pass, line by line.

    Args:
        path: the ledger.
        expect: hash of a line that was noted elsewhere, usually a former head. It must be in the ledger.

    Raises:
        TrustError: the file is not a ledger.
        OSError: the file cannot be read.
    """
    path = Path(path)
    expect_ledger(path, path.stat())
    checker, decisions = _Checker(), Counter[str]()
    ledger_id, last, torn, count, pinned = "", None, False, 0, expect is None
    behind = ""  # hash of the line before the last
    converted, first = 0, 0  # lines that are whole but for their line end
    for number, line in _lines(path):
        if number == 1 and not may_start(line):
            raise TrustError(f"{path}: it is not a ledger, which starts with a line of format {FORMAT}; check the path")
        if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
            torn = True
            break
        count = number
        record = parse(line.removesuffix(b"\n"))
        if record is None and (record := parse(line.removesuffix(b"\r\n"))):
            converted, first = converted + 1, first or number
        if number == 1:
            ledger_id = str(record.get("id", "")) if record else ""
        if record is None:
            checker.unreadable(number)
            continue
        checker.good(number, record)
        pinned = pinned or record["hash"] == expect
        behind, last = (last["hash"] if last else NOTHING), record
        if number > 1:
            decision = record.get("decision", "error")
            decisions[decision if decision in _DECISIONS else OTHER] += 1
    if count == 0 and not torn:
        raise TrustError(f"{path}: the file is empty, so it is not a ledger; check the path")
    missing = f"{path.name}.head is missing: lines cut off the end would not be noticed"
    try:
        head = read_head(path)
    except TrustError as error:
        head, note = None, str(error)
    else:
        note = "" if head else missing
    if converted:
        where = f"line ends were converted to CR LF, as git and mail do, in {counted(converted, 'line')}"
        checker.add(first, "altered", f"{where}; convert them back to LF, or restore the ledger from a copy")
    checker.close(head["hash"] if head else None)
    if torn:
        if head is not None and head["count"] > count:
            how = "after it was written; restore the ledger from a copy"
        else:
            how = f"as by a run that was killed; set it aside with fusion-diff audit {quoted(path)} --repair"
        checker.add(count + 1, "torn", f"it was cut off {how}")
    if head is None and note and count > 1:
        if note == missing and last is not None and last["hash"] == expect:
            note = f"{path.name}.head is missing; the expected head is that of the last line"
        else:
            checker.add(count, "truncated", note)
            note = ""
    elif head is not None:
        note = _compare(checker, head, count, last, behind, path)
    if not pinned:
        checker.add(
            max(1, count), "truncated", f"no line has the hash {expect}: the ledger was cut off or rewritten since"
        )
    return LedgerReport(
        ledger_id, count, dict(decisions), last["hash"] if last else "", tuple(checker.breaks), checker.found, note
    )


def _compare(
    checker: _Checker, head: dict[str, Any], count: int, last: dict[str, Any] | None, behind: str, path: Path
) -> str:
    """Compare the end of the chain with the head; return a note where the head is one line behind."""
    known, name = head["count"], f"{path.name}.head"
    reached = checker.expected  # number of lines that were written, damaged ones included
    if known > reached:
        checker.add(
            max(1, count),
            "truncated",
            f"it is the last one, but {name} lists {counted(known, 'line')}: {known - reached} cut off",
        )
    elif known == reached:
        if last is not None and last["hash"] != head["hash"] and checker.found == 0:
            checker.add(count, "altered", f"it was rewritten: {name} holds another hash of it")
    elif known == reached - 1 and last is not None and head["hash"] in (last["previous"], behind):
        return f"{name} is one line behind, as after a run that was killed; the next verdict corrects it"
    else:
        checker.add(known + 1, "inserted", f"{name} lists {counted(known, 'line')}, but the file holds {reached}")
    return ""


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield numbered lines. Lines longer than `MAX_LINE_BYTES` are cut one byte above that."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            rest = line
            while len(line) > MAX_LINE_BYTES and rest and not rest.endswith(b"\n"):
                rest = stream.readline(MAX_LINE_BYTES)
            yield number, line
