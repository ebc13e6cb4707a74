"""Finds files in the store that no record names: those of references, marks and sets that were removed.

The service itself never deletes a file: a copy of the database knows nothing of what came after it. So this is for an
operator. A service may go on meanwhile: what it stores, also again, is younger than `SPARED_SECONDS` until a record
names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from fusion_diff.counted import counted
from fusion_diff.errors import ServiceError
from fusion_diff.references.reference import LISTED, listing
from fusion_diff.service.tables import Inspection, ReferenceImage

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from fusion_diff.service.store import Store

SPARED_SECONDS = 86_400
"""Age up to which a file stays although no record names it, because one may be about to."""
_USES = (
    ReferenceImage.sha256,
    ReferenceImage.mark_sha256,
    Inspection.sha256,
    Inspection.evidence_sha256,
    Inspection.thumbnail_sha256,
)


def unused(session: Session, store: Store) -> dict[str, int]:
    """Return the bytes of each file in the store, by its digest, that no reference and no inspection names.

    Raises:
        ServiceError: the store does not answer, or it and the database do not belong together.
    """
    named = set[str]()
    for column in _USES:
        named.update(session.scalars(select(column).where(column.is_not(None))))
    found = store.sizes()  # after the records, which a service may add to: their files are there first
    stored = len(found)
    gone = sorted(named - found.keys())
    if gone or (stored and not named):
        told = f"names {counted(len(gone), 'file')} that the store does not have" if gone else "names no file at all"
        shown = (_owned(session, each) if index < LISTED else each for index, each in enumerate(gone))
        raise ServiceError(
            f"the database {told}, so it may belong to another store; check --data, --database-url and "
            f"FUSION_DIFF_STORE_URL, or restore the files first{listing(shown)}"
        )
    for digest in named:
        del found[digest]
    return found


def _owned(session: Session, digest: str) -> str:
    """Return a digest with the name of a micrograph whose record names it."""
    for column in _USES:
        name = session.scalar(select(column.class_.name).where(column == digest).limit(1))
        if name is not None:
            return f"{digest} of {name}"
    return digest
