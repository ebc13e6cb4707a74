"""`fusion-diff keys`: make, show, rotate and revoke keys for `sign` and `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusion_diff.commands.terminal import say
from fusion_diff.trust.keyring import Keyring, revoke, rotate
from fusion_diff.trust.keys import MAX_DAYS, Kind, load_public, new_key, write_time

keys_app = typer.Typer(no_args_is_help=True, help="Make, show, rotate and revoke signing keys.")


Days = Annotated[
    int | None,
    typer.Option(
        "--days", min=1, max=MAX_DAYS, metavar="N", help="Number of days that the key is valid; no limit if omitted."
    ),
]
KindOption = Annotated[
    Kind | None, typer.Option("--kind", help="Kind of key; ecdsa-p256 is also supported by OpenSSF's model-signing.")
]


@keys_app.command("new")
def new_command(
    key: Annotated[
        Path, typer.Argument(metavar="K", help="File for the private key; the public key is written to K.pub.")
    ],
    kind: KindOption = None,
    days: Days = None,
) -> int:
    """Make a key pair: K, to sign with and keep secret, and K.pub, to give to verifiers.

    K is encrypted if the environment variable FUSION_DIFF_KEY_PASSPHRASE holds a passphrase.
    """
    made = new_key(key, kind=kind or Kind.ed25519, days=days)
    say(f"Private key: {key}; keep it secret")
    say(f"Public key: {made.public.name}")
    say(f"Key id: {made.public.id}")
    return 0


@keys_app.command("show")
def show_command(key: Annotated[Path, typer.Argument(metavar="K.pub", help="A public key.")]) -> int:
    """Show a public key, and whether it is valid."""
    public = load_public(key)
    ring = Keyring.of(key)
    say(f"Key id: {public.id}")
    say(f"Kind: {public.kind}")
    say(f"Expires: {'never' if public.expires is None else write_time(public.expires)}")
    problem = ring.problem(public)
    say(f"Not valid: the key {problem}" if problem else "Valid")
    for other in ring.keys[1:]:
        say(f"Endorses: {other.name}, {other.id}")
    return 1 if problem else 0


@keys_app.command("rotate")
def rotate_command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The current private key.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="File for the new private key.")],
    kind: KindOption = None,
    days: Days = None,
) -> int:
    """Make a new key that the old one endorses, so that whoever trusts the old key can trust the new one."""
    endorsement = rotate(old, new, kind=kind, days=days)
    say(f"Private key: {new}; keep it secret")
    say(f"Public key: {new}.pub")
    say(f"Endorsement: {endorsement}; send it along with the public key")
    return 0


@keys_app.command("revoke")
def revoke_command(
    key: Annotated[Path, typer.Argument(metavar="K", help="The private key to revoke.")],
    because: Annotated[str, typer.Option("--because", metavar="TEXT", help="Reason, which verifiers are shown.")],
) -> int:
    """Revoke a key. Send the revocation to everyone who has the public key."""
    say(f"Revocation: {revoke(key, because)}; send it to everyone who has the public key")
    return 0
