"""Checkpoints: folders of safetensors and JSON, loaded only if they are complete and unaltered.

A checkpoint contains

    manifest.json             sha256 of every other file
    config.json               format, name, encoder shape, how it was made, and which prior
    encoder.safetensors       the encoder's weights, see `weights` (the CNN's come from their own package)
    flaw_detector.safetensors the flaw detector's weights (optional)
    prior/                    vae, unet and scheduler in the Stable Diffusion v1 layout
    enrolment.safetensors     what was learned from the references (only with enrolled references)
    enrolment.json
    README.md                 the model card
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_diff.counted import counted
from fusion_diff.errors import CheckpointError, disk_full
from fusion_diff.home import at_home, is_folder, left_by_file_manager
from fusion_diff.printable import paragraph, printable
from fusion_diff.whole import WholeFolder

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

FORMAT = "fusion-diff/checkpoint/1"
EMBEDDED = "fusion-diff-v1-ceramic"
EMBEDDED_EDGE = "fusion-diff-v1-ceramic-edge"
"""The embedded model for restricted hardware: faster, and slightly less accurate."""
MANIFEST = "manifest.json"
IN_MODEL = "lies in the folder of a model, which must stay as it was saved; choose another folder"
MAX_JSON_BYTES = 16 * 2**20
NAME_LENGTH = 255
"""Most characters of a name: of a model, which often has that of its folder, and of whatever else is stored by name."""


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the folder of a checkpoint, given an embedded name, a folder or a hub id, which is downloaded.

    `owner/name` is a hub id only if there is no local folder `owner`.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    if not isinstance(name_or_path, str | os.PathLike) or name_or_path == "":
        raise CheckpointError(
            f"{name_or_path!r:.80}: neither a name nor a folder; give a folder that `enroll --out` or save_pretrained "
            f"wrote, a hub id such as owner/name, or an embedded name ({EMBEDDED} or {EMBEDDED_EDGE})"
        )
    path = at_home(name_or_path)
    if is_folder(path):
        return path
    name = os.fspath(name_or_path)
    embedded = Path(str(files("fusion_diff"))) / "checkpoints"
    if name in (EMBEDDED, EMBEDDED_EDGE) and (embedded / name / MANIFEST).is_file():
        return embedded / name
    if is_hub_id(name):
        return fetch(name, ["*.safetensors", "*.json", "*.md"])
    why = "no such model"
    if name.startswith("~"):
        why = "no such folder"
    elif name.count("/") == 1 and not name.startswith((".", "/")):
        why = f"the folder {path.parent} does not contain {path.name}"  # a mistyped path, not a hub id
    raise CheckpointError(
        f"{printable(name, 300)}: {why}; give a folder that `enroll --out` or save_pretrained wrote, a hub id "
        f"such as owner/name, or an embedded name ({EMBEDDED} or {EMBEDDED_EDGE})"
    )


def as_folder(folder: object) -> Path:
    """Return the folder of a model that a user names, in which a leading `~` stands for the home folder.

    Raises:
        CheckpointError: it is no path.
    """
    if not isinstance(folder, str | os.PathLike) or not str(folder) or "\0" in str(folder):
        raise CheckpointError(f"{folder!r:.80}: not a folder; give the path of a model's folder")
    return at_home(folder)


def is_hub_id(name: str) -> bool:
    """Return whether a name that is no local folder may be a hub id: `owner/name`, without a local folder `owner`."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not is_folder(Path(name).parent)


def fetch(hub_id: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """Return the folder that the hub's client keeps files in, after downloading those that it lacks.

    Args:
        hub_id: `owner/name`.
        patterns: of the files that are wanted.
        revision: commit; the newest if omitted. The folder has its name.

    Raises:
        CheckpointError: the download failed.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client raises many types, network errors among them
        cause = f"{type(error).__name__}: {paragraph(error, 300)}"
        raise CheckpointError(
            f"{hub_id}: there is no such folder, and the download from the hub failed ({cause}); check the name and "
            "the connection, or download it yourself and give its folder"
        ) from error


def based_on(own: str, base: str) -> str:
    """Return the digest of a checkpoint that takes some of its weights from another, given the digests of both."""
    return hashlib.sha256(f"{own} {base}".encode()).hexdigest()


def digest(file: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object, `MAX_JSON_BYTES` at most.

    Raises:
        CheckpointError: the file is missing, too large, or not a JSON object.
    """
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{file}: larger than {MAX_JSON_BYTES:,} bytes; this is not a file of a checkpoint")
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); download or save the checkpoint again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: not a JSON object; download or save the checkpoint again")
    return value


def bounded_size(name: str, value: object, most: int, *, least: int = 1) -> int:
    """Return a size from a configuration after checking it, before anything of that size is allocated.

    Raises:
        ValueError: it is not a whole number from `least` to `most`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r:.40}, but must be a whole number from {least} to {most}")
    return value


def verify(folder: Path) -> str:
    """Check every file of a checkpoint against its manifest, before any other file is parsed.

    Returns:
        The sha256 of the manifest, which identifies this exact model.

    Raises:
        CheckpointError: a file is missing, altered, truncated or extra, or is a pickle or a link.
    """
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(
            f"{folder}: no {MANIFEST}, so it is no model, or only part of one; give a folder that a model was saved in"
        )
    _expect_plain(folder, MANIFEST)
    manifest = read_json(folder / MANIFEST)
    sums = manifest.get("sha256")
    if manifest.get("format") != FORMAT or not isinstance(sums, dict):
        raise CheckpointError(
            f"{folder / MANIFEST}: format {manifest.get('format')!r:.80}, but this version reads {FORMAT!r}; "
            "use a checkpoint and a fusion-diff of the same format"
        )
    present = files_in(folder, sums) - {MANIFEST}
    for name in sorted(set(sums) | present):
        file, shown = folder / name, f"{folder}/{printable(name, 200)}"
        if name not in present:
            raise CheckpointError(f"{shown}: missing from the checkpoint; copy or download the whole checkpoint again")
        if name not in sums:
            raise CheckpointError(f"{shown}: not listed in the checkpoint's manifest; remove it from the folder")
        _expect_plain(folder, name)
        if digest(file) != sums[name]:
            raise CheckpointError(
                f"{shown}: altered or truncated since the checkpoint was saved; restore it from its source"
            )
        if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt")):
            raise CheckpointError(
                f"{shown}: a pickle file, which is refused because it can run code; convert its weights to safetensors"
            )
    return digest(folder / MANIFEST)


def files_in(folder: Path, listed: Collection[str] = ()) -> set[str]:
    """Return the paths, relative to a folder, of all files in it and in its folders.

    Everything but plain folders counts as a file, including links to folders and named pipes. What file managers leave
    is left out unless it is listed.

    Raises:
        CheckpointError: folders lie in each other too deeply to be listed.
    """
    try:
        files = [file for file in folder.rglob("*") if file.is_symlink() or not file.is_dir()]
    except RecursionError as error:
        raise CheckpointError(
            f"{folder}: folders lie in each other too deeply for a checkpoint; remove those that were added"
        ) from error
    names = ((file, file.relative_to(folder).as_posix()) for file in files)
    return {name for file, name in names if name in listed or not left_by_file_manager(file)}


def _expect_plain(folder: Path, name: str) -> None:
    """Check that a file of a checkpoint is a plain one, or a link of the hub client's cache.

    Raises:
        CheckpointError: it is a pipe, a device, or a link to elsewhere.
    """
    file = folder / name
    linked = file.is_symlink() or not file.resolve().is_relative_to(folder.resolve())
    if not file.is_file() or (linked and not _in_hub_cache(file, folder)):
        raise CheckpointError(
            f"{folder}/{printable(name, 200)}: a link or special file, but a checkpoint may contain only plain files; "
            "replace a link by a copy of its target"
        )


def _in_hub_cache(file: Path, folder: Path) -> bool:
    """Return whether a link is the hub client's, which stores snapshots as links to `blobs` beside `snapshots`."""
    blobs = folder.parent.with_name("blobs")
    return folder.parent.name == "snapshots" and not blobs.is_symlink() and file.resolve().parent == blobs.resolve()


def expect_free(folder: Path) -> None:
    """Check that a checkpoint may be written to a folder: it is new or empty, or holds a checkpoint and nothing else.

    Raises:
        CheckpointError: it holds something else, which would be lost, cannot be replaced, or lies in a checkpoint.
    """
    if (model := enclosing(Path(os.path.realpath(folder)).parent)) is not None:
        raise CheckpointError(f"{folder}: {IN_MODEL} ({model})")
    if why := in_place(folder):
        raise CheckpointError(f"{folder}: {why}; choose a new folder, such as {folder / 'model'}")
    if not os.path.exists(folder):  # noqa: PTH110 (Path.exists raises where it may not look)
        return
    if folder.is_dir() and all(map(left_by_file_manager, folder.iterdir())):
        return
    listed = _listed(folder / MANIFEST) if folder.is_dir() else None
    if listed is None:
        raise CheckpointError(f"{folder}: holds something that is not a checkpoint; choose an empty or new folder")
    if added := sorted(files_in(folder) - {MANIFEST} - listed):
        named = ", ".join(printable(name, 100) for name in added[:5]) + (", …" if len(added) > 5 else "")
        raise CheckpointError(
            f"{folder}: holds {counted(len(added), 'file')} that {'is' if len(added) == 1 else 'are'} not part of the "
            f"checkpoint there and would be lost ({named}); move them elsewhere, or choose another folder"
        )


def enclosing(path: Path) -> Path | None:
    """Return the folder of the checkpoint that a path is or lies in, also through links; None if there is none.

    What is added to a checkpoint's folder keeps it from being loaded.
    """
    real = Path(os.path.realpath(path))
    return next((each for each in (real, *real.parents) if _listed(each / MANIFEST) is not None), None)


def _listed(manifest: Path) -> set[str] | None:
    """Return the names of the files of a checkpoint by its manifest; None if this is no manifest of a checkpoint."""
    try:
        value = read_json(manifest)
    except CheckpointError:
        return None
    sums = value.get("sha256")
    return set(sums) if value.get("format") == FORMAT and isinstance(sums, dict) else None


def in_place(folder: Path) -> str:
    """Return why a finished folder cannot be moved to this path; empty if it can."""
    real = Path(os.path.realpath(folder))
    if os.path.islink(real):  # noqa: PTH114 (it never raises); still a link after resolving: a loop
        return "a link that leads back to itself"
    if is_folder(real) and real.samefile(os.curdir):
        return "the current folder, which cannot be replaced while it is in use"
    if os.path.ismount(real):
        return "the root of a disk or volume, which cannot be replaced"
    return ""


class Writer(WholeFolder):
    """Writes a checkpoint to a temporary folder beside its target and moves it there when complete.

    If it is a link to a folder, the linked folder is replaced and the link stays. What a kill between two steps may
    leave is said at `WholeFolder`. Files that others put into the target meanwhile are an error, up to the last check
    right before the move; a file that comes between the two, within milliseconds, is lost with the old checkpoint.

    Attributes:
        sha256: digest of the manifest that was written; empty until then.

    Raises:
        CheckpointError: the target holds something else, or cannot be written.
        OSError: there is no room on the disk.
    """

    def __init__(self, folder: Path) -> None:
        expect_free(folder)
        self.sha256 = ""
        try:
            super().__init__(Path(os.path.realpath(folder)), replace=True)
        except OSError as error:
            if disk_full(error):
                raise
            raise CheckpointError(
                f"{folder}: the folder cannot be created ({error.strerror}); check the path and the permissions of "
                "its parent folder, or choose another"
            ) from error

    def complete(self) -> None:
        """Write the manifest."""
        seal(self.folder)
        self.sha256 = digest(self.folder / MANIFEST)

    def check(self) -> None:
        """Check the target again: files may have been added to it meanwhile."""
        expect_free(self.target)


def seal(folder: Path) -> None:
    """Write the manifest for the current files of a checkpoint, and give all of them its permissions."""
    sums = {name: digest(folder / name) for name in files_in(folder) - {MANIFEST}}
    write_json(folder / MANIFEST, {"format": FORMAT, "sha256": sums})
    mode = stat.S_IMODE((folder / MANIFEST).stat().st_mode)
    for name in sums:
        (folder / name).chmod(mode)  # safetensors writes files that only their owner can read


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Write a JSON object, indented and with sorted keys."""
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8", newline="\n")
