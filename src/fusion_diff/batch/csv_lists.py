"""Lists of micrographs as CSV, read line by line in constant memory."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, BinaryIO

from fusion_diff.errors import BatchError
from fusion_diff.printable import printable
from fusion_diff.references.tables import heading

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = ("path", "file")
"""Names of the column of paths; the first that a table has counts. Lists of references name it `file`."""
MAX_LINE_BYTES = 2**16


def paths_in_table(stream: BinaryIO, name: str) -> Iterator[str]:
    """Yield the cells of the column `path`, or else `file`, of a CSV file in UTF-8. Empty lines are skipped.

    The separator may be a comma, semicolon or tab, as spreadsheets write them. A first line `sep=;` of Excel names it.

    Args:
        stream: the open file.
        name: its name in error messages.

    Raises:
        BatchError: the file is malformed; the message names the line.
    """
    lines = _lines(stream, name)
    above, first, delimiter = heading(lines)
    header = [cell.strip().casefold() for cell in next(csv.reader([first], delimiter=delimiter), [])]
    named = next((column for column in COLUMNS if column in header), "")
    if not named or header.count(named) != 1:
        shown = printable(", ".join(header), 200)
        raise BatchError(
            f"{name}: its header is {shown!r}, but must contain exactly one column {' or '.join(COLUMNS)}; "
            "add or rename it"
        )
    column = header.index(named)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            path = row[column].strip() if column < len(row) else ""
            if not path or len(row) != len(header):
                raise BatchError(
                    f"{name}, line {above + reader.line_num}: it has {len(row)} fields under a header of "
                    f"{len(header)}, or no path; complete the line, and put quotes around fields that "
                    "contain the separator"
                )
            yield path
    except csv.Error as error:
        raise BatchError(
            f"{name}, line {above + reader.line_num}: it is not valid CSV ({error}); correct it"
        ) from error


def _lines(stream: BinaryIO, name: str) -> Iterator[str]:
    count = 0
    while line := stream.readline(MAX_LINE_BYTES):
        count += 1
        if len(line) == MAX_LINE_BYTES:
            raise BatchError(f"{name}, line {count}: it is longer than {MAX_LINE_BYTES} bytes; write one path per line")
        try:
            text = line.decode("utf-8-sig" if count == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise BatchError(f"{name}, line {count}: it is not UTF-8; save the file as CSV UTF-8") from error
        if "\0" in text:
            raise BatchError(
                f"{name}, line {count}: it contains a zero byte, so the file is not text; save the file as CSV UTF-8"
            )
        yield text
