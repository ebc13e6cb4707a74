"""Provenance: sign a folder or file, and verify that it is, byte for byte, what the holder of a trusted key signed.

A signature lies beside what it signs (`line-7` and `line-7.sig`), so that a checkpoint keeps exactly the files that its
own manifest lists. Links are refused, and `contents.IGNORED` and the signature itself are left out. What is verified
can be changed a moment later: to read it too, use what `signed` offers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_diff.errors import TrustError
from fusion_diff.printable import printable
from fusion_diff.trust.contents import ALONE, IGNORED, PREDICATE_TYPE, Contents, unsafe
from fusion_diff.trust.envelope import MAX_SIGNATURE_BYTES, Sealed, seal
from fusion_diff.trust.files import digest_plain, walk
from fusion_diff.trust.keyring import Keyring, check_valid
from fusion_diff.trust.keys import PublicKey, load_private, until, write_time
from fusion_diff.whole import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from fusion_diff.trust.keys import PrivateKey

SUFFIX = ".sig"


@dataclass(frozen=True)
class Verified:
    """What a verified signature says.

    Attributes:
        contents: the files' digests.
        key: the key it is signed with.
        signature: the signature's file.
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
        out: where the signature goes; `<path>.sig` when omitted. An older signature there is replaced.
        days: valid for so many days, though not longer than the key; when omitted, as long as the key.
        now: the time it is; the system's when omitted.

    Returns:
        What was signed, and where the signature is.

    Raises:
        TrustError: there is a link or special file, a name that is unsafe elsewhere, or no file at all; the private key
            lies in the folder; the key is not valid; `out` holds something else than a signature; or there are so many
            files that their signature would be too large to be read.
    """
    path = absolute(path)
    key = load_private(key_file)
    check_valid(key, key_file, now)
    target = absolute(out) if out is not None else signature_of(path)
    if target == path or target.is_symlink() or (target.exists() and not _is_signature(target)):
        raise TrustError(f"{printable(target)}: holds something that is not a signature; choose another --out")
    if Path(os.path.realpath(key_file)).is_relative_to(os.path.realpath(path)):
        raise TrustError(f"{printable(key_file)}: the private key lies in what is to be signed; keep it elsewhere")
    ends = [time for time in (until(days, now), key.public.expires) if time is not None]
    ignored = _ignored(path, target)
    expires = min(ends, default=None)
    files = _files(path, ignored)
    # With digests of no meaning first: hashing may take hours.
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
    """Check that a file or folder is what was signed, no more, no less.

    Args:
        path: the file or folder.
        keys: the public keys that are trusted; see `keyring` for what they vouch for.
        signature: the signature; `<path>.sig` when omitted.
        now: the time that expiry is judged by; the system's when omitted.

    Returns:
        What was signed, and by which key.

    Raises:
        TrustError: it is unsigned, or signed with another, a revoked or an expired key; the signature is malformed,
            forged or has expired; or files were altered, removed or added: a line of the message for each of them.
    """
    path = absolute(path)
    verified = read_signature(absolute(signature) if signature is not None else signature_of(path), keys, now=now)
    problems = _differences(path, verified)
    if problems:
        raise TrustError("\n".join(problems))
    return verified


def read_signature(file: Path, keys: Sequence[str | Path] | str | Path, *, now: datetime | None = None) -> Verified:
    """Check a signature by itself, without the files it speaks of.

    Raises:
        TrustError: there is none; it is signed with another, a revoked or an expired key; or it is malformed, forged or
            has expired.
    """
    ring = Keyring.of(keys, beside=file, now=now)
    if not file.exists() and not file.is_symlink():
        signed = file.with_name(file.name.removesuffix(SUFFIX))
        raise TrustError(
            f"{printable(signed)}: unsigned, there is no {printable(file)}; have it signed with `fusion-diff sign`, or "
            "name its signature"
        )
    statement, key = ring.open(Sealed.read(file), PREDICATE_TYPE)
    contents = Contents.parse(statement, printable(file))
    if contents.expires is not None and contents.expires <= ring.now:
        raise TrustError(
            f"{printable(file)}: the signature expired at {write_time(contents.expires)}; have it signed again"
        )
    return Verified(contents, key, file)


def signature_of(path: Path) -> Path:
    """Return where the signature of a file or folder lies by default.

    Raises:
        TrustError: it is the root of the file system.
    """
    path = absolute(path)
    if not path.name:
        raise TrustError(f"{path}: nothing can lie beside it; name a file or folder, or say where the signature is")
    return path.with_name(path.name + SUFFIX)


def absolute(path: str | Path) -> Path:
    """Return a path from the root on, with `..` taken out and no link followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links, absolute leaves `..` in)


def _differences(path: Path, verified: Verified) -> list[str]:
    """Say, file by file, how what is there differs from what was signed."""
    signed = verified.contents.digests
    if path.is_symlink() or not path.exists():
        what = "a symbolic link, which is not followed" if path.is_symlink() else "there is no such file or folder"
        return [f"{printable(path)}: {what}; name the file or folder itself"]
    if path.is_dir() == (ALONE in signed):
        was, now = ("file", "folder") if path.is_dir() else ("folder", "file")
        return [f"{printable(path)}: a {now}, but a {was} was signed; give the {was}, or its own signature"]
    if ALONE in signed:
        return [] if digest_plain(path) == signed[ALONE] else [_altered(path)]
    # What git keeps is left out, unless whoever signed did not leave it out.
    ignored = [
        name
        for name in _ignored(path, verified.signature)
        if not any(other == name or other.startswith(name + "/") for other in signed)
    ]
    files, odd = walk(path, ignored)
    problems = []
    for name in sorted(signed.keys() | files.keys() | odd.keys()):
        file = path / name
        if name in odd:
            problems.append(f"{printable(file)}: {odd[name]}, and only plain files are signed; remove it")
        elif name not in files:
            problems.append(f"{printable(file)}: missing, it was signed and is gone; restore it from its source")
        elif name not in signed:
            problems.append(f"{printable(file)}: added, it is not in the signature; remove it, or have it signed")
        elif digest_plain(file) != signed[name]:
            problems.append(_altered(file))
    return problems


def _altered(file: Path) -> str:
    return f"{printable(file)}: altered since it was signed; restore it from its source"


def _sealed(path: Path, contents: Contents, ignored: Sequence[str], key: PrivateKey) -> bytes:
    """Return a signature, unless it is larger than what is read."""
    content = seal(contents.statement(ignored), key)
    if len(content) > MAX_SIGNATURE_BYTES:
        raise TrustError(
            f"{printable(path)}: its {len(contents.digests):,} files make a signature larger than "
            f"{MAX_SIGNATURE_BYTES:,} bytes, which nobody would read; sign folders in it, each by itself"
        )
    return content


def _files(path: Path, ignored: Sequence[str]) -> dict[str, Path]:
    """List what is to be signed by the names it is signed under, refusing what could not be verified."""
    if not path.is_dir() or path.is_symlink():
        return {ALONE: path}
    files, odd = walk(path, ignored)
    problems = [f"{printable(path / name)}: {what}, which cannot be signed; remove it" for name, what in odd.items()]
    for name in files:
        problem = unsafe(name)
        if problem:
            problems.append(f"{printable(path / name)}: a name {problem}; rename the file")
    if not files and not problems:
        problems.append(f"{printable(path)}: holds no files to sign")
    if problems:
        raise TrustError("\n".join(sorted(problems)))
    return files


def _ignored(path: Path, signature: Path) -> tuple[str, ...]:
    inside = signature.is_relative_to(path) and signature != path
    return (*IGNORED, signature.relative_to(path).as_posix()) if inside else IGNORED


def _is_signature(file: Path) -> bool:
    try:
        Sealed.read(file)
    except TrustError:
        return False
    return True
