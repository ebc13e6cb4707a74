"""A checkpoint's manifest: `checkpoint.verify` and `read_json`."""

from __future__ import annotations

import hashlib
import json

from common import FOLDER, FindingError, bounded_memory
from structured import mutate_json as mutate  # noqa: F401  (part of the harness)

from fusion_diff.checkpoint import FORMAT, MANIFEST, read_json, verify
from fusion_diff.errors import CheckpointError

MAX_LEN = 2**13
_FILES = {"config.json": b"{}", "encoder.safetensors": bytes(16), "prior/vae/config.json": b"{}"}


def seeds() -> list[bytes]:
    """Return the manifest of the checkpoint, and others that are none of it."""
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in _FILES.items()}
    return [
        json.dumps({"format": FORMAT, "sha256": sums}).encode(),
        json.dumps({"format": FORMAT, "sha256": sums | {"../secret": "0", "/etc/passwd": "0"}}).encode(),
        json.dumps({"format": FORMAT, "sha256": {}}).encode(),
        b"[" * 3000,
        b'{"format": ' + b"9" * 5000 + b"}",
    ]


def check(data: bytes) -> None:
    """Verify a checkpoint with this manifest: it is refused, or all its files are as the manifest says."""
    folder = FOLDER / "checkpoint"
    if not folder.exists():
        for name, content in _FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    (folder / MANIFEST).write_bytes(data)
    with bounded_memory():
        try:
            read_json(folder / MANIFEST)
            sha256 = verify(folder)
        except CheckpointError as error:
            message = str(error)
            if str(folder) not in message or len(message) > 2000 or not message.isprintable():
                raise FindingError(f"a message of {len(message)} characters: {message[:300]!r}") from error
            return
    if sha256 != hashlib.sha256(data).hexdigest() or set(json.loads(data)["sha256"]) != set(_FILES):
        raise FindingError("a checkpoint other than its manifest says was let pass")
