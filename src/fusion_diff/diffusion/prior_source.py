"""Where the diffusion prior of a model comes from. It is read long after the model, so it is checked again then."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fusion_diff.checkpoint import MANIFEST, digest, files_in, read_json
from fusion_diff.errors import CheckpointError
from fusion_diff.printable import printable

PRIOR = "prior"
"""Folder of the prior in a checkpoint that is saved."""


@dataclass(frozen=True)
class PriorSource:
    """A prior in a checkpoint, which is saved with the model; or one elsewhere, which is only referred to.

    Attributes:
        path: folder or hub id.
        sums: sha256 of the files, by path in the folder, that a checkpoint's manifest gave when the model was loaded;
            None for a prior elsewhere.
    """

    path: str
    sums: dict[str, str] | None = None

    @classmethod
    def of(cls, checkpoint: Path, prior: str) -> Self:
        """Return the source, given a verified checkpoint and what it names: a folder in it, another one or a hub id."""
        home, place = checkpoint.resolve(), (checkpoint / prior).resolve()
        if prior != PRIOR and not place.is_dir():
            return cls(prior)
        if place == home or not place.is_relative_to(home):
            return cls(str(place))
        start = f"{place.relative_to(home).as_posix()}/"
        sums = read_json(checkpoint / MANIFEST)["sha256"]
        return cls(str(place), {name.removeprefix(start): sums[name] for name in sums if name.startswith(start)})

    @property
    def saved_as(self) -> str:
        """What a checkpoint that is saved names."""
        return self.path if self.sums is None else PRIOR

    def check(self) -> None:
        """Check that the folder holds exactly the files that it had when the model was loaded.

        Raises:
            CheckpointError: a file was altered, removed or added, or the folder is gone.
        """
        if self.sums is None:
            return
        folder = Path(self.path)
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: the diffusion prior no longer exists; restore the folder that the model was loaded from"
            )
        present = files_in(folder, self.sums)
        for name in sorted(present | set(self.sums)):
            # What was added is not read: it may be a pipe, which would be waited for.
            if name not in present or name not in self.sums or digest(folder / name) != self.sums[name]:
                raise CheckpointError(
                    f"{printable(folder / name, 200)}: altered, removed or added since the model was loaded; restore "
                    "the folder from its source, or load the model again"
                )

    def save(self, draft: Path) -> None:
        """Copy the prior as it is to a checkpoint that is being written; one elsewhere is only referred to.

        Raises:
            CheckpointError: as `check`.
        """
        self.check()
        if self.sums is not None:
            for name in self.sums:
                copy = draft / PRIOR / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(self.path, name), copy)
