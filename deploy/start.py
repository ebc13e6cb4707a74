"""Starts a container: the model is verified, and only then the command runs, in the place of this process.

    start.py [--keys DIR] [--golden DIR] COMMAND…     fusion-diff COMMAND… once the model is what it has to be
    start.py healthy                                  0 unless this container serves and does not answer

The model is the one that the command uses: that of --model or else FUSION_DIFF_MODEL (serve, inspect, batch, certify,
audit), of --base (enroll), or the first word after the command (export, verify-model); if none is named, the embedded
one. Every file of it is compared with its manifest. With --keys it has to be signed with one of DIR/*.pub, the command
gets a private copy of what was signed, and a command that uses any other model is refused. With --golden it has to give
the scores of that golden set, see `fusion-diff verify-model`. {model} in the command's words becomes the beginning of
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
BY_OPTION = ("serve", "inspect", "batch", "certify", "audit")
"""Commands that take their model from --model or FUSION_DIFF_MODEL."""
BY_POSITION = ("export", "verify-model")
"""Commands that take their model from a word of their own; here it has to come first."""
WITHOUT_MODEL = ("policy", "keys", "sign", "verify", "service-keys")
"""Commands that use no model."""


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


def naming(words: list[str], option: str, value: str) -> list[str]:
    """Return a command line that gives an option this value wherever it gives one."""
    changed = [f"{option}={value}" if word.startswith(f"{option}=") else word for word in words]
    return [value if previous == option else word for previous, word in zip(["", *changed], changed, strict=False)]


def first(words: list[str]) -> str | None:
    """Return the model that a command takes from its first word; None if it takes none from there."""
    return words[1] if words[0] in BY_POSITION and len(words) > 1 and not words[1].startswith("-") else None


def model_of(words: list[str], default: str) -> str:
    """Return the model that a command line uses."""
    if words[0] == "enroll":
        return named(words, "--base", "", default)
    return first(words) or named(words, "--model", "FUSION_DIFF_MODEL", default)


def using(words: list[str], model: str) -> list[str]:
    """Return a command line that uses this model in the place of the one it names; the environment names it too."""
    os.environ["FUSION_DIFF_MODEL"] = model
    if words[0] == "enroll":
        return [words[0], f"--base={model}", *naming(words[1:], "--base", model)]
    if first(words) is not None:
        return [words[0], model, *words[2:]]
    return naming(words, "--model", model)


def refusal(words: list[str]) -> str | None:
    """Say why a command cannot be held to a signed model; None if it can."""
    command = words[0]
    if command in (*BY_OPTION, *WITHOUT_MODEL, "enroll") or first(words) is not None:
        return None
    if command in BY_POSITION:
        return f"with --keys the model comes first: write {command} MODEL, and the options after it"
    return f"{command} uses models that --keys does not verify; run it without --keys, or outside of this container"


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

    refused = refusal(words) if "--keys" in folders else None
    if refused is not None:
        print(f"Error: {refused}", file=sys.stderr)
        return FAILED
    model = model_of(words, EMBEDDED)
    try:
        folder, sha256 = verify_model(model, folders.get("--keys"), folders.get("--golden"))
        if words[0] == "serve":
            PORT_FILE.write_text(named(words, "--port", "FUSION_DIFF_PORT", "8000"), encoding="ascii")
    except (FusionDiffError, OSError) as error:
        print(f"Error: the model is not used: {error}", file=sys.stderr)
        return FAILED
    if "--keys" in folders:
        words = using(words, str(folder))
    words = [word.replace("{model}", sha256[:DIGITS]) for word in words]
    os.execv(sys.executable, [sys.executable, "-m", "fusion_diff.cli", *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
