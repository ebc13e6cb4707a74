"""Starts a container: the model is verified, and only then the command runs, in the place of this process.

    start.py [--keys DIR] [--golden DIR] COMMAND…     fusion-diff COMMAND… once the model is what it has to be
    start.py healthy                                  0 unless this container serves and does not answer

The model is the one that the command names with --model, or else FUSION_DIFF_MODEL's, or the embedded one. Every file
of it is compared with its manifest; with --keys it has to be signed with one of DIR/*.pub, and the command gets a
private copy of what was signed; with --golden it has to give the scores of that golden set, see
`fusion-diff verify-model`. {model} in the command's words becomes the beginning of
the model's digest, for the --out of batches: one output takes the rows of one model. No shell is needed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.request import urlopen

FAILED = 3
DIGITS = 16
"""Of a model's sha256 in hexadecimal, those that stand for {model}."""
PORT_FILE = Path(tempfile.gettempdir()) / "fusion-diff-port"
"""Where the service of this container listens; there is no such file where another command runs."""
SIGNED = Path(tempfile.gettempdir()) / "fusion-diff-model"
"""Where the copy of a signed model lies; a container that starts again replaces it."""
USAGE = "start.py [--keys DIR] [--golden DIR] COMMAND…"


def healthy() -> int:
    """Ask the service of this container, if that is what runs in it, whether it answers."""
    try:
        port = PORT_FILE.read_text(encoding="ascii")
    except FileNotFoundError:
        return 0
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=4) as response:
            return 0 if response.status == 200 else 1
    except OSError:
        return 1


def named(words: list[str], option: str, setting: str, default: str) -> str:
    """Return what a command line gives an option last; or else the environment, or what holds if neither does."""
    found = os.environ.get(setting) or default
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            found = words[index + 1]
        if word.startswith(f"{option}="):
            found = word.removeprefix(f"{option}=")
    return found


def naming(words: list[str], option: str, setting: str, value: str) -> list[str]:
    """Return a command line that gives an option this value wherever it gives one; the environment is made to."""
    os.environ[setting] = value
    changed = [f"{option}={value}" if word.startswith(f"{option}=") else word for word in words]
    return [value if previous == option else word for previous, word in zip(["", *changed], changed, strict=False)]


def verify_model(model: str, keys: Path | None, golden: Path | None) -> tuple[Path, str]:
    """Say that the model is what it has to be, and return its folder, or the copy of what was signed, and its sha256.

    Raises:
        FusionDiffError: it is not.
    """
    from fusion_diff.checkpoint import locate, verify
    from fusion_diff.errors import TrustError

    folder = locate(model)
    if keys is not None:
        from fusion_diff.trust.signed import signed_copy

        # Clusters mount keys as links, which are not followed where keys are read.
        trusted = sorted(key.resolve() for key in keys.glob("*.pub"))
        if not trusted:
            raise TrustError(f"{keys}: there is no public key *.pub; put the keys to trust there, or leave --keys out")
        copy = signed_copy(folder, trusted)
        shutil.rmtree(SIGNED, ignore_errors=True)
        shutil.move(copy.parent, SIGNED)
        folder = SIGNED / copy.name
    sha256 = verify(folder)
    print(f"Verified: {folder}, sha256 {sha256}", file=sys.stderr, flush=True)
    if golden is not None:
        from fusion_diff.cli import main as cli

        if cli(["verify-model", str(folder), "--golden", str(golden)]) != 0:
            raise TrustError(f"{golden}: the model does not give the scores of this golden set; see above")
    return folder, sha256


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
    from fusion_diff.checkpoint import EMBEDDED
    from fusion_diff.errors import FusionDiffError

    model = named(words, "--model", "FUSION_DIFF_MODEL", EMBEDDED)
    try:
        folder, sha256 = verify_model(model, folders.get("--keys"), folders.get("--golden"))
        if words[0] == "serve":
            PORT_FILE.write_text(named(words, "--port", "FUSION_DIFF_PORT", "8000"), encoding="ascii")
    except (FusionDiffError, OSError) as error:
        print(f"Error: the model is not used: {error}", file=sys.stderr)
        return FAILED
    if "--keys" in folders:
        words = naming(words, "--model", "FUSION_DIFF_MODEL", str(folder))
    words = [word.replace("{model}", sha256[:DIGITS]) for word in words]
    os.execv(sys.executable, [sys.executable, "-m", "fusion_diff.cli", *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
