"""`fusion-diff service-prune`: delete files in the service's store that no record names."""

from __future__ import annotations

from typing import Annotated

import typer

from fusion_diff.commands.serve import Data, DatabaseUrl, records
from fusion_diff.commands.terminal import progress_bar, say
from fusion_diff.counted import counted


def service_prune_command(
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the files. Stop every service that uses the store first.")
    ] = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Count files in the service's store that no reference and no inspection names; with --delete, delete them.

    They are of references, flaw masks and reference sets that were removed. The store is that of the setting
    FUSION_DIFF_STORE_URL, or in the data folder.
    """
    with records(data, database_url) as (settings, database):
        from fusion_diff.service.pruning import unused
        from fusion_diff.service.store import Store

        store = Store(settings.store)
        with database.read() as session:
            found = unused(session, store)
        told = f"{counted(len(found), 'file')} of {sum(found.values()) / 2**20:,.1f} MiB"
        if not delete:
            say(f"No record names {told}. To delete them, stop the service and add --delete")
            return 0
        with progress_bar("Deleting") as advance:
            for done, digest in enumerate(found, start=1):
                store.remove(digest)
                advance(done, len(found))
        say(f"Deleted: {told} that no record named")
    return 0
