"""Trusted keys: those named by the user and the keys that they endorse, without revoked and expired ones.

Beside a public key `K.pub` there may be two files: `K.pub.endorsed.json`, in which an older key endorses K as its
successor, and `K.pub.revoked.json`, in which K revokes itself. Both are signed statements that contain the key, so
their location does not matter. They are searched for in the folders of the trusted keys and of the signature. Where a
key is a symbolic link, those are the folders of the link, of every further link on the way, and of the key. The
statements may be links themselves.

A signature holds no trustworthy time. Endorsements by expired or revoked keys are therefore not trusted either: they
could have been made after the key was lost.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_diff.errors import TrustError
from fusion_diff.home import at_home
from fusion_diff.printable import printable
from fusion_diff.trust.envelope import Sealed, encoding, seal
from fusion_diff.trust.files import followed, hops, read_bounded, write_new
from fusion_diff.trust.keys import (
    PrivateKey,
    PublicKey,
    load_private,
    load_public,
    new_key,
    parse_public,
    public_file,
    write_time,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ENDORSEMENT = "urn:fusion-diff:key-endorsement:1"
REVOCATION = "urn:fusion-diff:key-revocation:1"
ENDORSED, REVOKED = ".endorsed.json", ".revoked.json"
MAX_STATEMENTS = 1000
"""Most endorsements and revocations to read from one folder."""
MAX_STATEMENT_BYTES = 2**18
"""Largest of them: twice the room of a key of `MAX_KEY_BYTES`, in base64."""

_MAX_REASON = 1000
_WITHOUT_REVOCATION = "restore this revocation from a copy, or remove it if you are sure that no key was revoked"


@dataclass(frozen=True)
class Keyring:
    """Set of trusted keys.

    Attributes:
        keys: the keys.
        revoked: reason of each revocation, by the id of the key.
        now: time at which expiry is checked.
    """

    keys: tuple[PublicKey, ...]
    revoked: dict[str, str]
    now: datetime

    @classmethod
    def of(
        cls, files: Sequence[str | Path] | str | Path, *, beside: Path | None = None, now: datetime | None = None
    ) -> Keyring:
        """Read public keys, with the endorsements and revocations in their folders.

        Args:
            files: the trusted public keys.
            beside: a signature, whose folder is searched for endorsements and revocations too.
            now: the current time; the system's if omitted.

        Raises:
            TrustError: no key is given, a file is not what its name says, or a revocation is not signed by the key that
                it revokes.
        """
        named = [files] if isinstance(files, str | Path) else list(files)
        if not named:
            raise TrustError("no key is trusted; give at least one public key")
        keys = [load_public(file) for file in named]
        places = [at_home(file) for file in named] + ([beside] if beside else [])
        folders = {Path(os.path.realpath(hop.parent)) for place in places for hop in hops(place)}
        revoked = dict(_revocation(file) for file in _statements(folders, REVOKED))
        ring = cls(tuple(keys), revoked, now or datetime.now(UTC))
        endorsements = [
            (file, _read(file, "get this endorsement again, or remove it")) for file in _statements(folders, ENDORSED)
        ]
        while True:  # until no further key is endorsed by a trusted one
            known = {key.id for key in ring.keys}
            new = [key for key in ring._endorsed(endorsements) if key.id not in known]
            if not new:
                return ring
            ring = cls((*ring.keys, *{key.id: key for key in new}.values()), revoked, ring.now)

    def open(self, sealed: Sealed, predicate_type: str) -> tuple[dict[str, Any], PublicKey]:
        """Verify a signed statement with these keys.

        Returns:
            The statement, and the key that signed it.

        Raises:
            TrustError: it is signed with another, a revoked or an expired key, or it was altered.
        """
        key = self._signer(sealed)
        if key is None:
            hint = "" if sealed.hint is None else f" (its PEM has sha256 {printable(sealed.hint[:12])}…)"
            problems = [(key.name, self.problem(key)) for key in self.keys]  # one may have endorsed the signer
            known = ", ".join(f"{name} (which {problem})" if problem else name for name, problem in problems)
            raise TrustError(
                f"{sealed.name}: it is signed with another key{hint} than {known}; get the signer's public key from a "
                "source you trust, or do not use it"
            )
        problem = self.problem(key)
        if problem:
            raise TrustError(
                f"{sealed.name}: it is signed with {key.name}, which {problem}; have it signed again with a valid key"
            )
        return sealed.open(key, predicate_type), key

    def problem(self, key: PublicKey) -> str | None:
        """Return why a key is not valid; None where it is valid."""
        if key.id in self.revoked:
            return f"was revoked: {self.revoked[key.id]}"
        if key.expires is not None and key.expires <= self.now:
            return f"expired at {write_time(key.expires)}"
        return None

    def _signer(self, sealed: Sealed) -> PublicKey | None:
        if sealed.hint is not None:
            return next((key for key in self.keys if key.hint == sealed.hint), None)
        return next((key for key in self.keys if key.has_signed(encoding(sealed.payload), sealed.signature)), None)

    def _endorsed(self, endorsements: Iterable[tuple[Path, Sealed]]) -> list[PublicKey]:
        keys = []
        for file, sealed in endorsements:
            endorser = self._signer(sealed)
            if endorser is not None and self.problem(endorser) is None:
                keys.append(_key_of(sealed.open(endorser, ENDORSEMENT), str(file).removesuffix(ENDORSED)))
        return keys


def rotate(
    old: str | Path, new: str | Path, *, kind: str | None = None, days: int | None = None, now: datetime | None = None
) -> Path:
    """Make a successor of a key, endorsed by it.

    Args:
        old: private key that is trusted so far.
        new: path of the new private key.
        kind: kind of the new key; the old key's if omitted.
        days: validity of the new key in days; None for no expiry.
        now: the current time; the system's if omitted.

    Returns:
        Path of the endorsement, beside the new public key.

    Raises:
        TrustError: the old key cannot be read or is no longer valid, or a file exists already.
    """
    signer = load_private(old)
    check_valid(signer, old, now)
    beside = public_file(at_home(new))
    endorsement = beside.with_name(beside.name + ENDORSED)
    if endorsement.exists() or endorsement.is_symlink():
        raise TrustError(f"{printable(endorsement)}: it exists already and is not overwritten; choose another name")
    key = new_key(new, kind=kind or signer.public.kind, days=days, now=now).public
    write_new(endorsement, seal(_about(key, ENDORSEMENT, {}), signer), 0o644)
    return endorsement


def revoke(file: str | Path, because: str) -> Path:
    """Revoke a key, with a statement signed by itself.

    Args:
        file: the private key.
        because: the reason, shown to verifiers.

    Returns:
        Path of the revocation, beside the public key. It must be distributed to whoever verifies.

    Raises:
        TrustError: the key cannot be read, the reason is empty or too long, or the key is revoked already.
    """
    if not 0 < len(because.strip()) <= _MAX_REASON:
        raise TrustError(f"a revocation needs a reason of at most {_MAX_REASON} characters")
    key = load_private(file)
    beside = public_file(at_home(file))
    revocation = beside.with_name(beside.name + REVOKED)
    write_new(revocation, seal(_about(key.public, REVOCATION, {"because": because.strip()}), key), 0o644)
    return revocation


def check_valid(key: PrivateKey, file: str | Path, now: datetime | None = None) -> None:
    """Check that a key has not expired and has no revocation beside it, before it is used to sign.

    Where the file is a symbolic link, the revocation may lie beside any link on the way, or beside the key itself.

    Raises:
        TrustError: it has expired or is revoked.
    """
    besides = [public_file(hop) for hop in hops(at_home(file))]
    revocations = [beside.with_name(beside.name + REVOKED) for beside in besides]
    revoked = dict(_revocation(revocation) for revocation in revocations if os.path.lexists(revocation))
    problem = Keyring((key.public,), revoked, now or datetime.now(UTC)).problem(key.public)
    if problem:
        raise TrustError(f"{printable(file)}: the key {problem}; make another with `fusion-diff keys new`")


def _read(file: Path, cure: str) -> Sealed:
    """Read a statement about a key, also through a symbolic link; `cure` is what errors advise."""
    return Sealed.parse(read_bounded(followed(file), MAX_STATEMENT_BYTES, "statement"), printable(file), cure)


def _about(key: PublicKey, predicate_type: str, more: dict[str, str]) -> dict[str, Any]:
    return {
        "subject": [{"name": Path(key.name).name, "digest": {"sha256": key.id}}],
        "predicateType": predicate_type,
        "predicate": {"publicKey": key.text()} | more,
    }


def _key_of(statement: dict[str, Any], name: str) -> PublicKey:
    try:
        return parse_public(statement["predicate"]["publicKey"].encode("ascii"), printable(name))
    except (KeyError, TypeError, AttributeError, UnicodeEncodeError) as error:
        raise TrustError(
            f"{printable(name)}: it is a statement about a key, but does not contain the key; get it again"
        ) from error


def _revocation(file: Path) -> tuple[str, str]:
    """Read a revocation; return the id of the revoked key and the reason."""
    sealed = _read(file, _WITHOUT_REVOCATION)
    # The file holds the key that must have signed it. The key is parsed first, and trusted only if it did.
    try:
        claimed = json.loads(sealed.payload)
        because = claimed["predicate"]["because"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrustError(f"{printable(file)}: it is not a revocation; {_WITHOUT_REVOCATION}") from error
    key = _key_of(claimed, str(file).removesuffix(REVOKED))
    sealed.open(key, REVOCATION)
    return key.id, printable(str(because)[:_MAX_REASON])


def _statements(folders: Iterable[Path], suffix: str) -> list[Path]:
    found: list[Path] = []
    for folder in sorted(folders):
        try:
            here = [folder / name for name in sorted(os.listdir(folder)) if name.endswith(suffix)]  # noqa: PTH208
        except FileNotFoundError:
            continue
        except OSError as error:  # it could hide a revocation
            raise TrustError(
                f"{printable(folder)}: cannot be listed ({error.strerror}); check its permissions"
            ) from error
        if len(here) > MAX_STATEMENTS:
            raise TrustError(
                f"{printable(folder)}: it has more than {MAX_STATEMENTS} files *{suffix}; keep keys in a "
                "folder of their own"
            )
        found += here
    return found
