"""Reading exactly the bytes that were signed.

Between verifying and reading a file, anyone with write access could replace it. So verified files are not read again
from there. `signed_copy` hashes the same bytes that it copies to a private folder, from which a model is loaded.
`SignedFiles` gives the signed sha256, which `load_microstructure_data` compares with that of the bytes it has read
before it decodes them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fusion_diff.errors import FusionDiffError, TrustError
from fusion_diff.home import absolute
from fusion_diff.printable import printable
from fusion_diff.trust.files import digest_plain
from fusion_diff.trust.keyring import Keyring
from fusion_diff.trust.provenance import read_signature, signature_of, verify
from fusion_diff.trust.signed_contents import ALONE, Contents
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")


def signed_copy(folder: str | Path, keys: Sequence[str | Path] | str | Path) -> Path:
    """Verify a folder and copy it, hashing the copied bytes, so that the copy is exactly what was signed.

    Returns:
        The copy, which has the folder's name. Its parent is a new private folder, to be removed by the caller.

    Raises:
        TrustError: as `verify`; or a file changed while it was copied.
        OSError: the copy cannot be written.
    """
    folder = absolute(folder)
    if is_embedded(folder) and not os.path.lexists(signature_of(folder)):
        raise TrustError(
            f"{folder.name}: the embedded model is unsigned; save it or a model that you enrolled, sign that folder, "
            "and name it as the model"
        )
    verified = verify(folder, keys)
    private = Path(tempfile.mkdtemp(prefix="fusion-diff-"))
    try:
        copy = private / folder.name
        for name, digest in verified.contents.digests.items():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as stream:
                if digest_plain(folder / name, stream) != digest:
                    raise TrustError(f"{printable(folder / name)}: changed while it was being read; try again")
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:  # of a write, such as to a full disk
            error.filename = str(private)
        shutil.rmtree(private, ignore_errors=True)
        raise
    return copy


@contextmanager
def signed_bytes(folder: Path, keys: Sequence[str | Path]) -> Iterator[Path]:
    """Yield a `signed_copy` of a folder, and remove it afterwards; the folder itself where no keys are given.

    Raises:
        TrustError: as `signed_copy`.
    """
    if not keys:
        yield folder
        return
    copy = signed_copy(folder, keys)
    try:
        yield copy
    except FusionDiffError as error:  # name the folder that was given
        error.args = (str(error).replace(str(copy), str(folder)),)
        raise
    finally:
        shutil.rmtree(copy.parent, ignore_errors=True)


def is_embedded(folder: str | Path) -> bool:
    """Return whether a folder is a checkpoint that comes with the package."""
    return absolute(folder).parent == absolute(str(files("fusion_diff") / "checkpoints"))


def load_signed(
    folder: str | Path,
    keys: Sequence[str | Path] | str | Path,
    load: Callable[[Path], T],
    part: Callable[[T], object] = lambda loaded: loaded,
) -> T:
    """Load an object from a `signed_copy` of a folder. The copy is removed with the object, or with a part of it.

    Args:
        folder: the folder.
        keys: the trusted public keys.
        load: loads the object from the copy.
        part: the part of the object that reads from the copy later; the whole one if omitted.

    Raises:
        TrustError: as `signed_copy`; `load` is not called then.
    """
    copy = signed_copy(folder, keys)
    try:
        loaded = load(copy)
    except BaseException:
        shutil.rmtree(copy.parent, ignore_errors=True)
        raise
    weakref.finalize(part(loaded), shutil.rmtree, copy.parent, ignore_errors=True)
    return loaded


class SignedFiles:
    """Looks up the signed sha256 of files, in `<file>.sig` or in `<folder>.sig` of a folder above the file.

    Signatures of folders are cached; those of files are not, as there may be as many as files. Files are not hashed
    here. The reader compares the sha256 of the bytes it has read, in memory or above 32 MiB in a private copy, and
    decodes those bytes.
    """

    def __init__(self, keys: Sequence[str | Path] | str | Path, *, now: datetime | None = None) -> None:
        """Read the keys.

        Raises:
            TrustError: they cannot be read.
        """
        self._keys = keys
        self._now = now or datetime.now(UTC)
        self._read: dict[Path, Contents | str] = {}  # or the error
        Keyring.of(keys, now=now)

    def digest(self, file: str | Path) -> str:
        """Return the signed sha256 of a file.

        Warns once for each folder from which signed files are missing: the batch may be a selection.

        Raises:
            TrustError: the file is a link, is not covered by a signature, or its signature is refused.
        """
        file = absolute(file)
        if file.is_symlink():
            raise TrustError(
                f"{printable(file)}: it is a symbolic link, which no signature covers; name the file itself"
            )
        signed, contents = self._covering(file)
        name = ALONE if signed == file else file.relative_to(signed).as_posix()
        if name not in contents.digests:
            raise TrustError(
                f"{printable(file)}: it is not in the signature {printable(signature_of(signed))}, so it "
                "was added later; leave it out, or have it signed"
            )
        return contents.digests[name]

    def expect_covered(self, file: str | Path) -> None:
        """Verify the signature of a file or of a folder above it, without looking up the file's sha256.

        Raises:
            TrustError: there is no signature, or it is refused.
        """
        self._covering(absolute(file))

    def _covering(self, file: Path) -> tuple[Path, Contents]:
        """Return the signed path, the file or the nearest folder above it, and the contents of its signature."""
        for signed in (file, *(folder for folder in file.parents if folder.name)):
            signature = signature_of(signed)
            if os.path.lexists(signature):  # false too for a name that is too long for a file
                return signed, self._contents(signed, signature)
        raise TrustError(
            f"{printable(file)}: it is unsigned: there is no {printable(signature_of(file))}, and no "
            "signature of a folder above it; sign it with `fusion-diff sign`"
        )

    def _contents(self, signed: Path, signature: Path) -> Contents:
        known = self._read.get(signature)
        if known is None:
            try:
                known = read_signature(signature, self._keys, now=self._now).contents
                gone = [name for name in known.digests if not os.path.exists(signed / name)]  # noqa: PTH110
                if gone:
                    warn(
                        f"{printable(signed)}: {len(gone)} of {len(known.digests)} signed files are "
                        f"missing, the first is {printable(gone[0])}"
                    )
            except TrustError as error:
                known = str(error)
            if signed.is_dir():
                self._read[signature] = known
        if isinstance(known, str):
            raise TrustError(known)
        return known
