"""Groups of references that show the same specimen: from a CSV file, a pattern on the file name, or a function."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from fusion_diff.errors import ReferenceSetError
from fusion_diff.references.folders import as_path
from fusion_diff.references.reference import composed, listing
from fusion_diff.references.tables import read_table

Groups: TypeAlias = str | Path | re.Pattern[str] | Callable[[str], str]
"""A CSV path, a regular expression with one group, or a function from file name to group."""


def group_names(names: list[str], groups: Groups | None) -> dict[str, str]:
    """Return the group of each reference.

    Args:
        names: references as `<class>/<file name>`.
        groups: as for `ReferenceSet.from_folder`; None makes each reference its own group. Patterns and functions get
            the file name without the class, so that a specimen with images in two classes is one group.

    Raises:
        ReferenceSetError: the CSV file or pattern is malformed, or gives a reference no group.
    """
    if groups is None:
        return {name: name for name in names}
    if isinstance(groups, Path) or (isinstance(groups, str) and groups.lower().endswith(".csv")):
        return _from_table(names, as_path(groups, "a CSV file of groups"))
    if isinstance(groups, str | re.Pattern):
        return _from_pattern(names, groups)
    if callable(groups):
        return _from_function(names, groups)
    raise ReferenceSetError(
        f"groups must be a CSV path, a regular expression or a function, not {type(groups).__name__}"
    )


def _from_table(names: list[str], path: Path) -> dict[str, str]:
    listed: dict[str, str] = {}
    wanted = set(names)
    on_disk = {composed(name): name for name in names}
    for row in read_table(path, required=("file", "group"), optional=("class",)):
        group, label = row.cells["group"], row.cells["class"]
        spellings = [spelling.removeprefix("./") for spelling in row.spellings("file")]
        name = next((spelling for spelling in spellings if spelling in wanted), None)
        if name is None:
            name = next((on_disk[spelling] for spelling in spellings if spelling in on_disk), spellings[-1])
        if listed.setdefault(name, group) != group:
            raise ReferenceSetError(
                f"{row.where}: {name} is in group {group!r} here, but in {listed[name]!r} above; keep one"
            )
        if label and composed(label) != (folder := name.split("/")[0]):
            raise ReferenceSetError(
                f"{row.where}: the class of {name} is {label!r}, but its folder is {folder!r}; correct one of them"
            )
    missing = [name for name in names if name not in listed]
    if missing:
        raise ReferenceSetError(
            f"{path} gives no group for {len(missing)} of {len(names)} files; add them, with paths relative to the "
            f"reference folder in the column `file`, such as {missing[0]}:{listing(missing)}"
        )
    return {name: listed[name] for name in names}


def _from_pattern(names: list[str], groups: str | re.Pattern[str]) -> dict[str, str]:
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise ReferenceSetError(
            f"groups {groups!r} is not a valid regular expression ({error}); write one such as r'^([^_]+)_'"
        ) from error
    if pattern.groups != 1 or not isinstance(pattern.pattern, str):
        raise ReferenceSetError(
            f"groups {pattern.pattern!r} must have exactly one (...) around the name of the specimen, such as "
            f"r'^([^_]+)_', but it has {pattern.groups}; if it is a CSV file, its name must end in .csv"
        )
    found: dict[str, str] = {}
    missing: list[str] = []
    for name in names:
        match = pattern.search(name.rpartition("/")[2])
        if match and match[1]:
            found[name] = match[1]
        else:
            missing.append(name)
    if missing:
        raise ReferenceSetError(
            f"groups {pattern.pattern!r} finds no specimen in {len(missing)} of {len(names)} file names; widen the "
            f"pattern or rename them:{listing(missing)}"
        )
    return found


def _from_function(names: list[str], groups: Callable[[str], str]) -> dict[str, str]:
    found = {name: groups(name.rpartition("/")[2]) for name in names}
    for name, group in found.items():
        if not isinstance(group, str) or not group.strip():
            raise ReferenceSetError(
                f"the groups function must return a non-empty string for each file, but returned {group!r} for {name}"
            )
    return found
