"""Signed statements: a Sigstore bundle with a DSSE envelope around an in-toto statement, as model-signing writes them.

The signature covers the statement's type and its exact bytes (DSSE's pre-authentication encoding). So no canonical form
is needed, and nothing is parsed before its signature is verified.

Formats: https://github.com/secure-systems-lab/dsse, https://github.com/in-toto/attestation,
https://docs.sigstore.dev/about/bundle. `seal` and `Sealed` are compatible with model-signing 1.1 for the kinds of key
that it supports.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_diff.errors import TrustError
from fusion_diff.printable import printable
from fusion_diff.trust.files import read_bounded

if TYPE_CHECKING:
    from fusion_diff.trust.keys import PrivateKey, PublicKey

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MAX_SIGNATURE_BYTES = 16 * 2**20
_MOST_COMMAS = 1000
"""In a bundle, whose payload has none; it is parsed before its signature is verified, so its values are bounded."""


@dataclass(frozen=True)
class Sealed:
    """A signed statement as read from a file; untrusted until `open` has verified it.

    Attributes:
        name: the file, for messages.
        hint: sha256 of the PEM of the key that it claims to be signed with; None where it claims none.
        payload: signed bytes.
        signature: signature of the payload.
    """

    name: str
    hint: str | None
    payload: bytes
    signature: bytes

    @classmethod
    def read(cls, file: str | Path) -> Sealed:
        """Read a signature file.

        Raises:
            TrustError: it is missing, too large, cut off, or not a bundle with one signature by a key.
        """
        file = Path(file)
        return cls.parse(read_bounded(file, MAX_SIGNATURE_BYTES, "signature"), printable(file))

    @classmethod
    def parse(cls, content: bytes, name: str, cure: str = "sign again") -> Sealed:
        """Parse a bundle.

        Args:
            content: the file's bytes.
            name: the file, for messages.
            cure: what errors advise.

        Raises:
            TrustError: it is cut off, or not a bundle with one signature by a key.
        """
        malformed = f"{name}: it is malformed or cut off, and not a signature in JSON; {cure}"
        if content.count(b",") > _MOST_COMMAS:
            raise TrustError(malformed)
        bundle = _json_object(content, malformed)
        if bundle.get("mediaType") != MEDIA_TYPE:
            raise TrustError(f"{name}: it is not a Sigstore bundle of type {MEDIA_TYPE}; {cure}")
        try:
            envelope, material = bundle["dsseEnvelope"], bundle["verificationMaterial"]
            if "publicKey" not in material:
                raise TrustError(
                    f"{name}: it is signed with a certificate or an identity, but only signatures by keys "
                    "can be verified; sign with `fusion-diff sign --key`"
                )
            hint = material["publicKey"].get("hint") or None
            payload, kind, signatures = envelope["payload"], envelope["payloadType"], envelope["signatures"]
            if kind != PAYLOAD_TYPE or len(signatures) != 1 or not isinstance(hint, str | None):
                raise ValueError
            return cls(
                name,
                hint,
                base64.b64decode(payload, validate=True),
                base64.b64decode(signatures[0]["sig"], validate=True),
            )
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, binascii.Error) as error:
            if isinstance(error, TrustError):
                raise
            raise TrustError(
                f"{name}: it is malformed, and not an envelope with one statement and one signature; {cure}"
            ) from error

    def open(self, key: PublicKey, predicate_type: str) -> dict[str, Any]:
        """Verify the signature and return the statement.

        Args:
            key: key that it must be signed with.
            predicate_type: required kind of statement; a key's endorsement is not a signature of files.

        Raises:
            TrustError: the signature does not match the content and key, or the statement is of another kind.
        """
        if not key.has_signed(encoding(self.payload), self.signature):
            raise TrustError(
                f"{self.name}: its signature by {key.name} does not match its content; it was altered or "
                "forged, get it again from the signer"
            )
        statement = _json_object(
            self.payload, f"{self.name}: the signed content is not a statement in JSON; sign again"
        )
        if statement.get("_type") != STATEMENT_TYPE or statement.get("predicateType") != predicate_type:
            raise TrustError(
                f"{self.name}: it is a statement of type "
                f"{printable(statement.get('predicateType'), 200)}, but {predicate_type} is required; "
                "give the right file"
            )
        return statement


def seal(statement: dict[str, Any], key: PrivateKey) -> bytes:
    """Sign a statement and return the bundle."""
    payload = json.dumps({"_type": STATEMENT_TYPE} | statement, separators=(",", ":")).encode("ascii")
    signature = {"sig": base64.b64encode(key.sign(encoding(payload))).decode("ascii"), "keyid": ""}
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key.public.hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [signature],
        },
    }
    return json.dumps(bundle, separators=(",", ":")).encode("ascii")


def encoding(payload: bytes) -> bytes:
    """Return the bytes to sign: DSSE's pre-authentication encoding (version 1) of an in-toto statement."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode("ascii"), len(payload), payload)


def _json_object(content: bytes, problem: str) -> dict[str, Any]:
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise TrustError(problem) from error
    if not isinstance(value, dict):
        raise TrustError(problem)
    return value
