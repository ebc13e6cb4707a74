"""Learning: references that were collected, audited and enrolled; one at a time, beside the inspections."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from fusion_diff.errors import EnrolmentError, FusionDiffError, ReferenceSetError
from fusion_diff.references import ReferenceSet
from fusion_diff.service.problems import BusyError, ConflictError
from fusion_diff.service.uploads import renamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from fusion_diff.micrograph import Micrograph
    from fusion_diff.service import tables
    from fusion_diff.service.settings import Settings
    from fusion_diff.service.shelf import Shelf
    from fusion_diff.service.store import Store
    from fusion_diff.trust.poisoning import Finding

_REMEMBERED = 8


class Learning:
    """Audits and enrols what was collected."""

    def __init__(self, settings: Settings, shelf: Shelf, store: Store) -> None:
        self._settings, self._shelf, self._store = settings, shelf, store
        self._turn = Lock()
        self._audits: OrderedDict[str, tuple[Finding, ...]] = OrderedDict()

    def audit(self, collected: tables.ReferenceSet) -> tuple[Finding, ...]:
        """Return what is suspicious about references, gravest first; what was found is remembered.

        Raises:
            ConflictError: they are no set yet, or do not allow any verdict.
            BusyError: something else is being learned.
        """
        from fusion_diff.trust.poisoning import audit_references

        state = _state(collected)
        with self._alone(lambda: state not in self._audits):
            if state not in self._audits:
                with self._references(collected) as references:
                    self._audits[state] = audit_references(self._shelf.base(), references)
                if len(self._audits) > _REMEMBERED:
                    self._audits.popitem(last=False)
            return self._audits[state]

    def enrol(
        self, collected: tables.ReferenceSet, name: str, *, reconstruction: bool, detect_attacks: bool, default: bool
    ) -> tables.Model:
        """Enrol references and return the new model's row.

        Raises:
            ConflictError: they are no set yet, or do not allow any verdict.
            BusyError: something else is being learned.
        """
        with self._alone(lambda: True):
            model = self._shelf.base()
            with self._references(collected) as references:
                model.enroll(references, reconstruction=reconstruction, detect_attacks=detect_attacks)
            return self._shelf.add(model, name, collected.id, default=default)

    @contextmanager
    def _alone(self, needed: Callable[[], bool]) -> Iterator[None]:
        if not needed():
            yield
            return
        if not self._turn.acquire(blocking=False):
            raise BusyError("other references are being learned; try again in a moment", retry_after=10)
        try:
            yield
        except (ReferenceSetError, EnrolmentError) as error:  # right as asked for, but not with these references
            raise ConflictError(str(error)) from error
        finally:
            self._turn.release()

    @contextmanager
    def _references(self, collected: tables.ReferenceSet) -> Iterator[ReferenceSet]:
        """Give the references as a set, whose files stay where they are read from until the end of the block."""
        with ExitStack() as files:
            micrographs, marks = [], []
            for image in collected.images:
                path = files.enter_context(self._store.file(image.sha256))
                micrograph = read(path, image.name, image.pixel_size_um, self._settings.max_pixels)
                micrographs.append(micrograph)
                mark = None
                if image.mark_sha256 is not None:
                    mark = read_flaw(files.enter_context(self._store.file(image.mark_sha256)), micrograph, image.name)
                marks.append(mark)
            yield ReferenceSet.from_micrographs(
                micrographs,
                [image.label for image in collected.images],
                authentic=collected.authentic,
                groups=[image.group for image in collected.images],
                marks=marks,
                names=[image.name for image in collected.images],
            )


def read(path: Path, name: str, pixel_size_um: float | None, max_pixels: int) -> Micrograph:
    """Read a micrograph that errors call by its name.

    Raises:
        MicrographError: it cannot be read.
    """
    from fusion_diff.errors import MicrographError
    from fusion_diff.micrograph import load_microstructure_data

    try:
        return load_microstructure_data(path, pixel_size_um=pixel_size_um, max_pixels=max_pixels)
    except FusionDiffError as error:
        raise MicrographError(renamed(error, path, name)) from error


def read_flaw(path: Path, micrograph: Micrograph, name: str) -> NDArray[np.bool_]:
    """Read the mark of a reference that errors call by its name.

    Raises:
        ReferenceSetError: it cannot be read, or does not fit.
    """
    from fusion_diff.references.marks import read_mark

    try:
        return read_mark(path, micrograph, name)
    except FusionDiffError as error:
        raise ReferenceSetError(renamed(error, path, "the mark")) from error


def _state(collected: tables.ReferenceSet) -> str:
    """Return what tells whether references were changed."""
    import hashlib
    import json

    def told(images: Sequence[tables.ReferenceImage]) -> list[list[object]]:
        return [[i.name, i.label, i.group, i.sha256, i.mark_sha256, i.pixel_size_um] for i in images]

    return hashlib.sha256(json.dumps([collected.authentic, told(collected.images)]).encode()).hexdigest()
