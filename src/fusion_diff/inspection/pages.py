"""Templates of the pages that are written: one way to escape and to format for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_diff.inspection.wording import number
from fusion_diff.printable import paragraph, printable

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Template


def template(file: Path) -> Template:
    """Return the Jinja2 template in a file: everything put into it is escaped, and what is undefined is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(file.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "printable": printable, "paragraph": paragraph}
    return environment.get_template(file.name)
