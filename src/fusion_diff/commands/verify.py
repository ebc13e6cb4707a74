"""`fusion-diff verify`: verify that a path is exactly what the holder of a trusted key signed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusion_diff.commands.options import named_path, path_option
from fusion_diff.commands.terminal import complain, say
from fusion_diff.errors import TrustError
from fusion_diff.trust.keys import load_public, write_time
from fusion_diff.trust.provenance import verify


def verify_command(
    path: Annotated[Path, typer.Argument(metavar="PATH", parser=named_path, help="The signed folder or file.")],
    trusted_key: Annotated[
        list[Path], path_option("--trusted-key", "--key", metavar="K.pub", help="Public key to trust; repeatable.")
    ],
    signature: Annotated[
        Path | None, path_option("--signature", metavar="FILE", help="Signature file; PATH.sig if omitted.")
    ] = None,
) -> int:
    """Verify that a folder or file is what was signed: nothing altered, missing or added.

    The exit code is 0 if it is; 1 if it is refused; 3 if the command could not run, as when a key or PATH is missing.
    """
    for file in trusted_key:
        load_public(file)  # an error of usage, not of the verified path
    if not path.exists() and not path.is_symlink():
        raise TrustError(f"{path}: there is no such file or folder; check the path")
    try:
        verified = verify(path, trusted_key, signature=signature)
    except TrustError as error:
        for line in str(error).splitlines():
            complain(line)
        say(f"Refused: {path}")
        return 1
    until = "" if verified.contents.expires is None else f", until {write_time(verified.contents.expires)}"
    say(f"Verified: {path}, files: {len(verified.contents.digests)}{until}")
    say(f"Signed with: {verified.key.name}, key id {verified.key.id}")
    return 0
