"""Where the diffusion prior of a model comes from. It is read long after the model, so it is checked again then."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fusion_diff.checkpoint import MANIFEST, digest, fetch, files_in, is_hub_id, read_json
from fusion_diff.errors import CheckpointError
from fusion_diff.home import at_home, is_folder
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

PRIOR = "prior"
"""Folder of the prior in a checkpoint that is saved."""
READ = (
    "scheduler/scheduler_config.json",
    *(
        f"{part}/{file}"
        for part in ("unet", "vae")
        for file in (
            "config.json",
            "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.safetensors.index.json",
            "diffusion_pytorch_model-?????-of-?????.safetensors",
        )
    ),
)
"""Patterns of the files that are read of a prior; a folder or repository may hold more."""


@dataclass(frozen=True)
class PriorSource:
    """A prior in a checkpoint, which is saved with the model; or one elsewhere, which is only referred to.

    Attributes:
        path: folder or hub id.
        sums: sha256 of the files, by path in the folder: by the manifest of the checkpoint that contains the prior, or
            of what was read of one elsewhere when the model was made. None where that was not noted.
        revision: commit of a hub id; None for a folder, or where it was not noted.
        contained: whether it is in the checkpoint.
    """

    path: str
    sums: Mapping[str, str] | None = None
    revision: str | None = None
    contained: bool = False

    def __deepcopy__(self, _: object) -> Self:
        """Return itself, so that a private copy of a signed model stays while any copy of the model may read it."""
        return self

    @classmethod
    def of(cls, checkpoint: Path, card: Mapping[str, Any]) -> Self:
        """Return the source, given a verified checkpoint and its `config.json`: a folder in it, another or a hub id.

        Raises:
            ValueError: what the configuration notes of the prior is malformed.
        """
        prior, sums, revision = str(card["prior"]), card.get("prior_sha256"), card.get("prior_revision")
        if not isinstance(sums, dict | None) or not isinstance(revision, str | None):
            raise ValueError("prior_sha256 is no table of sums, or prior_revision no text")
        home, place = checkpoint.resolve(), (checkpoint / prior).resolve()
        if revision is not None or (prior != PRIOR and not place.is_dir()):
            return cls(prior, sums, revision)
        if place == home or not place.is_relative_to(home):
            return cls(str(place), sums)
        start = f"{place.relative_to(home).as_posix()}/"
        listed = read_json(checkpoint / MANIFEST)["sha256"]
        sums = {name.removeprefix(start): listed[name] for name in listed if name.startswith(start)}
        return cls(str(place), sums, contained=True)

    @classmethod
    def given(cls, name: str) -> Self:
        """Return the source for a new model, given a folder or a hub id, which is downloaded.

        Raises:
            CheckpointError: there is no such folder, or the download failed.
        """
        place = at_home(name)
        if is_folder(place):
            return cls(os.path.realpath(place), _sums(place))
        if not is_hub_id(name):
            raise CheckpointError(
                f"{printable(name, 300)}: no such prior; give a folder in the Stable Diffusion v1 layout, a hub id "
                "such as owner/name, or a checkpoint that contains a prior"
            )
        fetched = fetch(name, READ)
        return cls(name, _sums(fetched), fetched.name)

    @property
    def card(self) -> dict[str, Any]:
        """What the `config.json` of a checkpoint says of it."""
        if self.contained:
            return {"prior": PRIOR}
        noted = {"prior_sha256": self.sums, "prior_revision": self.revision}
        return {"prior": self.path} | {key: value for key, value in noted.items() if value is not None}

    def folder(self) -> Path:
        """Return the folder to read the prior from, which holds what is known of it; a hub id is downloaded.

        Raises:
            CheckpointError: a file was altered, removed or added; the folder is gone; or the download failed.
        """
        place = Path(self.path)
        # The hub is asked for what was one of its ids when the model was made, or may have been.
        if self.revision is not None or (self.sums is None and not is_folder(place) and is_hub_id(self.path)):
            place = fetch(self.path, READ, self.revision)
        elif not is_folder(place):
            raise CheckpointError(
                f"{printable(place, 300)}: the diffusion prior no longer exists; restore the folder that the model was "
                f"{'loaded' if self.contained else 'made'} from"
            )
        if self.contained:
            self._expect(place, files_in(place, self.sums or ()))
        elif self.sums is not None:
            self._expect(place, _present(place))
        return place

    def _expect(self, place: Path, present: set[str]) -> None:
        sums = self.sums or {}
        for name in sorted(present | set(sums)):
            # What was added is not read: it may be a pipe, which would be waited for.
            if name not in present or name not in sums or digest(place / name) != sums[name]:
                raise CheckpointError(
                    f"{printable(place / name, 200)}: altered, removed or added since the model was "
                    + (
                        "loaded; restore the folder from its source, or load the model again"
                        if self.contained
                        else f"made with the diffusion prior {printable(self.path, 200)}; restore the prior, or make "
                        "the model again with what is there"
                    )
                )

    def save(self, draft: Path) -> None:
        """Copy the prior as it is to a checkpoint that is being written; one elsewhere is only referred to.

        Raises:
            CheckpointError: as `folder`.
        """
        if not self.contained:
            return
        folder = self.folder()
        for name in self.sums or ():
            copy = draft / PRIOR / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, copy)


def _present(folder: Path) -> set[str]:
    """Return the paths in a folder of the files that are read of a prior."""
    found = (file for pattern in READ for file in folder.glob(pattern) if file.is_file())
    return {file.relative_to(folder).as_posix() for file in found}


def _sums(folder: Path) -> dict[str, str]:
    return {name: digest(folder / name) for name in sorted(_present(folder))}
