"""Templates of the pages that are written: one way to escape and to format for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_diff.counted import counted
from fusion_diff.inspection.wording import number
from fusion_diff.printable import paragraph, printable

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment, Template


def environment(folder: Path) -> Environment:
    """Return what finds Jinja2 templates in a folder: what is put into one is escaped, what is undefined an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"counted": counted, "number": number, "printable": printable, "paragraph": paragraph}
    return found


def template(file: Path) -> Template:
    """Return the template in a file, of the `environment` of its folder."""
    return environment(file.parent).get_template(file.name)
