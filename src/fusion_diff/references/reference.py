"""One labelled reference, and the checks shared by all ways of making references."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.errors import ReferenceSetError
from fusion_diff.micrograph import Micrograph
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_REFERENCES = 5000
"""Maximum number of references in a set. Enrolment is made for tens, and keeps every reference accessible."""

LISTED = 10


@dataclass(frozen=True, eq=False)
class Reference:
    """A micrograph whose class is known.

    Attributes:
        micrograph: the image.
        label: its class, for example `sound` or `crack`; label and group are kept in Unicode's composed form (NFC).
        group: its specimen. References of one specimen must share a group, whatever their labels. Cross-fitting leaves
            out whole groups; a specimen on both sides of a split makes every error estimate too optimistic.
        name: its name in reports; unique within a set.
        mark: read-only bool (height, width), true at the flaw; None if no flaw is marked.

    Raises:
        ReferenceSetError: label, group or name is empty, or the mark is not a 2-D array of the micrograph's size.
    """

    micrograph: Micrograph
    label: str
    group: str
    name: str
    mark: NDArray[np.bool_] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the fields and take a read-only copy of the mark."""
        if not isinstance(self.micrograph, Micrograph):
            kind = type(self.micrograph).__name__
            raise ReferenceSetError(
                f"reference {self.name!r} contains a {kind}, not a Micrograph: read a file with "
                "load_microstructure_data(path), or wrap an array with Micrograph.from_array(pixels)"
            )
        for what in ("name", "label", "group"):
            value = getattr(self, what)
            if not isinstance(value, str) or not value.strip():
                raise ReferenceSetError(
                    f"the {what} of reference {self.name!r} must be a non-empty string, not {value!r}: "
                    "convert numbers with str"
                )
            text = str(value)  # NumPy's strings show their type in messages
            object.__setattr__(self, what, text if what == "name" else composed(text))
        if self.mark is not None:
            flaw = as_mark(self.mark, f"the mark of {self.name}")
            size = (self.micrograph.height, self.micrograph.width)
            if flaw.shape != size:
                raise ReferenceSetError(
                    f"the mark of {self.name} is {flaw.shape[0]}x{flaw.shape[1]} pixels (height x width), "
                    f"but the micrograph is {size[0]}x{size[1]}; draw the mark on the micrograph itself"
                )
            flaw.setflags(write=False)
            object.__setattr__(self, "mark", flaw)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled or copied reference, whose mark would be writeable otherwise."""
        self.__dict__.update(state)
        if self.mark is not None:
            self.mark.setflags(write=False)


def as_mark(values: Any, what: str) -> NDArray[np.bool_]:
    """Return a bool copy of a 2-D mark, true where `values` is not zero; `what` is its name in error messages."""
    array = np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise ReferenceSetError(
            f"{what} must be a 2-D array of numbers or booleans, not {array.dtype} of shape {array.shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ReferenceSetError(f"{what} contains NaN or infinite values: use 0 for sound and 1 for flaw")
    return np.array(array != 0, order="C")


def check_authentic(authentic: str, labels: Iterable[str], where: str) -> None:
    """Raise ReferenceSetError unless `authentic` is among the labels in `where`, and no two are alike in letters."""
    found = sorted({composed(label) for label in labels})
    for one, other in alike_in_letters(found):
        raise ReferenceSetError(
            f"{where} has the classes {one!r} and {other!r}, which differ only in case or in blanks: use one spelling"
        )
    if not isinstance(authentic, str) or not authentic.strip():
        raise ReferenceSetError(
            f"authentic must be the name of one of the classes ({', '.join(found)}), not {authentic!r}: "
            "give labels and authentic as strings, such as 'sound'"
        )
    if composed(authentic) not in found:
        raise ReferenceSetError(
            f"{where} has no class {str(authentic)!r}{did_you_mean(authentic, found)}; "
            f"set authentic to one of its classes: {', '.join(found)}"
        )


def composed(text: str) -> str:
    """Return text in Unicode's composed form (NFC). Names from a Mac may be decomposed, but look and mean the same."""
    return unicodedata.normalize("NFC", text)


def named_specimens(names: Iterable[str], groups: Iterable[str]) -> set[str]:
    """Return the groups that were given. A reference without one is a specimen by its own name."""
    return {group for name, group in zip(names, groups, strict=True) if group != composed(name)}


def alike_in_letters(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of different names, sorted, that differ only in case, surrounding blanks or Unicode form."""
    first: dict[str, str] = {}
    # Not `casefold`, for which Masse and Maße are one.
    pairs = [(first.setdefault(composed(name).strip().lower(), name), name) for name in sorted(set(names))]
    return [(one, other) for one, other in pairs if one != other]


def check_size(count: int, where: str) -> None:
    """Raise ReferenceSetError if `count` exceeds `MAX_REFERENCES`."""
    if count > MAX_REFERENCES:
        raise ReferenceSetError(
            f"{where} holds {count} references, more than {MAX_REFERENCES}: enrol a selection of the clearest ones"
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint such as ` (did you mean 'sound'?)`, or an empty string if no known word is close."""
    by_folded = {item.casefold(): item for item in known}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=1)
    return f" (did you mean {by_folded[close[0]]!r}?)" if close else ""


def listing(items: Iterable[object]) -> str:
    """Return the first ten items for an error message, one per line, and the number of further ones."""
    lines = [printable(item) for item in items]
    shown = [f"\n  {line}" for line in lines[:LISTED]]
    if len(lines) > LISTED:
        shown.append(f"\n  and {len(lines) - LISTED} more")
    return "".join(shown)
