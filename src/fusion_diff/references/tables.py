"""Strict reading of small CSV tables. Every error names the file and the line."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from fusion_diff.errors import ReferenceSetError
from fusion_diff.home import is_file, is_folder
from fusion_diff.printable import printable
from fusion_diff.references.reference import did_you_mean

_MAX_BYTES = 16 * 2**20
_MAX_COLUMNS = 100
_MAX_ROWS = 100_000  # a list of groups may cover a whole archive of which only a few files are enrolled
_SHOWN = 200
_GROUPS = {"specimen", "specimens", "sample", "samples", "piece", "pieces"}
"""Columns that mean groups to whoever writes them."""
_NAMES_SEPARATOR = re.compile(r"sep=([,;\t])[\r\n]*", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        written: its cells by column name.
        where: file and line, for error messages.
        line: the line.
        separator: separator of the table: comma, semicolon or tab. Spreadsheets use a semicolon where numbers have a
            decimal comma.
    """

    written: dict[str, str]
    where: str
    line: int
    separator: str

    @property
    def cells(self) -> dict[str, str]:
        """Its cells, stripped of surrounding space."""
        return {column: value.strip() for column, value in self.written.items()}

    def spellings(self, column: str) -> list[str]:
        r"""Return the possible readings of a file name in a cell, the most likely first.

        These are the text as written, as a file name may begin with a space or contain a `\`; the stripped text; and
        the stripped text with `\` replaced by `/`, for lists written on Windows. Each follows in the composed and the
        decomposed form of Unicode, because a file copied from a Mac may have the other one; the last is the third.
        """
        written, plain = self.written[column], self.cells[column]
        texts = [written, plain, plain.replace("\\", "/")]
        forms = [unicodedata.normalize(form, text) for text in texts for form in ("NFC", "NFD")]
        return [*texts, *forms, texts[-1]]


def heading(lines: Iterator[str]) -> tuple[int, str, str]:
    """Read a CSV file up to its header: the first line that is neither blank nor Excel's `sep=;`, which may precede it.

    Returns:
        The number of the header's line, from 1; the line, empty if there is none; and the separator of the table: the
        one that Excel's line names, or whichever of comma, semicolon and tab is most frequent in the header.
    """
    number, named = 0, ""
    for number, line in enumerate(lines, start=1):
        if number == 1 and (found := _NAMES_SEPARATOR.fullmatch(line)):
            named = found[1]
        elif line.strip():
            return number, line, named or max(",;\t", key=line.count)
    return number, "", named or ","


def read_table(path: Path, *, required: Sequence[str], optional: Sequence[str]) -> list[Row]:
    """Return the rows of a CSV file. Blank lines are skipped, and columns that are not requested are dropped.

    The separator may be a comma, semicolon or tab, as spreadsheets write them. A first line `sep=;` of Excel names it.

    Args:
        path: UTF-8 file with a header, at most 16 MiB, 100 columns and 100,000 lines.
        required: columns that must exist and be filled in every row.
        optional: columns that may exist; a missing one reads as empty.

    Raises:
        ReferenceSetError: the file is missing, too large, not UTF-8, empty or malformed, or lacks a column or cell.
    """
    lines = io.StringIO(_read_text(path), newline="")
    first, header_line, delimiter = heading(lines)
    reader = csv.reader(chain([header_line], lines), delimiter=delimiter, strict=True)
    above = first - 1
    header: list[str] | None = None
    rows: list[Row] = []
    try:
        for values in reader:
            cells = [value.strip() for value in values]
            line = above + reader.line_num
            where = f"{path}, line {line}"
            if not any(cells):
                continue
            if header is None:
                if len(cells) > _MAX_COLUMNS:
                    raise ReferenceSetError(
                        f"{where}: the header has {len(cells):,} columns, more than {_MAX_COLUMNS}: "
                        "keep only the needed ones"
                    )
                header = [cell.casefold() for cell in cells]
                _check_header(header, where, required, optional)
                continue
            if len(cells) != len(header):
                raise ReferenceSetError(
                    f"{where}: {len(cells)} fields, but the header has {len(header)}: put quotes around a field that "
                    "contains the separator"
                )
            if len(rows) == _MAX_ROWS:
                raise ReferenceSetError(f"{where}: more than {_MAX_ROWS:,} files: list only those of the references")
            by_column = dict(zip(header, values, strict=True))
            row = Row(
                {column: by_column.get(column, "") for column in (*required, *optional)},
                where,
                line,
                delimiter,
            )
            for column in required:
                if not row.cells[column]:
                    raise ReferenceSetError(f"{where}: the column {column!r} is empty; fill it in or remove the line")
            rows.append(row)
    except csv.Error as error:
        line = above + reader.line_num
        raise ReferenceSetError(f"{path}, line {line}: not a readable CSV line: {error}") from error
    if not rows:
        raise ReferenceSetError(
            f"{path} lists no files: it needs a header {','.join(required)} and a line for each file"
        )
    return rows


def _read_text(path: Path) -> str:
    if is_folder(path):
        raise ReferenceSetError(f"{path} is a folder, not a CSV file: give a file, or read the folder with from_folder")
    if not is_file(path):
        raise ReferenceSetError(f"the CSV file {path} does not exist: check the path")
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ReferenceSetError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error
    if len(data) > _MAX_BYTES:
        raise ReferenceSetError(f"{path} is larger than {_MAX_BYTES // 2**20} MiB: it is not a list of references")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ReferenceSetError(f"{path}, line {line}: not UTF-8 text; save the file as CSV UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ReferenceSetError(f"{path}, line {line}: a zero byte, so this is not text; save the file as CSV UTF-8")
    return text


def _check_header(header: list[str], where: str, required: Sequence[str], optional: Sequence[str]) -> None:
    missing = [column for column in required if column not in header]
    if missing:
        raise ReferenceSetError(
            f"{where}: the header lacks {' and '.join(map(repr, missing))}; "
            f"it has {printable(', '.join(header), _SHOWN)}, but needs {', '.join(required)}"
        )
    known = (*required, *optional)
    for column in header:
        if column in known and header.count(column) > 1:
            raise ReferenceSetError(f"{where}: the column {column!r} occurs twice; keep one")
        # Silently ignoring a misspelt `groups` would allow one specimen on both sides of a split.
        absent = set(known) - set(header)
        hint = "" if column in known else did_you_mean("group" if column in _GROUPS else column, absent)
        if hint:
            raise ReferenceSetError(f"{where}: unknown column {column!r}{hint}; rename or remove it")
