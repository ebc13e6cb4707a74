"""`fusion-diff sign`: sign a model, references or captures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusion_diff.commands.options import named_path, path_option
from fusion_diff.commands.outputs import Output, expect_writable
from fusion_diff.commands.terminal import say
from fusion_diff.trust.keys import MAX_DAYS, write_time
from fusion_diff.trust.provenance import sign, signature_of


def sign_command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", parser=named_path, help="A model, a folder of references or captures, or a file."
        ),
    ],
    key: Annotated[Path, path_option("--key", metavar="K", help="The private key, made by `fusion-diff keys new`.")],
    out: Annotated[
        Path | None, path_option("--out", metavar="FILE", help="File for the signature; PATH.sig if omitted.")
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(
            "--days",
            min=1,
            max=MAX_DAYS,
            metavar="N",
            help="Number of days that the signature is valid, at most as long as the key; the key's if omitted.",
        ),
    ] = None,
) -> int:
    """Sign a folder with all its files, or a single file."""
    from fusion_diff.inspection.files import SIGNATURE

    if out is not None:
        expect_writable(Output("--out", out, own=SIGNATURE))
    made = sign(path, key, out=out, days=days)
    until = "" if made.contents.expires is None else f", until {write_time(made.contents.expires)}"
    say(f"Signed: {path}, files: {len(made.contents.digests)}{until}")
    say(f"Signature: {made.signature}")
    if out is not None and made.signature != (expected := signature_of(path)):
        say(f"Note: --require-signed looks for {expected}; only `verify --signature` reads it elsewhere.")
    return 0
