"""Checks of output paths before the work starts, so that hours of inspection do not end at a mistyped path."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fusion_diff.checkpoint import IN_MODEL, MANIFEST, digest, enclosing
from fusion_diff.home import absolute
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Output:
    """An output file.

    Attributes:
        option: option that named it, such as `--json`.
        file: path of the file.
        in_place: whether an existing file is opened and written to; else it is replaced atomically.
        own: what the file may be although others must not overwrite it, see `inspection.files.refusal`.
    """

    option: str
    file: Path
    in_place: bool = False
    own: str = ""

    @property
    def name(self) -> str:
        """The option and the file, as errors name them."""
        return f"{self.option} {printable(self.file)}"


def of_ledger(file: Path | None) -> list[Output]:
    """Return the outputs of `--record`: the ledger, and its head beside it; none where none is asked for."""
    from fusion_diff.inspection.files import LEDGER

    if file is None:
        return []
    head = file.with_name(f"{file.name}.head")
    return [Output("--record", file, in_place=True, own=LEDGER), Output("--record", head, own=LEDGER)]


def check_outputs(outputs: Iterable[Output], inputs: Iterable[Path]) -> None:
    """Check that every output can be written, differs from the others, and overwrites no input.

    Args:
        outputs: files to write.
        inputs: files that are read.

    Raises:
        typer.BadParameter: an output cannot or must not be written; the message names it and the cure.
    """
    from fusion_diff.inspection.files import place, refusal

    read = {place(file) for file in inputs}
    taken: dict[object, Output] = {}
    for output in outputs:
        file, identity = output.file, place(output.file)
        if why := refusal(file, read, output.own):
            raise typer.BadParameter(f"{output.name}: {why}")
        if identity in taken:
            raise typer.BadParameter(f"{output.name}: is also written by {taken[identity].name}; name another file")
        for other in taken.values():
            ours, theirs = absolute(file), absolute(other.file)
            if ours in theirs.parents or theirs in ours.parents:
                raise typer.BadParameter(
                    f"{output.name}: would be a file and the folder of another at once, of {other.name}; name another"
                )
        if not file.exists() or file.is_file():  # several outputs may be one terminal
            taken[identity] = output
        expect_writable(output)


def expect_apart(option: str, folder: Path) -> None:
    """Check that a folder for outputs neither is nor lies in that of a model.

    Raises:
        typer.BadParameter: it does; the message names it and the cure.
    """
    if enclosing(folder) is not None:
        raise typer.BadParameter(f"{Output(option, folder).name}: {IN_MODEL}")


def expect_away(option: str, folder: Path, inputs: Iterable[Path | None]) -> None:
    """Check that a folder that is replaced as a whole neither is nor contains nor lies in any of the inputs.

    Raises:
        typer.BadParameter: it does; the message names both and the cure.
    """
    from fusion_diff.inspection.files import lies_in

    for each in inputs:
        if each is not None and (lies_in(each, folder) or lies_in(folder, each)):
            raise typer.BadParameter(
                f"{Output(option, folder).name}: is, contains or lies in {printable(each)}, which is read; choose a "
                "folder apart from it"
            )


def expect_writable(output: Output) -> None:
    """Check that a file can be written, with its folder created where it is missing, and is no image, key or the like.

    Raises:
        typer.BadParameter: it cannot or must not; the message names it and the cure.
    """
    from fusion_diff.inspection.files import refusal

    if output.file == Path("-"):
        raise typer.BadParameter(f"{output.name}: is stdout, to which only `inspect --json` writes; name a file")
    if output.file.is_dir():
        raise typer.BadParameter(f"{output.name}: is a folder, but must be a file; name a file in it")
    if why := refusal(output.file, own=output.own):
        raise typer.BadParameter(f"{output.name}: {why}")
    if output.in_place and output.file.exists():
        if not os.access(output.file, os.W_OK):
            raise typer.BadParameter(f"{output.name}: is not writable; check its permissions, or name another file")
        return
    if output.file.exists() and not output.file.is_file():
        raise typer.BadParameter(f"{output.name}: is a device or a pipe, which cannot be replaced; name a file")
    _expect_room(output.name, output.file)


def expect_folder(option: str, folder: Path) -> None:
    """Check that a folder exists and is writable, or can be created.

    Raises:
        typer.BadParameter: it cannot; the message names it and the cure.
    """
    name = Output(option, folder).name
    if folder.exists() and not folder.is_dir():
        raise typer.BadParameter(f"{name}: is a file, but must be a folder; choose a new one")
    _expect_room(name, folder / "file")


def _expect_room(name: str, path: Path) -> None:
    """Check that a path can be created, by writing to the nearest existing folder above it."""
    above = next((each for each in path.parents if os.path.lexists(each)), None)
    if above is None or not above.is_dir():
        raise typer.BadParameter(f"{name}: {printable(above or path)} is not a folder; check the path")
    try:
        with tempfile.TemporaryFile(dir=above):  # permissions do not show that /proc and the like refuse new files
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"{name}: the folder {printable(above)} cannot be written to; check its permissions and the "
            "free disk space, or choose another"
        ) from error


def model_there(folder: Path) -> str | None:
    """Return the sha256 of the model in a folder that is about to be replaced; None if there is none."""
    return digest(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
