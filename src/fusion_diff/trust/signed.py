"""Reading only what was signed.

Between verifying a file and reading it, whoever may write there can put another in its place. Therefore what is parsed
is never read a second time from there: `signed_copy` hashes the very bytes that it copies to a private folder, from
which a model is loaded; and `SignedFiles` gives the sha256 that `load_microstructure_data` compares, before it decodes
anything, with that of the bytes it has read.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fusion_diff.errors import TrustError
from fusion_diff.printable import printable
from fusion_diff.trust.contents import ALONE, Contents
from fusion_diff.trust.files import digest_plain
from fusion_diff.trust.keyring import Keyring
from fusion_diff.trust.provenance import absolute, read_signature, signature_of, verify
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


def signed_copy(folder: str | Path, keys: Sequence[str | Path] | str | Path) -> Path:
    """Verify a folder and copy it, hashing the bytes that are copied; what the copy holds is what was signed.

    Returns:
        The copy, which has the folder's name; its parent is a new folder for its owner alone, to be removed when done.

    Raises:
        TrustError: as `verify`, or a file changed while it was being copied.
    """
    folder = absolute(folder)
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
    except BaseException:
        shutil.rmtree(private, ignore_errors=True)
        raise
    return copy


def load_signed(folder: str | Path, keys: Sequence[str | Path] | str | Path, load: Callable[[Path], T]) -> T:
    """Load something from a `signed_copy` of a folder, which stays for as long as what was loaded.

    Args:
        folder: the folder.
        keys: the public keys that are trusted.
        load: makes the thing of the copy.

    Raises:
        TrustError: as `signed_copy`; then `load` was not called.
    """
    copy = signed_copy(folder, keys)
    try:
        loaded = load(copy)
    except BaseException:
        shutil.rmtree(copy.parent, ignore_errors=True)
        raise
    weakref.finalize(loaded, shutil.rmtree, copy.parent, ignore_errors=True)
    return loaded


class SignedFiles:
    """Tells which sha256 a file must have, by `<file>.sig` or by `<folder>.sig` of a folder that it lies in.

    Signatures of folders are read once, those of files each time, for there may be as many of them as files. Nothing is
    hashed here: who reads the file compares the digest of what was read, in memory or, of more than 32 MiB, into a
    private copy, and decodes those very bytes.
    """

    def __init__(self, keys: Sequence[str | Path] | str | Path, *, now: datetime | None = None) -> None:
        """Check that the keys can be read.

        Raises:
            TrustError: they cannot.
        """
        self._keys = keys
        self._now = now or datetime.now(UTC)
        self._read: dict[Path, Contents | str] = {}  # or what is wrong
        Keyring.of(keys, now=now)

    def digest(self, file: str | Path) -> str:
        """Return the sha256 that was signed for a file.

        Warns, once a folder, where files that were signed are gone: a batch may have been picked from.

        Raises:
            TrustError: the file is a link or not signed for, or its signature is refused.
        """
        file = absolute(file)
        if file.is_symlink():
            raise TrustError(f"{printable(file)}: a symbolic link, which no signature covers; name the file itself")
        signed, contents = self._covering(file)
        name = ALONE if signed == file else file.relative_to(signed).as_posix()
        if name not in contents.digests:
            raise TrustError(
                f"{printable(file)}: not in the signature {printable(signature_of(signed))}, so it was added since; "
                "leave it out, or have it signed"
            )
        return contents.digests[name]

    def expect_covered(self, file: str | Path) -> None:
        """Check the signature of a file, or of the folder it lies in, but not what it says of the file.

        Raises:
            TrustError: there is none, or it is refused.
        """
        self._covering(absolute(file))

    def _covering(self, file: Path) -> tuple[Path, Contents]:
        """Find what was signed, a file or the nearest folder above it, and read its signature."""
        for signed in (file, *(folder for folder in file.parents if folder.name)):
            signature = signature_of(signed)
            if signature.is_symlink() or signature.exists():
                return signed, self._contents(signed, signature)
        raise TrustError(
            f"{printable(file)}: unsigned, there is no {printable(signature_of(file))}, nor one of a folder it lies "
            "in; have it signed with `fusion-diff sign`"
        )

    def _contents(self, signed: Path, signature: Path) -> Contents:
        known = self._read.get(signature)
        if known is None:
            try:
                known = read_signature(signature, self._keys, now=self._now).contents
                gone = [name for name in known.digests if not (signed / name).exists()]
                if gone:
                    warn(
                        f"{printable(signed)}: {len(gone)} of {len(known.digests)} signed files are not there, "
                        f"{printable(gone[0])} the first"
                    )
            except TrustError as error:
                known = str(error)
            if signed.is_dir():
                self._read[signature] = known
        if isinstance(known, str):
            raise TrustError(known)
        return known
