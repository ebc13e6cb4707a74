"""Signatures: `Sealed.parse`, what is read before any signature can be checked."""

from __future__ import annotations

import base64
import json
import random

from common import FindingError, bounded_memory
from structured import mutate_json

from fusion_diff.errors import TrustError
from fusion_diff.trust.envelope import MEDIA_TYPE, PAYLOAD_TYPE, Sealed

MAX_LEN = 2**13


def seeds() -> list[bytes]:
    """Return a bundle as it is written, and others."""
    envelope = {
        "payload": base64.b64encode(b'{"_type": "https://in-toto.io/Statement/v1"}').decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(bytes(64)).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": "ab" * 32}, "tlogEntries": []}
    bundle = {"mediaType": MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
    other = bundle | {"verificationMaterial": {"certificate": {"rawBytes": ""}}}
    return [json.dumps(bundle).encode(), json.dumps(other).encode(), b"[" * 3000]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a node of the JSON text, or its bytes."""
    return mutate_json(data, rng)


def check(data: bytes) -> None:
    """Take a bundle apart: it is refused by name, or has a payload and a signature in bytes."""
    with bounded_memory():
        try:
            sealed = Sealed.parse(data, "line-7.sig")
        except TrustError as error:
            if "line-7.sig" not in str(error) or len(str(error)) > 2000:
                raise FindingError(f"a refusal without the file's name, or endless: {str(error)[:300]}") from error
            return
    if not (isinstance(sealed.payload, bytes) and isinstance(sealed.signature, bytes)):
        raise FindingError("a payload or signature that is not bytes")
