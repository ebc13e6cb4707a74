"""CSV tables: `tables.read_table`, groups in `groups.group_names`, and lists in `ReferenceSet.from_csv`."""

from __future__ import annotations

import random
import warnings

import tifffile
from common import FOLDER, FindingError, bounded_memory, change_bytes, check_message, written
from images import TEXTURE

from fusion_diff.errors import ReferenceSetError
from fusion_diff.references import ReferenceSet
from fusion_diff.references.groups import group_names
from fusion_diff.references.tables import read_table

MAX_LEN = 2**13
_NAMES = ["sound/a.tif", "crack/b.tif"]
_WORDS = ("file", "label", "group", "class", "mark", "pixel_size_um", *_NAMES, "sound", "crack", "../x", "/etc/passwd")
_PIECES = (*_WORDS, ",", ";", "\t", '"', '""', "\n", "\r", "\r\n", "\0", "\ufeff", "\x1b[31m", "1e999", "nan", "é", " ")


def seeds() -> list[bytes]:
    """Return lists of references and of groups."""
    return [
        b"file,label,group,mark,pixel_size_um\nsound/a.tif,sound,1,,0.5\ncrack/b.tif,crack,2,crack/b.tif,\n",
        b"\xef\xbb\xbffile;label\r\nsound/a.tif;sound\r\n'crack/b.tif';crack\r\n",
        b"file\tgroup\tclass\nsound/a.tif\t1\tsound\ncrack\\b.tif\t2\tcrack\n",
        b'file,group\n"sound/a.tif",1\n"crack/b.tif","2,\n3"\n',
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Put words and separators in the place of others; or change bytes anywhere."""
    if rng.random() < 0.3:
        return change_bytes(data, rng)
    at, piece = rng.randrange(len(data) + 1), rng.choice(_PIECES).encode()
    return data[:at] + piece * rng.choice((1, 1, 2, 100)) + data[at + rng.choice((0, len(piece))) :]


def check(data: bytes) -> None:
    """Read the table in every way; what is read has the columns asked for."""
    for name, levels in zip(_NAMES, (TEXTURE, TEXTURE[::-1]), strict=True):
        if not (FOLDER / name).exists():
            (FOLDER / name).parent.mkdir(exist_ok=True)
            tifffile.imwrite(FOLDER / name, levels)
    path = written(data, "table.csv")
    with bounded_memory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (_rows, _groups, _references):
            try:
                read(path)
            except ReferenceSetError as error:
                check_message(error)


def _rows(path) -> None:
    for row in read_table(path, required=("file",), optional=("label",)):
        if set(row.cells) != {"file", "label"} or not row.cells["file"]:
            raise FindingError(f"a row of {row.cells}")


def _groups(path) -> None:
    if set(group_names(_NAMES, path)) != set(_NAMES):
        raise FindingError("names without a group")


def _references(path) -> None:
    references = ReferenceSet.from_csv(path, authentic="sound")
    if not any(reference.label == "sound" for reference in references):
        raise FindingError("no authentic reference")
