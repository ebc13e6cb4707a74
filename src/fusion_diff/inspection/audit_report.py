"""HTML page of an audit of references: each suspicious one with its picture, boxes and reasons."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_diff import __version__
from fusion_diff.inspection import draw
from fusion_diff.inspection.files import write_text
from fusion_diff.inspection.pages import template
from fusion_diff.inspection.run import THUMBNAIL_SIDE
from fusion_diff.micrograph.thumbnail import thumbnail

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from fusion_diff.references import ReferenceSet
    from fusion_diff.references.reference import Reference
    from fusion_diff.trust.poisoning import Finding


def write_audit(findings: Sequence[Finding], references: ReferenceSet, folder: str | os.PathLike[str]) -> Path:
    """Write `audit.html` to a folder and return its path. The page contains its pictures and loads nothing else.

    Args:
        findings: the findings, the most severe first.
        references: the audited set.
        folder: created where it does not exist.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    listed = list(dict.fromkeys(finding.index for finding in findings))
    cards = [_card(references[index], [each for each in findings if each.index == index]) for index in listed]
    page = template(Path(__file__).with_name("audit.html.j2")).render(
        title="Audit of references",
        version=__version__,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        total=len(references),
        sha256=references.sha256,
        cards=cards,
    )
    return write_text(Path(folder) / "audit.html", page)


def _card(reference: Reference, findings: list[Finding]) -> dict[str, Any]:
    """Return the template's values for one reference; boxes are in percent of its sides."""
    from PIL import Image

    it = reference.micrograph
    high, wide = 100 / it.height, 100 / it.width
    boxes = [each.box for each in findings if each.box is not None]
    return {
        "name": reference.name,
        "label": reference.label,
        "grave": any(each.grave for each in findings),
        "findings": findings,
        "picture": draw.data_uri(Image.fromarray(thumbnail(it, THUMBNAIL_SIDE)), "JPEG"),
        "boxes": [(top * high, left * wide, height * high, width * wide) for top, left, height, width in boxes],
    }
