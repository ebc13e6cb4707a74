"""Deletes files from the store a day after the last reference that used them was removed.

Every digest that may lose its last user has a row in `Discarded`, written before or together with the change that may
leave the file unused. A file is deleted in the transaction that locks and deletes its row, and only if nothing refers
to it and the row is a day old. Whoever stores content renews its row first: then either the file is kept for another
day, or it is already deleted and is stored anew. So nothing is lost when content is removed and added at once, and
nothing is forgotten when the process is killed.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from fusion_diff.service import jobs
from fusion_diff.service.tables import Discarded, Inspection, ReferenceImage, now

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session

    from fusion_diff.service.database import Database
    from fusion_diff.service.store import Store
    from fusion_diff.service.uploads import Upload

KEPT = timedelta(days=1)
"""How long files are kept after their last use ended: longer than a request lasts, and than a backup should."""
_EVERY_SECONDS = 600.0
_USES = (
    ReferenceImage.sha256,
    ReferenceImage.mark_sha256,
    Inspection.sha256,
    Inspection.evidence_sha256,
    Inspection.thumbnail_sha256,
)
_log = logging.getLogger("fusion_diff.service")


def discard(session: Session, digests: Iterable[str | None]) -> None:
    """Have the files of these digests deleted later, if nothing refers to them then."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    added = insert(Discarded)
    added = added.on_conflict_do_update(index_elements=["sha256"], set_={"since": added.excluded.since})
    if rows := [{"sha256": each, "since": now()} for each in sorted({each for each in digests if each is not None})]:
        session.execute(added, rows)


def renew(session: Session, digests: Iterable[str]) -> None:
    """Keep the files of these digests for another day. Call and commit this before they are stored."""
    query = select(Discarded).where(Discarded.sha256.in_(set(digests)))
    for row in session.scalars(query.order_by(Discarded.sha256).with_for_update()):
        row.since = now()


def store_uploads(database: Database, store: Store, uploads: Iterable[Upload]) -> None:
    """Store files that references are about to use. They are deleted later if that does not come about."""
    uploads = list(uploads)
    with database.write() as session:
        discard(session, (each.sha256 for each in uploads))
    for each in uploads:
        store.put_file(each.path, each.sha256)


def delete_next(database: Database, store: Store, kept: timedelta = KEPT) -> bool:
    """Delete the file that was discarded first, if nothing refers to it; return False if there is none to look at.

    Files are kept while an audit or enrolment runs, because it may read references that were removed meanwhile.
    """
    with database.write() as session:
        if jobs.any_running(session):
            return False
        due = select(Discarded).where(Discarded.since <= now() - kept).order_by(Discarded.since).limit(1)
        row = session.scalar(due.with_for_update(skip_locked=True))
        if row is None:
            return False
        if not any(session.scalar(select(use).where(use == row.sha256).limit(1)) for use in _USES):
            try:
                store.remove(row.sha256)
            except Exception as error:  # every kind of store raises its own errors
                _log.warning("%s: not deleted from the store; trying again later", row.sha256, exc_info=error)
                row.since = now()  # so that the others are not kept by this one
                return False
        session.delete(row)
    return True


class Sweeper:
    """Deletes discarded files in a thread of its own, every ten minutes."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database, self._store, self._closed = database, store, Event()
        self._thread = Thread(target=self._run, name="fusion-diff-sweep", daemon=True)
        self._thread.start()

    def close(self, seconds: float) -> None:
        """Stop after the file that is being deleted, and wait at most this many seconds for that."""
        self._closed.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._closed.wait(_EVERY_SECONDS):
            try:
                while not self._closed.is_set() and delete_next(self._database, self._store):
                    pass
            except Exception as error:  # the database may answer again the next time
                _log.warning("files that nothing uses not deleted yet; trying again", exc_info=error)
