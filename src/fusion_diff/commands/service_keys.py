"""`fusion-diff service-keys`: make, list and revoke the API keys of the service."""

from __future__ import annotations

from typing import Annotated

import typer

from fusion_diff.commands.serve import Data, DatabaseUrl, records
from fusion_diff.commands.terminal import say
from fusion_diff.printable import printable
from fusion_diff.service.scopes import Scope

service_keys_app = typer.Typer(
    no_args_is_help=True,
    help=(
        "Make, list and revoke the API keys of the service. The service's database is first brought up to "
        "this version, as when the service starts."
    ),
)


@service_keys_app.command("new")
def new_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the key's holder, as shown in records.")],
    scope: Annotated[
        list[Scope],
        typer.Option("--scope", help="What the key allows: reading, inspecting, teaching, or everything; repeatable."),
    ],
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Make an API key and print it. Only its hash is stored, so it cannot be shown again."""
    with records(data, database_url, make=True) as (_, database):
        from fusion_diff.service.keys import expect_free, new_key

        with database.write() as session:
            expect_free(session, name)
            key = new_key(session, name, scope)
    say(key)
    return 0


@service_keys_app.command("list")
def list_command(data: Data = None, database_url: DatabaseUrl = None) -> int:
    """List the API keys with id, name, scopes, time of creation and time of revocation."""
    with records(data, database_url) as (_, database):
        from fusion_diff.service.keys import all_keys

        with database.read() as session:
            rows = all_keys(session)
    if not rows:
        typer.echo("Note: there is no API key yet; make one with fusion-diff service-keys new", err=True)
    for row in rows:
        end = "" if row.revoked is None else f", revoked {row.revoked:%Y-%m-%d %H:%M} UTC"
        say(f"{row.id}  {printable(row.name)}: {', '.join(row.scopes)}; made {row.created:%Y-%m-%d %H:%M} UTC{end}")
    return 0


@service_keys_app.command("revoke")
def revoke_command(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as shown by `list`; or the whole key.")],
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Revoke an API key. A running service refuses it at once."""
    with records(data, database_url) as (_, database):
        from fusion_diff.service.keys import revoke

        with database.write() as session:
            row = revoke(session, key_id)
    say(f"Revoked: {row.id}, {printable(row.name)}")
    return 0
