"""`fusion-diff service-prune`: delete files in the service's store that no record names."""

from __future__ import annotations

from typing import Annotated

import typer

from fusion_diff.commands.serve import Data, DatabaseUrl, records
from fusion_diff.commands.terminal import progress_bar, say
from fusion_diff.counted import counted


def service_prune_command(
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the files that were put there more than a day ago.")
    ] = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Count files in the service's store that no reference and no inspection names; with --delete, delete them.

    They are left over from references, flaw masks and reference sets that were removed. The service may go on
    meanwhile. The store is that of the setting FUSION_DIFF_STORE_URL, or in the data folder.
    """
    with records(data, database_url) as (settings, database):
        from fusion_diff.service.pruning import SPARED_SECONDS, unused
        from fusion_diff.service.store import Store

        store = Store(settings.store)
        with database.read() as session:
            found = unused(session, store)
        if not delete:
            say(f"No record names {_told(found)}. To delete those put there more than a day ago, add --delete")
            return 0
        deleted = {}
        with progress_bar("Deleting") as advance:
            for done, (digest, size) in enumerate(found.items(), start=1):
                if store.seconds_since_put(digest) > SPARED_SECONDS:  # asked as late as can be
                    store.remove(digest)
                    deleted[digest] = size
                advance(done, len(found))
        spared = len(found) - len(deleted)
        kept = f". {counted(spared, 'file')} put there within a day stayed" if spared else ""
        say(f"Deleted: {_told(deleted)} that no record named{kept}")
    return 0


def _told(found: dict[str, int]) -> str:
    return f"{counted(len(found), 'file')} of {sum(found.values()) / 2**20:,.1f} MiB"
