"""Provenance: sign a folder or file, and verify that it is exactly what the holder of a trusted key signed.

A signature lies beside the signed path (`line-7` and `line-7.sig`), so that a checkpoint contains exactly the files of
its own manifest. Links are refused; `signed_contents.IGNORED` and the signature itself are left out. Verified files can
change right after: to read exactly the verified bytes, use `trust.signed`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_diff.checkpoint import IN_MODEL, enclosing
from fusion_diff.errors import TrustError
from fusion_diff.home import absolute, at_home
from fusion_diff.printable import printable
from fusion_diff.trust.envelope import MAX_SIGNATURE_BYTES, Sealed, seal
from fusion_diff.trust.files import digest_plain, walk
from fusion_diff.trust.keyring import Keyring, check_valid
from fusion_diff.trust.keys import PublicKey, load_private, until, write_time
from fusion_diff.trust.signed_contents import ALONE, IGNORED, PREDICATE_TYPE, Contents, unsafe
from fusion_diff.whole import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from fusion_diff.trust.keys import PrivateKey

SUFFIX = ".sig"
_A_LINK = "it is a symbolic link, which is not followed; name the file or folder itself"


@dataclass(frozen=True)
class Verified:
    """A verified signature.

    Attributes:
        contents: signed files with their digests.
        key: key that signed.
        signature: file of the signature.
    """

    contents: Contents
    key: PublicKey
    signature: Path


def sign(
    path: str | Path,
    key_file: str | Path,
    *,
    out: str | Path | None = None,
    days: int | None = None,
    now: datetime | None = None,
) -> Verified:
    """Sign a file, or a folder with every file in it, and write the signature.

    Args:
        path: a checkpoint, a folder of references or captures, or a file.
        key_file: the private key.
        out: path of the signature; `<path>.sig` if omitted. An older signature there is replaced.
        days: validity in days, limited by that of the key; the key's if omitted.
        now: the current time; the system's if omitted.

    Returns:
        The signed contents, the key, and the path of the signature.

    Raises:
        TrustError: there is a link or special file, a name that is unsafe on some system, or no file at all. Or the
            private key lies in the folder; the key is not valid; `out` exists and is not a signature of files, or lies
            in the checkpoint to be signed; or there are so many files that the signature would be too large.
    """
    path = absolute(path)
    key = load_private(key_file)
    check_valid(key, key_file, now)
    target = absolute(out) if out is not None else signature_of(path)
    if target == path or target.is_symlink() or (target.exists() and not _is_signature(target)):
        raise TrustError(f"{printable(target)}: it exists and is not a signature of files; name another file")
    if enclosing(target) is not None:
        raise TrustError(f"{printable(target)}: {IN_MODEL}")
    if Path(os.path.realpath(at_home(key_file))).is_relative_to(os.path.realpath(path)):
        raise TrustError(
            f"{printable(key_file)}: the private key lies in the folder or file to be signed; keep it elsewhere"
        )
    ends = [time for time in (until(days, now), key.public.expires) if time is not None]
    ignored = _ignored(path, target)
    expires = min(ends, default=None)
    files = _files(path, ignored)
    # First with dummy digests, to check the size: hashing may take hours.
    _sealed(path, Contents(path.name, dict.fromkeys(files, "0" * 64), expires), ignored, key)
    contents = Contents(path.name, {name: digest_plain(file) for name, file in files.items()}, expires)
    write_whole(target, _sealed(path, contents, ignored, key))
    return Verified(contents, key.public, target)


def verify(
    path: str | Path,
    keys: Sequence[str | Path] | str | Path,
    *,
    signature: str | Path | None = None,
    now: datetime | None = None,
) -> Verified:
    """Verify that a file or folder is exactly what was signed.

    Args:
        path: the file or folder.
        keys: the trusted public keys; see `keyring` for the keys that they endorse.
        signature: path of the signature; `<path>.sig` if omitted.
        now: time at which expiry is checked; the system's if omitted.

    Returns:
        The signed contents and the key.

    Raises:
        TrustError: it is unsigned, or signed with another, a revoked or an expired key. Or the signature is malformed,
            forged or expired; or files were altered, removed or added, with a line of the message for each.
    """
    path = absolute(path)
    verified = read_signature(absolute(signature) if signature is not None else signature_of(path), keys, now=now)
    problems = _differences(path, verified)
    if problems:
        raise TrustError("\n".join(problems))
    return verified


def read_signature(file: Path, keys: Sequence[str | Path] | str | Path, *, now: datetime | None = None) -> Verified:
    """Verify a signature by itself, without the signed files.

    Raises:
        TrustError: it is missing, malformed, forged or expired, or signed with another, a revoked or an expired key.
    """
    ring = Keyring.of(keys, beside=file, now=now)
    if not os.path.lexists(file):
        signed = file.with_name(file.name.removesuffix(SUFFIX))
        if signed.is_symlink():
            raise TrustError(f"{printable(signed)}: {_A_LINK}")
        raise TrustError(
            f"{printable(signed)}: it is unsigned, as there is no {printable(file)}; sign it with "
            "`fusion-diff sign`, or name its signature"
        )
    statement, key = ring.open(Sealed.read(file), PREDICATE_TYPE)
    contents = Contents.parse(statement, printable(file))
    if contents.expires is not None and contents.expires <= ring.now:
        raise TrustError(
            f"{printable(file)}: the signature expired at {write_time(contents.expires)}; have it signed again"
        )
    return Verified(contents, key, file)


def signature_of(path: Path) -> Path:
    """Return the default path of the signature of a file or folder.

    Raises:
        TrustError: the path is the root of the file system.
    """
    path = absolute(path)
    if not path.name:
        raise TrustError(
            f"{path}: no signature can lie beside it; name a file or folder, or say where the signature is"
        )
    return path.with_name(path.name + SUFFIX)


def _differences(path: Path, verified: Verified) -> list[str]:
    """Return the differences between a path and what was signed, one sentence per file."""
    signed = verified.contents.digests
    if path.is_symlink():
        return [f"{printable(path)}: {_A_LINK}"]
    if not path.exists():
        return [f"{printable(path)}: there is no such file or folder; name the file or folder itself"]
    if path.is_dir() == (ALONE in signed):
        was, now = ("file", "folder") if path.is_dir() else ("folder", "file")
        return [
            (f"{printable(path)}: it is a {now}, but a {was} was signed; give the {was}, or the signature of this one")
        ]
    if ALONE in signed:
        return [] if digest_plain(path) == signed[ALONE] else [_altered(path)]
    # Files of git are left out, unless they were signed.
    ignored = [
        name
        for name in _ignored(path, verified.signature)
        if not any(other == name or other.startswith(name + "/") for other in signed)
    ]
    files, odd = walk(path, ignored, signed)
    problems = []
    for name in sorted(signed.keys() | files.keys() | odd.keys()):
        file = path / name
        if name in odd:
            problems.append(f"{printable(file)}: it is {odd[name]}, but only plain files can be signed; remove it")
        elif name not in files:
            problems.append(f"{printable(file)}: it is missing, but was signed; restore it from its source")
        elif name not in signed:
            problems.append(f"{printable(file)}: it was added after signing; remove it, or have it signed")
        elif digest_plain(file) != signed[name]:
            problems.append(_altered(file))
    return problems


def _altered(file: Path) -> str:
    return f"{printable(file)}: it was altered after it was signed; restore it from its source"


def _sealed(path: Path, contents: Contents, ignored: Sequence[str], key: PrivateKey) -> bytes:
    """Return a signature; raise where it is larger than `MAX_SIGNATURE_BYTES`."""
    content = seal(contents.statement(ignored), key)
    if len(content) > MAX_SIGNATURE_BYTES:
        raise TrustError(
            f"{printable(path)}: its {len(contents.digests):,} files make a signature larger than "
            f"{MAX_SIGNATURE_BYTES:,} bytes, which could not be verified; sign its sub-folders one by one"
        )
    return content


def _files(path: Path, ignored: Sequence[str]) -> dict[str, Path]:
    """List the files to sign by the names to sign them under; refuse those that could not be verified."""
    if not path.is_dir() or path.is_symlink():
        return {ALONE: path}
    files, odd = walk(path, ignored)
    problems = [
        f"{printable(path / name)}: it is {what}, which cannot be signed; remove it" for name, what in odd.items()
    ]
    for name in files:
        problem = unsafe(name)
        if problem:
            problems.append(f"{printable(path / name)}: it has a name {problem}; rename the file")
    if not files and not problems:
        problems.append(f"{printable(path)}: it contains no files to sign")
    if problems:
        raise TrustError("\n".join(sorted(problems)))
    return files


def _ignored(path: Path, signature: Path) -> tuple[str, ...]:
    inside = signature.is_relative_to(path) and signature != path
    return (*IGNORED, signature.relative_to(path).as_posix()) if inside else IGNORED


def _is_signature(file: Path) -> bool:
    """Return whether a file claims to be a signature of files, not a statement about a key, such as a revocation."""
    try:
        statement = json.loads(Sealed.read(file).payload)
    except (TrustError, ValueError, RecursionError):
        return False
    return isinstance(statement, dict) and statement.get("predicateType") == PREDICATE_TYPE
