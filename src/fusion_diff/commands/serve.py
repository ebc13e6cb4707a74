"""`fusion-diff serve`: runs the service in this process until it is told to stop."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion_diff.commands.options import path_option, service_installed
from fusion_diff.commands.stopping import TERMINATED, Terminated, heed_sigterm
from fusion_diff.errors import FusionDiffError, ServiceError
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusion_diff.service.database import Database
    from fusion_diff.service.runtime import Service
    from fusion_diff.service.settings import Settings

_log = logging.getLogger("fusion_diff.service")

Data = Annotated[
    Path | None,
    path_option(
        "--data",
        metavar="DIR",
        file_okay=False,
        help="Folder for all data of the service; fusion-diff-data if omitted.",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url", metavar="URL", help="Database: postgresql://HOST/NAME; SQLite in the data folder if omitted."
    ),
]


@contextmanager
def records(data: Path | None, database_url: str | None, *, make: bool = False) -> Iterator[tuple[Settings, Database]]:
    """Open the database of the service during the block, for the other commands of the service, with its settings.

    A file that is missing is made with a note where `make` is set, and else refused: its address may be mistyped.
    """
    service_installed()
    from fusion_diff.service.database import Database, sqlite_file
    from fusion_diff.service.settings import read_settings

    settings = read_settings(data=data, database_url=database_url)
    file = sqlite_file(settings.database)
    if file is not None and not file.exists():
        if not make:
            raise ServiceError(
                f"{printable(file)}: there is no such database; check --data and --database-url. fusion-diff serve and "
                "fusion-diff service-keys new make one"
            )
        typer.echo(f"Note: a new database is made, {printable(file)}", err=True)
    database = Database(settings.database)
    try:
        yield settings, database
    finally:
        database.close()


def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if omitted.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 8000 if omitted.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Default model, unless a model enrolled in the service was made the default.")
    ] = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    device: Annotated[
        str | None, typer.Option(help="Device to compute on: cpu, cuda, npu, xpu or mps; refused if it is not here.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Require no API key; only on this machine, for anyone who uses it.")
    ] = False,
) -> int:
    """Serve inspections, references, models and their records over HTTP.

    Every setting can also be an environment variable, FUSION_DIFF_ and its name, such as FUSION_DIFF_MAX_UPLOAD_BYTES.
    """
    service_installed()
    from fusion_diff.service import logs
    from fusion_diff.service.serving import Server
    from fusion_diff.service.settings import read_settings

    settings = read_settings(
        host=host,
        port=port,
        model=model,
        data=data,
        database_url=database_url,
        device=device,
        insecure=insecure or None,
    )
    logs.configure()
    with _private_files():
        try:
            with heed_sigterm():  # else the first process of a container would ignore SIGTERM while it loads the model
                server = Server(_opened(settings), lambda port: _greet(settings.host, port))
        except Terminated:
            return TERMINATED
        try:
            server.run()
        except SystemExit:  # uvicorn has logged why
            told = "cannot listen on %s, port %s; choose another --port or --host, or end what listens there"
            _log.error(told, settings.host, settings.port)
            return 3
    return 0 if server.started else 3


def _greet(host: str, port: int) -> None:
    """Say on a terminal where the pages are; logs alone where no one looks."""
    if sys.stderr.isatty():
        typer.echo(f"Open {_address(host, port)}", err=True)


def _address(host: str, port: int) -> str:
    """Return where a browser on this machine reaches the service, also where it listens on all addresses."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _private_files() -> Iterator[None]:
    """Leave new files and folders to this user alone during the block."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _opened(settings: Settings) -> Service:
    """Open the service, and warn if it has no API key, another default model, or is not ready."""
    from fusion_diff.service.keys import all_keys
    from fusion_diff.service.runtime import Service

    service = Service.open(settings)
    if not settings.insecure:
        with service.database.read() as session:
            if not all_keys(session):
                _log.warning("there is no API key yet; make one with fusion-diff service-keys new")
    default = service.shelf.default()
    if default.sha256 != service.shelf.base_sha256:
        told = f"the default model is {default.name}, enrolled in the service, not {settings.model}"
        _log.warning("%s; choose another with PUT /v1/models/ID/default or on the page of references", told)
    try:
        service.shelf.check()
    except FusionDiffError as error:
        _log.warning("not ready: %s", error)
    return service
