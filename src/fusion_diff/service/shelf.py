"""The shelf: the models there are, which of them judges unless another is named, and those held in memory."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from fusion_diff.checkpoint import locate, verify
from fusion_diff.service.problems import NotFoundError
from fusion_diff.service.tables import Model, new_id

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from fusion_diff.model import DiffusionModel
    from fusion_diff.service.database import Database
    from fusion_diff.service.settings import Settings

_HELD = 2
"""Models in memory at once; of more, the one that has not judged for longest is dropped."""


class Shelf:
    """Finds, loads and saves models.

    Attributes:
        base_sha256: of the model that references are enrolled on.

    Raises:
        CheckpointError: the model to start with cannot be loaded.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        """Load the model to start with; it judges, unless one that was enrolled here was chosen to."""
        self._settings, self._database = settings, database
        self._held: OrderedDict[str, DiffusionModel] = OrderedDict()
        self._lock = Lock()
        settings.models.mkdir(parents=True, exist_ok=True)
        model = self.base()
        self.base_sha256 = model.sha256
        with database.write() as session:
            row = session.scalar(select(Model).where(Model.sha256 == model.sha256, Model.folder == settings.model))
            if row is None:
                row = described(model, model.name, settings.model)
                session.add(row)
                session.flush()
            judge = default_model(session)
            if judge is None or not judge.folder.startswith(_ENROLLED):
                make_default(session, row.id)
        self._held[row.id] = model

    def base(self) -> DiffusionModel:
        """Load the model that references are enrolled on, a copy of one's own."""
        from fusion_diff.model import DiffusionModel

        return DiffusionModel.from_pretrained(self._settings.model).to(self._settings.device)

    def find(self, model_id: str) -> DiffusionModel:
        """Return a model, loaded if it is not held.

        Raises:
            NotFoundError: there is none of that id.
            CheckpointError: it was altered or removed.
        """
        from fusion_diff.model import DiffusionModel

        with self._lock:
            model = self._held.get(model_id)
            if model is None:
                with self._database.read() as session:
                    folder = self._place(get_model(session, model_id))
                model = DiffusionModel.from_pretrained(folder).to(self._settings.device)
                self._held[model_id] = model
                if len(self._held) > _HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(model_id)
        return model

    def save(self, model: DiffusionModel, name: str) -> Model:
        """Save an enrolled model under a name, and return its row, which `enter` puts into the records.

        Raises:
            OSError: it cannot be written.
        """
        model_id = new_id()
        model.name = name
        model.save_pretrained(self._settings.models / model_id)
        model.sha256 = verify(self._settings.models / model_id)  # as it will be when it is loaded
        row = described(model, name, f"{_ENROLLED}{model_id}")
        row.id = model_id
        return row

    def judge(self) -> Model:
        """Return the row of the model that judges unless another is named."""
        with self._database.read() as session:
            return get_model(session, None)

    def check(self) -> None:
        """Load the model that judges.

        Raises:
            FusionDiffError: it cannot be loaded.
        """
        self.find(self.judge().id)

    def _place(self, row: Model) -> Path:
        if row.folder.startswith(_ENROLLED):
            return self._settings.models / row.folder.removeprefix(_ENROLLED)
        return locate(row.folder)


_ENROLLED = "enrolled:"
"""What the folder of a model begins with that lies in the folder of models."""


def described(model: DiffusionModel, name: str, folder: str) -> Model:
    """Return the row of a model."""
    enrolment = model.enrolment
    row = Model(name=name, folder=folder, sha256=model.sha256, counts={}, figures={}, warnings=[], is_default=False)
    if enrolment is not None:
        row.references_sha256, row.authentic = enrolment.references_sha256, enrolment.authentic
        row.counts, row.figures = dict(enrolment.counts), dict(enrolment.figures)
        row.warnings = list(enrolment.warnings())
        if enrolment.builtin:
            row.warnings.insert(
                0, "enrolled on procedural references only: its scores show that it runs, not what your ware is"
            )
    return row


def enter(session: Session, row: Model, reference_set_id: str | None, *, default: bool) -> None:
    """Put a model that was saved into the records.

    Args:
        session: to write in.
        row: of the model.
        reference_set_id: of the references that it learned from, where that set is still there.
        default: have it judge from now on.
    """
    row.reference_set_id = reference_set_id
    session.add(row)
    session.flush()
    if default:
        make_default(session, row.id)


def default_model(session: Session) -> Model | None:
    """Return the model that judges unless another is named."""
    return session.scalar(select(Model).where(Model.is_default).order_by(Model.number).limit(1))


def get_model(session: Session, model_id: str | None) -> Model:
    """Return a model by id, or the one that judges unless another is named.

    Raises:
        NotFoundError: there is none.
    """
    row = default_model(session) if model_id is None else session.scalar(select(Model).where(Model.id == model_id))
    if row is None:
        raise NotFoundError("there is no such model; GET /v1/models lists them")
    return row


def make_default(session: Session, model_id: str) -> Model:
    """Have a model judge unless another is named.

    Raises:
        NotFoundError: there is none of that id.
    """
    row = get_model(session, model_id)
    session.execute(update(Model).values(is_default=Model.id == model_id))
    session.refresh(row)
    return row
