"""The models of the service: finding, loading, saving them, and the choice of the default model.

A model that was enrolled here and chosen as default judges for every process that shares the database. Without one,
each process judges with the model it was started with, so in a rolling update old processes keep their model.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, select, update

from fusion_diff.errors import EnrolmentError
from fusion_diff.printable import printable
from fusion_diff.service import naming
from fusion_diff.service.database import take_turn
from fusion_diff.service.problems import ConflictError, NotFoundError
from fusion_diff.service.reference_level import Level
from fusion_diff.service.tables import Model, new_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from fusion_diff.model import DiffusionModel
    from fusion_diff.service.database import Database
    from fusion_diff.service.settings import Settings

_HELD = 2
"""Most models in memory; the least recently used one is dropped first."""


class Shelf:
    """Finds, loads and saves models.

    Attributes:
        base_sha256: digest of the model that references are enrolled on.

    Raises:
        CheckpointError: the start model cannot be loaded.
        DeviceError: the device is not available here.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        """Load the start model. It judges unless an enrolled model was chosen as default."""
        from fusion_diff.devices import present
        from fusion_diff.model import DiffusionModel

        self._settings, self._database = settings, database
        self._held: OrderedDict[str, DiffusionModel] = OrderedDict()
        self._lock, self._loading = Lock(), Lock()
        settings.models.mkdir(parents=True, exist_ok=True)
        model = DiffusionModel.from_pretrained(settings.model).to(present(settings.device))
        self.base_sha256 = model.sha256
        with database.write() as session:
            take_turn(session.connection())  # else processes that start together would each add a row
            same = select(Model).where(Model.sha256 == model.sha256, Model.folder == settings.model)
            row = session.scalar(same.order_by(Model.number).limit(1))
            new = described(model, model.name, settings.model)
            if row is None:
                row = new
                session.add(row)
                session.flush()
            row.level = new.level  # an earlier version wrote none
        self._base_id = row.id
        self._held[row.id] = model

    def base(self) -> DiffusionModel:
        """Load a fresh copy of the model that references are enrolled on.

        Raises:
            ConflictError: another model lies in its place by now.
            CheckpointError: the model was altered or removed.
        """
        return self._load(self._settings.model, self.base_sha256, self._settings.model)

    def find(self, model_id: str) -> DiffusionModel:
        """Return a model, and load it if it is not in memory. Models in memory are found while another is loaded.

        Raises:
            NotFoundError: no model has that id.
            ConflictError: another model lies in its place by now.
            CheckpointError: the model was altered or removed.
        """
        if (model := self._in_memory(model_id)) is not None:
            return model
        with self._loading:
            if (model := self._in_memory(model_id)) is not None:  # loaded while this call waited
                return model
            with self._database.read() as session:
                row = self.get(session, model_id)
            model = self._load(self._place(row), row.sha256, row.name)
            with self._lock:
                self._held[model_id] = model
                if len(self._held) > _HELD:
                    self._held.popitem(last=False)
        return model

    def _in_memory(self, model_id: str) -> DiffusionModel | None:
        with self._lock:
            if (model := self._held.get(model_id)) is not None:
                self._held.move_to_end(model_id)
        return model

    def save(self, model: DiffusionModel, name: str) -> tuple[Model, Path]:
        """Save an enrolled model, and return its row, which `enter` records, and its folder.

        If the name is taken, the model gets a number: "line 7 (2)".

        Raises:
            OSError: the folder cannot be written.
        """
        model_id = new_id()
        with self._database.read() as session:
            name = naming.free(name, set(session.scalars(select(Model.name))))
        model.name = name
        folder = self._settings.models / model_id
        model.save_pretrained(folder)
        row = described(model, name, f"{_ENROLLED}{model_id}")
        row.id = model_id
        return row, folder

    def all(self, session: Session) -> Sequence[Model]:
        """Return the rows of all models, newest first."""
        return session.scalars(select(Model).order_by(Model.number.desc())).all()

    def newest(self, session: Session, sha256: str) -> Model | None:
        """Return the newest row of the model with this digest; None if there is none."""
        return session.scalar(select(Model).where(Model.sha256 == sha256).order_by(Model.number.desc()).limit(1))

    def get(self, session: Session, model_id: str | None) -> Model:
        """Return the row of a model by id; of the default model if `model_id` is None.

        Raises:
            NotFoundError: no model has that id.
        """
        if model_id is None:
            chosen = session.scalar(select(Model).where(Model.is_default, _enrolled()).limit(1))
            if chosen is not None:
                return chosen
            model_id = self._base_id
        row = session.scalar(select(Model).where(Model.id == model_id))
        if row is None:
            raise NotFoundError(f"no model has the id {model_id}; GET /v1/models lists all models")
        return row

    def named(self, session: Session, model_id: str | None) -> Model:
        """Return the row of the model that judges a request: the named one, or the default model.

        Raises:
            NotFoundError: no model has that id.
            ConflictError: the model is retired.
        """
        row = self.get(session, model_id)
        if row.retired and row.id != self.get(session, None).id:
            raise ConflictError(
                f"{printable(row.name)}: the model is retired; use another one, or bring it back with "
                f"DELETE /v1/models/{row.id}/retired"
            )
        return row

    def judging(self, session: Session, model_id: str | None) -> Model:
        """Return the row of the model that judges a request, as `named` does.

        Raises:
            NotFoundError: no model has that id.
            ConflictError: the model is retired, or has no references.
        """
        row = self.named(session, model_id)
        if row.references_sha256 is None:
            raise ConflictError(_without_references(row))
        return row

    def retire(self, session: Session, model_id: str, *, retired: bool) -> Model:
        """Retire a model or bring it back, and return its row. The model and its verdicts are kept.

        Raises:
            NotFoundError: no model has that id.
            ConflictError: it is the default model.
        """
        row = self.get(session, model_id)
        if retired and row.id == self.get(session, None).id:
            raise ConflictError(f"{printable(row.name)}: this is the default model; make another one the default first")
        row.retired = retired
        return row

    def default(self) -> Model:
        """Return the row of the default model."""
        with self._database.read() as session:
            return self.get(session, None)

    def choose(self, session: Session, model_id: str) -> Model:
        """Make a model the default of every process, and return its row.

        Raises:
            NotFoundError: no model has that id.
            ConflictError: the model is retired, or neither enrolled here nor the start model of this process.
        """
        row = self.named(session, model_id)
        if row.id != self._base_id and not row.folder.startswith(_ENROLLED):
            raise ConflictError(
                f"{printable(row.name)}: the service no longer runs with this model; start it with --model "
                f"{printable(row.folder)} again, or choose a model that was enrolled here"
            )
        choose_enrolled(session, row.id)
        return row

    def check(self) -> None:
        """Load the default model.

        Raises:
            FusionDiffError: it cannot be loaded, or has no references.
        """
        row = self.default()
        if self.find(row.id).enrolment is None:
            raise EnrolmentError(_without_references(row))

    def _load(self, place: str | Path, sha256: str, name: str) -> DiffusionModel:
        """Load a model and compare its digest."""
        from fusion_diff.devices import present
        from fusion_diff.model import DiffusionModel

        model = DiffusionModel.from_pretrained(place)
        if model.sha256 != sha256:
            raise ConflictError(
                f"{printable(name)}: another model has been put in its place; choose another one (GET /v1/models lists "
                "them), or restart the service to use what is there now"
            )
        return model.to(present(self._settings.device))

    def _place(self, row: Model) -> str | Path:
        if row.folder.startswith(_ENROLLED):
            return self._settings.models / row.folder.removeprefix(_ENROLLED)
        return row.folder


_ENROLLED = "enrolled:"
"""Prefix in `Model.folder` for models in the folder of enrolled models."""


def _without_references(row: Model) -> str:
    return (
        f"{printable(row.name)}: the model has no references and cannot judge; enrol references here and make that "
        "model the default, or start the service with --model and a folder written by fusion-diff enroll"
    )


def _enrolled() -> ColumnElement[bool]:
    return Model.folder.startswith(_ENROLLED, autoescape=True)


def described(model: DiffusionModel, name: str, folder: str) -> Model:
    """Return a new row that describes a model."""
    enrolment = model.enrolment
    row = Model(name=name, folder=folder, sha256=model.sha256, counts={}, figures={}, warnings=[], is_default=False)
    if enrolment is not None:
        row.references_sha256, row.authentic = enrolment.references_sha256, enrolment.authentic
        row.counts, row.figures = dict(enrolment.counts), dict(enrolment.figures)
        row.warnings = list(enrolment.warnings())
        level = Level.of(enrolment.verifier)
        row.level = None if level is None else asdict(level)
        if enrolment.builtin:
            row.warnings.insert(0, "enrolled on procedural references only: its scores say nothing about your own ware")
    return row


def enter(session: Session, row: Model, reference_set_id: str | None, *, default: bool) -> None:
    """Record a saved model.

    Args:
        session: a write session.
        row: row of the model.
        reference_set_id: id of its reference set; None if that was removed.
        default: whether to make it the default model.
    """
    row.reference_set_id = reference_set_id
    session.add(row)
    session.flush()
    if default:
        choose_enrolled(session, row.id)


def choose_enrolled(session: Session, model_id: str) -> None:
    """Make an enrolled model the default; any other id leaves each process with its start model."""
    session.execute(update(Model).values(is_default=(Model.id == model_id) & _enrolled()))
