"""Signing keys: Ed25519 (RFC 8032), or ECDSA (FIPS 186-5) to verify with OpenSSF's model-signing.

A pair is two PEM files. `K` is the private key in PKCS #8, readable by its owner only, and encrypted if the environment
variable `FUSION_DIFF_KEY_PASSPHRASE` is set. `K.pub` is the public key. A key that expires has a line `Expires: TIME`
before the PEM block, where RFC 7468 allows text; whoever trusts the file trusts that line too. Private keys never
appear in messages or reprs.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Literal

from fusion_diff.checkpoint import IN_MODEL, enclosing
from fusion_diff.errors import TrustError
from fusion_diff.home import at_home
from fusion_diff.printable import printable
from fusion_diff.trust.files import followed, read_bounded, write_new
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

PASSPHRASE = "FUSION_DIFF_KEY_PASSPHRASE"
MAX_PASSPHRASE_BYTES = 1023
"""Longest passphrase that keys can be encrypted with, a limit of OpenSSL."""
MAX_KEY_BYTES = 2**16
MAX_DAYS = 36_500

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_CURVES = {"secp256r1": "ecdsa-p256", "secp384r1": "ecdsa-p384", "secp521r1": "ecdsa-p521"}


class Kind(StrEnum):
    """Kinds of key that can be made. ECDSA on P-384 and P-521 can be verified too."""

    ed25519 = "ed25519"
    ecdsa_p256 = "ecdsa-p256"


@dataclass(frozen=True)
class PublicKey:
    """A public key.

    Attributes:
        name: file that it was read from.
        pem: PEM block, ending in a line break.
        expires: time at which it expires; None for never.
    """

    name: str
    pem: str
    expires: datetime | None = None

    @cached_property
    def _key(self) -> Ed25519PublicKey | EllipticCurvePublicKey:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(self.pem.encode("ascii"))
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise TrustError(
                f"{self.name}: it is not a public key in PEM; give the .pub file made by `fusion-diff keys new`"
            ) from error
        if isinstance(key, Ed25519PublicKey) or (isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES):
            return key
        raise TrustError(
            f"{self.name}: the key is of another kind than Ed25519 or ECDSA on P-256, P-384 or P-521; "
            "make one with `fusion-diff keys new`"
        )

    @property
    def kind(self) -> str:
        """`ed25519` or `ecdsa-p256`, `ecdsa-p384`, `ecdsa-p521`."""
        curve = getattr(self._key, "curve", None)
        return "ed25519" if curve is None else _CURVES[curve.name]

    @cached_property
    def id(self) -> str:
        """Hexadecimal sha256 of the key in DER (SubjectPublicKeyInfo)."""
        return hashlib.sha256(_encoded(self._key, "DER")).hexdigest()

    @cached_property
    def hint(self) -> str:
        """Hexadecimal sha256 of the key in PEM, by which a signature names its key."""
        return hashlib.sha256(_encoded(self._key, "PEM")).hexdigest()

    def text(self) -> str:
        """Return the contents of its file."""
        return ("" if self.expires is None else f"Expires: {write_time(self.expires)}\n") + self.pem

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Return whether a signature of a message was made with this key's private key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey

        key = self._key
        try:
            if isinstance(key, EllipticCurvePublicKey):
                key.verify(signature, message, ECDSA(_hash(self.kind)))
            else:
                key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """A private key with its public key; its repr does not show the private key."""

    public: PublicKey
    _key: Ed25519PrivateKey | EllipticCurvePrivateKey = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message: 64 bytes for Ed25519, DER for ECDSA."""
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey

        if isinstance(self._key, EllipticCurvePrivateKey):
            return self._key.sign(message, ECDSA(_hash(self.public.kind)))
        return self._key.sign(message)


def new_key(
    file: str | Path, *, kind: str = "ed25519", days: int | None = None, now: datetime | None = None
) -> PrivateKey:
    """Make a pair of keys and write it to `file` and `file.pub`, neither of which may exist.

    Args:
        file: path of the private key, which is created with permissions 0600.
        kind: one of `Kind`.
        days: validity in days; None for no expiry.
        now: the current time; the system's if omitted.

    Raises:
        TrustError: a file exists already or would lie in a model's folder, `kind` or `days` is not allowed, or the
            passphrase is too long.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    if kind not in tuple(Kind):
        raise TrustError(f"kind is {kind!r}; choose {' or '.join(Kind)}")
    file = at_home(file)
    if enclosing(file) is not None:
        raise TrustError(f"{file}: {IN_MODEL}")
    beside = public_file(file)
    expires = until(days, now)
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    public = PublicKey(printable(beside), _encoded(key.public_key(), "PEM").decode("ascii"), expires)
    passphrase = _passphrase()
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    before = "" if expires is None else f"Expires: {write_time(expires)}\n"
    # The public key first, so that a failure between the two leaves no private key behind.
    write_new(beside, public.text().encode("ascii"), 0o644)
    try:
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        write_new(file, before.encode("ascii") + private, 0o600)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return PrivateKey(public, key)


def load_private(file: str | Path) -> PrivateKey:
    """Read a private key, with the passphrase from `FUSION_DIFF_KEY_PASSPHRASE` if it is encrypted.

    Warns where users other than its owner may read the file.

    Raises:
        TrustError: it cannot be read, is not a private key, or the passphrase is missing or wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    file = at_home(file)
    content = read_bounded(followed(file), MAX_KEY_BYTES, "key")
    name = printable(file)
    if b"PUBLIC KEY-----" in content:
        raise TrustError(f"{name}: it is a public key, which cannot sign; give the private key, the file without .pub")
    if os.name == "posix" and stat.S_IMODE(file.stat().st_mode) & 0o077:
        warn(f"{name}: other users may read this private key; run chmod 600 {quote(name)}")
    # The library's errors are not chained, so that no part of a key gets into a message.
    try:
        try:
            key = load_pem_private_key(content, None)
        except TypeError:  # it is encrypted
            passphrase = _passphrase()
            if not passphrase:
                raise TrustError(f"{name}: it is encrypted; set {PASSPHRASE} to its passphrase") from None
            key = load_pem_private_key(content, passphrase)
    except TrustError:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise TrustError(
            f"{name}: it is not a private key in PEM, or {PASSPHRASE} is not its passphrase; restore it, "
            "or make another with `fusion-diff keys new`"
        ) from None
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise TrustError(
            f"{name}: the key is of another kind than Ed25519 or ECDSA; make one with `fusion-diff keys new`"
        )
    public = PublicKey(
        printable(public_file(file)), _encoded(key.public_key(), "PEM").decode("ascii"), _expiry(content, name)
    )
    public.kind  # noqa: B018 - refuses other curves
    return PrivateKey(public, key)


def load_public(file: str | Path) -> PublicKey:
    """Read a public key.

    Raises:
        TrustError: it cannot be read, or is not a public key of a supported kind.
    """
    file = at_home(file)
    return parse_public(read_bounded(followed(file), MAX_KEY_BYTES, "key"), printable(file))


def parse_public(content: bytes, name: str) -> PublicKey:
    """Parse the public key in a file's bytes.

    Raises:
        TrustError: there is no key, a private key, more than one, or one of another kind.
    """
    if b"PRIVATE KEY-----" in content:
        raise TrustError(f"{name}: it is a private key; give its public key, the .pub file, and keep this one secret")
    match = re.search(rb"-----BEGIN PUBLIC KEY-----[A-Za-z0-9+/=\s]*-----END PUBLIC KEY-----", content)
    if match is None or content.count(b"-----BEGIN") != 1:
        raise TrustError(
            f"{name}: it is not a single public key in PEM; give the .pub file made by `fusion-diff keys new`"
        )
    key = PublicKey(name, match.group().decode("ascii") + "\n", _expiry(content, name))
    key.kind  # noqa: B018 - parses it
    return key


def public_file(file: Path) -> Path:
    """Return the path of the public key that belongs to a private key.

    Raises:
        TrustError: the path names a folder, as `.`, `/` and an empty one do.
    """
    if not file.name:
        raise TrustError(f"{printable(file)}: it names no file; give a path for the private key, such as release.key")
    return file.with_name(file.name + ".pub")


def until(days: int | None, now: datetime | None = None) -> datetime | None:
    """Return the time `days` from now; None where `days` is None.

    Raises:
        TrustError: `days` is not between 1 and `MAX_DAYS`.
    """
    if days is None:
        return None
    if not 1 <= days <= MAX_DAYS:
        raise TrustError(f"days is {days}; give 1 to {MAX_DAYS}")
    return ((now or datetime.now(UTC)) + timedelta(days=days)).replace(microsecond=0)


def write_time(time: datetime) -> str:
    """Return a time as text, such as `2026-01-31T12:00:00Z`."""
    return time.astimezone(UTC).strftime(_TIME)


def read_time(text: object, name: str) -> datetime:
    """Parse a time; `name` is the file it comes from, for errors.

    Raises:
        TrustError: it is not a time.
    """
    try:
        return datetime.strptime(str(text), _TIME).replace(tzinfo=UTC)
    except ValueError as error:
        raise TrustError(
            f"{name}: its expiry time is unreadable, so it counts as expired; it must be written as "
            "YYYY-MM-DDThh:mm:ssZ"
        ) from error


def _passphrase() -> bytes:
    """Return the bytes of the passphrase, which need not be text; empty where none is set."""
    passphrase = os.fsencode(os.environ.get(PASSPHRASE, ""))
    if len(passphrase) > MAX_PASSPHRASE_BYTES:
        raise TrustError(f"{PASSPHRASE}: it is longer than {MAX_PASSPHRASE_BYTES} bytes; set a shorter passphrase")
    return passphrase


def _expiry(content: bytes, name: str) -> datetime | None:
    before = content.partition(b"-----BEGIN")[0].decode("ascii", "replace")
    times = [
        line.partition(":")[2].strip() for line in before.splitlines() if line.strip().lower().startswith("expires")
    ]
    return min((read_time(time, name) for time in times), default=None)


def _encoded(key: Ed25519PublicKey | EllipticCurvePublicKey, encoding: Literal["DER", "PEM"]) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(getattr(Encoding, encoding), PublicFormat.SubjectPublicKeyInfo)


def _hash(kind: str) -> HashAlgorithm:
    from cryptography.hazmat.primitives import hashes

    return {"ecdsa-p256": hashes.SHA256(), "ecdsa-p384": hashes.SHA384(), "ecdsa-p521": hashes.SHA512()}[kind]
