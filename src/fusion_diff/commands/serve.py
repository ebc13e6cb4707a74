"""`fusion-diff serve`: the service, in this process, until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", file_okay=False, help="Folder of everything kept; fusion-diff-data if omitted."
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database-url", metavar="URL", help="postgresql://HOST/NAME; SQLite in the data folder if omitted."),
]


def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if omitted.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 8000 if omitted.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model that judges, unless one that was enrolled here does.")
    ] = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    device: Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, npu, xpu or mps.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Ask for no API key: on this machine alone, for whoever uses it.")
    ] = False,
) -> int:
    """Serve inspections, references, models and their records over HTTP.

    Every setting is an environment variable too, FUSION_DIFF_ and its name: FUSION_DIFF_MAX_UPLOAD_BYTES and others.
    """
    from fusion_diff.commands.options import service_installed

    service_installed()
    import uvicorn

    from fusion_diff.printable import printable
    from fusion_diff.service import logs
    from fusion_diff.service.app import create_app
    from fusion_diff.service.keys import all_keys
    from fusion_diff.service.runtime import Service
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
    service = Service.open(settings)
    if not settings.insecure:
        with service.database.read() as session:
            if not all_keys(session):
                typer.echo("Note: there is no API key yet; make one with fusion-diff service-keys new", err=True)
    judge = service.shelf.judge()
    if judge.sha256 != service.shelf.base_sha256:
        note = f"Note: {printable(judge.name)}, enrolled here, judges, and not {printable(settings.model)}"
        typer.echo(f"{note}; PUT /v1/models/ID/default, or the page of references, makes another judge", err=True)
    logs.configure()
    config = uvicorn.Config(
        create_app(settings, service),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    except SystemExit:  # the port is taken, as the log says
        return 3
    return 0 if server.started else 3
