"""Starts a container: the model is verified, and only then the command runs, in the place of this process.

    start.py [--keys DIR] [--golden DIR] COMMAND…     fusion-diff COMMAND… once the model is what it has to be
    start.py healthy                                  0 where the service of this container answers

The model is the one that the command names with --model, or else FUSION_DIFF_MODEL's, or the embedded one. Every file
of it is compared with its manifest; with --keys it has to be signed with one of DIR/*.pub; with --golden it has to give
the scores of that golden set, see `fusion-diff verify-model`. No shell is needed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.request import urlopen

FAILED = 3
USAGE = "start.py [--keys DIR] [--golden DIR] COMMAND…"


def healthy() -> int:
    """Ask the service of this container whether it answers."""
    port = os.environ.get("FUSION_DIFF_PORT", "8000")
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=4) as response:
            return 0 if response.status == 200 else 1
    except OSError:
        return 1


def named_model(words: list[str]) -> str:
    """Return the model that a command line is about."""
    from fusion_diff.checkpoint import EMBEDDED

    for index, word in enumerate(words):
        if word == "--model" and index + 1 < len(words):
            return words[index + 1]
        if word.startswith("--model="):
            return word.removeprefix("--model=")
    return os.environ.get("FUSION_DIFF_MODEL") or EMBEDDED


def verify_model(model: str, keys: Path | None, golden: Path | None) -> None:
    """Say that the model is what it has to be.

    Raises:
        FusionDiffError: it is not.
    """
    from fusion_diff.checkpoint import locate, verify
    from fusion_diff.errors import TrustError

    folder = locate(model)
    if keys is not None:
        from fusion_diff.trust.provenance import verify as verify_signature

        # Clusters mount keys as links, which are not followed where keys are read.
        trusted = sorted(key.resolve() for key in keys.glob("*.pub"))
        if not trusted:
            raise TrustError(f"{keys}: there is no public key *.pub; put the keys to trust there, or leave --keys out")
        verify_signature(folder, trusted)
    print(f"Verified: {folder}, sha256 {verify(folder)}", file=sys.stderr, flush=True)
    if golden is not None:
        from fusion_diff.cli import main as cli

        if cli(["verify-model", str(folder), "--golden", str(golden)]) != 0:
            raise TrustError(f"{golden}: the model does not give the scores of this golden set; see above")


def main(words: list[str]) -> int:
    """Verify, then become the command; return an exit code where that does not come about."""
    if words == ["healthy"]:
        return healthy()
    folders: dict[str, Path] = {}
    while len(words) > 1 and words[0] in ("--keys", "--golden"):
        folders[words[0]] = Path(words[1])
        words = words[2:]
    if not words or words[0].startswith("-"):
        print(f"Usage: {USAGE}", file=sys.stderr)
        return FAILED
    from fusion_diff.errors import FusionDiffError

    try:
        verify_model(named_model(words), folders.get("--keys"), folders.get("--golden"))
    except (FusionDiffError, OSError) as error:
        print(f"Error: the model is not used: {error}", file=sys.stderr)
        return FAILED
    os.execv(sys.executable, [sys.executable, "-m", "fusion_diff.cli", *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
