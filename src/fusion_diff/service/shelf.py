"""The shelf: the models there are, which of them judges unless another is named, and those held in memory.

A model that was enrolled here judges once it was chosen, for every process that shares the records; else each process
judges with the model that it was started with, so that in a rolling update the old ones go on as they were.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, select, update

from fusion_diff.checkpoint import locate
from fusion_diff.errors import EnrolmentError
from fusion_diff.printable import printable
from fusion_diff.service import naming
from fusion_diff.service.database import take_turn
from fusion_diff.service.problems import ConflictError, NotFoundError
from fusion_diff.service.tables import Model, new_id

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        from fusion_diff.model import DiffusionModel

        self._settings, self._database = settings, database
        self._held: OrderedDict[str, DiffusionModel] = OrderedDict()
        self._lock = Lock()
        settings.models.mkdir(parents=True, exist_ok=True)
        model = DiffusionModel.from_pretrained(settings.model).to(settings.device)
        self.base_sha256 = model.sha256
        with database.write() as session:
            take_turn(session.connection())  # or processes that start together would each add a row
            same = select(Model).where(Model.sha256 == model.sha256, Model.folder == settings.model)
            row = session.scalar(same.order_by(Model.number).limit(1))
            if row is None:
                row = described(model, model.name, settings.model)
                session.add(row)
                session.flush()
        self._base_id = row.id
        self._held[row.id] = model

    def base(self) -> DiffusionModel:
        """Load the model that references are enrolled on, a copy of one's own.

        Raises:
            ConflictError: there is another in its place by now.
            CheckpointError: it was altered or removed.
        """
        return self._load(self._settings.model, self.base_sha256, self._settings.model)

    def find(self, model_id: str) -> DiffusionModel:
        """Return a model, loaded if it is not held.

        Raises:
            NotFoundError: there is none of that id.
            ConflictError: there is another in its place by now.
            CheckpointError: it was altered or removed.
        """
        with self._lock:
            model = self._held.get(model_id)
            if model is None:
                with self._database.read() as session:
                    row = self.get(session, model_id)
                model = self._load(self._place(row), row.sha256, row.name)
                self._held[model_id] = model
                if len(self._held) > _HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(model_id)
        return model

    def save(self, model: DiffusionModel, name: str) -> tuple[Model, Path]:
        """Save an enrolled model under a name; return its row, which `enter` puts into the records, and its folder.

        Where there is a model of this name, it gets a number too: "line 7 (2)".

        Raises:
            OSError: it cannot be written.
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

    def get(self, session: Session, model_id: str | None) -> Model:
        """Return the row of a model by id, or of the one that judges unless another is named.

        Raises:
            NotFoundError: there is none.
        """
        if model_id is None:
            chosen = session.scalar(select(Model).where(Model.is_default, _enrolled()).limit(1))
            if chosen is not None:
                return chosen
            model_id = self._base_id
        row = session.scalar(select(Model).where(Model.id == model_id))
        if row is None:
            raise NotFoundError("there is no such model; GET /v1/models lists them")
        return row

    def named(self, session: Session, model_id: str | None) -> Model:
        """Return the row of the model that is to judge: one that somebody names, or the one that judges else.

        Raises:
            NotFoundError: there is none of that id.
            ConflictError: it is retired.
        """
        row = self.get(session, model_id)
        if row.retired and row.id != self.get(session, None).id:
            raise ConflictError(
                f"{printable(row.name)}: is retired; name another model, or bring it back with "
                f"DELETE /v1/models/{row.id}/retired"
            )
        return row

    def retire(self, session: Session, model_id: str, *, retired: bool) -> Model:
        """Offer a model no longer, or again; return its row. Its verdicts stay, and whatever was learned.

        Raises:
            NotFoundError: there is none of that id.
            ConflictError: it is the one that judges unless another is named.
        """
        row = self.get(session, model_id)
        if retired and row.id == self.get(session, None).id:
            raise ConflictError(f"{printable(row.name)}: judges by default; have another do so, then retire it")
        row.retired = retired
        return row

    def judge(self) -> Model:
        """Return the row of the model that judges unless another is named."""
        with self._database.read() as session:
            return self.get(session, None)

    def choose(self, session: Session, model_id: str) -> Model:
        """Have a model judge unless another is named, from now on and in every process; return its row.

        Raises:
            NotFoundError: there is none of that id.
            ConflictError: it is neither enrolled here nor what this process was started with, or it is retired.
        """
        row = self.named(session, model_id)
        if row.id != self._base_id and not row.folder.startswith(_ENROLLED):
            raise ConflictError(
                f"{printable(row.name)}: the service was started with it once and is not now; start it with --model "
                f"{printable(row.folder)} again, or choose a model that was enrolled here"
            )
        choose_enrolled(session, row.id)
        return row

    def check(self) -> None:
        """Load the model that judges.

        Raises:
            FusionDiffError: it cannot be loaded, or has no references to judge by.
        """
        row = self.judge()
        if self.find(row.id).enrolment is None:
            raise EnrolmentError(
                f"{printable(row.name)}: has no references, so that it judges nothing; enrol some here and have that "
                "model judge, or start the service with --model and a folder that fusion-diff enroll wrote"
            )

    def _load(self, place: str | Path, sha256: str, name: str) -> DiffusionModel:
        """Load a model that has to be the one of this digest."""
        from fusion_diff.model import DiffusionModel

        model = DiffusionModel.from_pretrained(place)
        if model.sha256 != sha256:
            raise ConflictError(
                f"{printable(name)}: there is another model in its place by now; choose another (GET /v1/models lists "
                "them), or start the service again, where what is there is to judge"
            )
        return model.to(self._settings.device)

    def _place(self, row: Model) -> Path:
        if row.folder.startswith(_ENROLLED):
            return self._settings.models / row.folder.removeprefix(_ENROLLED)
        return locate(row.folder)


_ENROLLED = "enrolled:"
"""What the folder of a model begins with that lies in the folder of models."""


def _enrolled() -> ColumnElement[bool]:
    return Model.folder.startswith(_ENROLLED, autoescape=True)


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
        choose_enrolled(session, row.id)


def choose_enrolled(session: Session, model_id: str) -> None:
    """Have a model that was enrolled here judge; another id leaves it to the model that a process was started with."""
    session.execute(update(Model).values(is_default=(Model.id == model_id) & _enrolled()))
