"""Collects references: images with class, specimen and flaw mask, checked when they are added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import selectinload

from fusion_diff.errors import ReferenceSetError
from fusion_diff.references.reference import MAX_REFERENCES
from fusion_diff.service import naming
from fusion_diff.service.problems import ConflictError, NotFoundError
from fusion_diff.service.tables import ReferenceImage, ReferenceSet
from fusion_diff.service.uploads import read, read_flaw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    from fusion_diff.service.settings import Settings
    from fusion_diff.service.store import Store
    from fusion_diff.service.uploads import Upload

MAX_SETS = 1000
"""Most reference sets. Pages list all of them."""
_MAX_CLASSES = 1000


def new_set(session: Session, name: str, authentic: str) -> ReferenceSet:
    """Make a new, empty reference set.

    Raises:
        ConflictError: the name is taken, or there are too many sets.
    """
    if (session.scalar(select(func.count(ReferenceSet.number))) or 0) >= MAX_SETS:
        raise ConflictError(f"{name}: there are {MAX_SETS:,} reference sets already; remove one first")
    row = ReferenceSet(name=name, authentic=authentic)
    session.add(row)
    _flush(session, f"the name {name!r} is taken by another reference set; choose another name")
    return row


def all_sets(session: Session) -> Sequence[ReferenceSet]:
    """Return all sets, newest first, with the classes of their images."""
    classes = selectinload(ReferenceSet.images).load_only(ReferenceImage.label)
    return session.scalars(select(ReferenceSet).order_by(ReferenceSet.number.desc()).options(classes)).all()


def set_names(session: Session) -> Sequence[Row[str, str]]:
    """Return `id` and `name` of all sets, newest first."""
    return session.execute(select(ReferenceSet.id, ReferenceSet.name).order_by(ReferenceSet.number.desc())).all()


def classes(session: Session) -> list[str]:
    """Return the classes of all sets, sorted; of very many, some."""
    found = select(ReferenceSet.authentic).union(select(ReferenceImage.label)).limit(_MAX_CLASSES)
    return sorted(session.scalars(found))


def get_set(session: Session, set_id: str) -> ReferenceSet:
    """Return a set with its images.

    Raises:
        NotFoundError: no set has that id.
    """
    row = session.scalar(select(ReferenceSet).where(ReferenceSet.id == set_id))
    if row is None:
        raise NotFoundError(f"no reference set has the id {set_id}; GET /v1/reference-sets lists all")
    _ = row.images  # load now, while the session is open
    return row


def get_image(session: Session, set_id: str, image_id: str) -> ReferenceImage:
    """Return a reference.

    Raises:
        NotFoundError: the set has no reference of that id.
    """
    query = select(ReferenceImage).where(ReferenceImage.id == image_id, ReferenceImage.reference_set_id == set_id)
    row = session.scalar(query)
    if row is None:
        raise NotFoundError(
            f"no reference of this set has the id {image_id}; GET /v1/reference-sets/{set_id} lists all"
        )
    return row


def add_image(
    session: Session,
    set_id: str,
    *,
    name: str,
    label: str,
    group: str | None,
    sha256: str,
    mark_sha256: str | None = None,
    pixel_size_um: float | None = None,
) -> ReferenceImage:
    """Add a stored image to a set.

    Args:
        session: a write session.
        set_id: id of the set.
        name: name shown in reports; a number is added if it is taken.
        label: class.
        group: specimen; if omitted, the image is a specimen of its own.
        sha256: digest under which the image is stored.
        mark_sha256: digest of the stored flaw mask.
        pixel_size_um: overrides the pixel size in the file.

    Raises:
        NotFoundError: no set has that id.
        ConflictError: the image is in the set already.
        ReferenceSetError: the set is full, or an authentic reference has a flaw mask.
    """
    # Locks the set: concurrent additions wait, so that names stay unique and the count is right.
    session.execute(select(ReferenceSet.id).where(ReferenceSet.id == set_id).with_for_update())
    collected = get_set(session, set_id)
    if len(collected.images) >= MAX_REFERENCES:
        raise ReferenceSetError(
            f"{collected.name}: the set is full with {MAX_REFERENCES} references; remove some first"
        )
    twin = next((image for image in collected.images if image.sha256 == sha256), None)
    if twin is not None:
        raise ConflictError(f"{name}: the set has this image already, as {twin.name} of class {twin.label}")
    _check_mark(collected, label, mark_sha256, name)
    row = ReferenceImage(
        name=naming.free(name, {image.name for image in collected.images}),
        label=label,
        group="",
        sha256=sha256,
        mark_sha256=mark_sha256,
        pixel_size_um=pixel_size_um,
    )
    row.group = group or row.name
    collected.images.append(row)
    _flush(session, f"{name}: the set has this image already")
    return row


def store_image(
    upload: Upload, pixel_size_um: float | None, mark: Upload | None, settings: Settings, store: Store
) -> str | None:
    """Check that an upload is a micrograph and that its flaw mask fits, store both, and return the mask's digest.

    Raises:
        MicrographError: the upload cannot be read.
        ReferenceSetError: the mask cannot be read, or does not fit.
    """
    micrograph = read(upload.path, upload.name, upload.sha256, pixel_size_um, settings.max_pixels)
    if mark is not None:
        read_flaw(mark.path, mark.sha256, micrograph, upload.name, mark.name)
        store.put_file(mark.path, mark.sha256)
    del micrograph
    store.put_file(upload.path, upload.sha256)
    return None if mark is None else mark.sha256


def change_image(session: Session, set_id: str, image_id: str, changes: Mapping[str, Any]) -> ReferenceImage:
    """Correct class, specimen or pixel size of a reference; its flaw mask stays.

    Args:
        session: a write session.
        set_id: id of the set.
        image_id: id of the reference.
        changes: the fields to change: `label`, the class; `group`, the specimen, None for a specimen of its own;
            `pixel_size_um`, None for the size in the file.

    Raises:
        NotFoundError: the set has no such reference.
        ReferenceSetError: an authentic reference would have a flaw mask.
    """
    row = get_image(session, set_id, image_id)
    if changes.get("label") is not None:
        if row.mark_sha256 is not None:  # else each of thousands would load the whole set
            _check_mark(get_set(session, set_id), changes["label"], row.mark_sha256, row.name)
        row.label = changes["label"]
    if "group" in changes:
        row.group = changes["group"] or row.name
    if "pixel_size_um" in changes:
        row.pixel_size_um = changes["pixel_size_um"]
    return row


def set_mark(session: Session, set_id: str, image_id: str, mark_sha256: str | None) -> ReferenceImage:
    """Set the flaw mask of a reference to a stored one, or remove it (None).

    Raises:
        NotFoundError: the set has no such reference.
        ReferenceSetError: the reference is authentic.
    """
    row = get_image(session, set_id, image_id)
    _check_mark(get_set(session, set_id), row.label, mark_sha256, row.name)
    row.mark_sha256 = mark_sha256
    return row


def _check_mark(collected: ReferenceSet, label: str, mark_sha256: str | None, name: str) -> None:
    if mark_sha256 is not None and label == collected.authentic:
        raise ReferenceSetError(
            f"{name}: an authentic reference ({label!r}) cannot have a flaw mask; leave the mask out, or give the "
            "reference the class of its flaw"
        )


def _flush(session: Session, conflict: str) -> None:
    try:
        session.flush()
    except IntegrityError:
        raise ConflictError(conflict) from None
