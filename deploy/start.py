"""Entry point of containers: verifies the model, then runs the command in place of this process.

    start.py [--keys DIR] [--golden DIR] COMMAND…     verify the model, then run fusion-diff COMMAND…
    start.py healthy                                  health check: 0 unless this container serves and does not answer

The model is the one that the command uses: that of --model or else FUSION_DIFF_MODEL (serve, inspect, batch, certify,
audit, validate), of --base (enroll), or the first word after the command (export, verify-model); the embedded one if
none is named. Every file of it is compared with its manifest. With --keys it has to be signed with one of DIR/*.pub,
the command gets a private copy of what was signed, and commands that use any other model are refused. With --golden it
has to give the scores of that golden set, see `fusion-diff verify-model`. {model} in the command's words becomes the
first digits of the model's sha256, because the --out of a batch takes the rows of one model. No shell is needed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

FAILED = 3
DIGITS = 16
"""Number of hexadecimal digits of the model's sha256 that replace {model}."""
ADDRESS_FILE = Path(tempfile.gettempdir()) / "fusion-diff-address"
"""File with the host and port at which the service is asked; missing if another command runs."""
SIGNED = Path(tempfile.gettempdir()) / "fusion-diff-model"
"""Folder of the private copy of a signed model; replaced at each start."""
USAGE = "start.py [--keys DIR] [--golden DIR] COMMAND…"
BY_OPTION = ("serve", "inspect", "batch", "certify", "audit", "validate")
"""Commands that take their model from --model or FUSION_DIFF_MODEL."""
BY_POSITION = ("export", "verify-model")
"""Commands that take their model as an argument; here it has to come first."""
WITHOUT_MODEL = ("policy", "keys", "sign", "verify", "service-keys", "service-prune")
"""Commands that use no model."""


def healthy() -> int:
    """Check that the service answers; return 0 if it does or if another command runs, else 1."""
    try:
        address = ADDRESS_FILE.read_text(encoding="ascii")
    except FileNotFoundError:
        return 0
    try:
        direct = build_opener(ProxyHandler({}))  # the container may name a proxy
        with direct.open(f"http://{address}/healthz", timeout=4) as response:
            return 0 if response.status == 200 else 1
    except OSError:
        return 1


def named(words: list[str], option: str, setting: str, default: str) -> str:
    """Return the last value of an option, else that of the environment variable, else the default."""
    found = os.environ.get(setting) or default
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            found = words[index + 1]
        if word.startswith(f"{option}="):
            found = word.removeprefix(f"{option}=")
    return found


def address_of(words: list[str]) -> str:
    """Return the host and port at which a service started with these words can be asked."""
    host = named(words, "--host", "FUSION_DIFF_HOST", "127.0.0.1")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    port = named(words, "--port", "FUSION_DIFF_PORT", "8000")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def naming(words: list[str], option: str, value: str) -> list[str]:
    """Return the command line with this value wherever the option is given."""
    changed = [f"{option}={value}" if word.startswith(f"{option}=") else word for word in words]
    return [value if previous == option else word for previous, word in zip(["", *changed], changed, strict=False)]


def first(words: list[str]) -> str | None:
    """Return the model argument of a command in `BY_POSITION`; None if it is not in first place."""
    return words[1] if words[0] in BY_POSITION and len(words) > 1 and not words[1].startswith("-") else None


def model_of(words: list[str], default: str) -> str:
    """Return the model that a command line uses."""
    if words[0] == "enroll":
        return named(words, "--base", "", default)
    return first(words) or named(words, "--model", "FUSION_DIFF_MODEL", default)


def using(words: list[str], model: str) -> list[str]:
    """Return the command line with this model in place of its own, and set FUSION_DIFF_MODEL to it."""
    os.environ["FUSION_DIFF_MODEL"] = model
    if words[0] == "enroll":
        return [words[0], f"--base={model}", *naming(words[1:], "--base", model)]
    if first(words) is not None:
        return [words[0], model, *words[2:]]
    return naming(words, "--model", model)


def refusal(words: list[str]) -> str | None:
    """Return why a command is refused under --keys; None if it is not."""
    command = words[0]
    if command in (*BY_OPTION, *WITHOUT_MODEL, "enroll") or first(words) is not None:
        return None
    if command in BY_POSITION:
        return f"with --keys the model comes first; write {command} MODEL and then the options"
    return f"{command} uses models that --keys does not verify; run it without --keys, or outside of this container"


def verify_model(model: str, keys: Path | None, golden: Path | None) -> tuple[Path, str]:
    """Verify the model, and return its folder, or that of the private copy if keys are given, and its sha256.

    Raises:
        FusionDiffError: the model is altered, is not signed with a trusted key, or does not give the golden scores.
        SystemExit: the golden scores could not be computed.
    """
    from fusion_diff.checkpoint import locate, verify
    from fusion_diff.errors import TrustError

    folder = locate(model)
    if keys is not None:
        from fusion_diff.trust.signed import signed_copy

        trusted = sorted(keys.glob("*.pub"))
        if not trusted:
            raise TrustError(
                f"{keys}: the folder has no public key *.pub; put the trusted keys there, or leave --keys out"
            )
        copy = signed_copy(folder, trusted)
        try:
            if os.path.lexists(SIGNED):
                shutil.rmtree(SIGNED)  # refuses a link
            copy.parent.rename(SIGNED)  # follows no link and joins no folder, whatever was put there meanwhile
        except OSError as error:
            shutil.rmtree(copy.parent, ignore_errors=True)
            raise TrustError(
                f"{SIGNED}: cannot be replaced by the copy of the signed model ({error}); remove it, or set TMPDIR to "
                "a folder of your own"
            ) from error
        folder = SIGNED / copy.name
    sha256 = verify(folder)
    print(f"Verified: {folder}, sha256 {sha256}", file=sys.stderr, flush=True)
    if golden is not None:
        from fusion_diff.cli import main as cli

        code = cli(["verify-model", str(folder), "--golden", str(golden)])
        if code == 1:
            raise TrustError(
                f"{golden}: the model does not reproduce the scores of this golden set; see the lines above"
            )
        if code != 0:  # it was stopped, or has said what is wrong
            sys.exit(code)
    return folder, sha256


def main(words: list[str]) -> int:
    """Verify the model, then become the command; return an exit code if that fails."""
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
    from fusion_diff.whole import write_whole

    refused = refusal(words) if "--keys" in folders else None
    if refused is not None:
        print(f"Error: {refused}", file=sys.stderr)
        return FAILED
    model = model_of(words, EMBEDDED)
    try:
        folder, sha256 = verify_model(model, folders.get("--keys"), folders.get("--golden"))
        if words[0] == "serve":
            write_whole(ADDRESS_FILE, address_of(words).encode("ascii"))  # replaces a link rather than follow it
    except (FusionDiffError, OSError) as error:
        print(f"Error: the model cannot be used: {error}", file=sys.stderr)
        return FAILED
    if "--keys" in folders:
        words = using(words, str(folder))
    words = [word.replace("{model}", sha256[:DIGITS]) for word in words]
    os.execv(sys.executable, [sys.executable, "-m", "fusion_diff", *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
