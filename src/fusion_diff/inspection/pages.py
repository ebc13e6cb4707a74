"""Jinja2 templates of HTML pages, with common escaping and formatting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_diff.counted import counted
from fusion_diff.inspection.wording import number
from fusion_diff.printable import paragraph, printable

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment, Template


def environment(folder: Path) -> Environment:
    """Return a Jinja2 environment for the templates in a folder: values are escaped, undefined ones are errors."""
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
    """Return the template in a file, from the `environment` of its folder."""
    return environment(file.parent).get_template(file.name)
