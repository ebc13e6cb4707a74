"""Tables of the database. `migrations` creates them; a test compares the two."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from fusion_diff.checkpoint import NAME_LENGTH


class UtcTime(TypeDecorator[datetime]):
    """A time in UTC, in Python and in the database; SQLite stores no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time as it is stored."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[dict[str, Any]]: JSON,
    }


def new_id() -> str:
    """Return a new public id: 32 random hexadecimal digits."""
    return uuid.uuid4().hex


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite auto-increments INTEGER keys only


class Model(Base):
    """A model: one that a process was started with, or one enrolled here."""

    __tablename__ = "models"

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True, default=new_id)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    folder: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    references_sha256: Mapped[str | None] = mapped_column(String(64))
    authentic: Mapped[str | None] = mapped_column(String(NAME_LENGTH))
    counts: Mapped[dict[str, Any]]
    figures: Mapped[dict[str, Any]]
    level: Mapped[dict[str, Any] | None]
    """The values of `Level`; None if the references are too few, or an earlier version wrote the row."""
    warnings: Mapped[list[str]]
    reference_set_id: Mapped[str | None] = mapped_column(ForeignKey("reference_sets.id", ondelete="SET NULL"))
    is_default: Mapped[bool] = mapped_column(default=False)
    retired: Mapped[bool] = mapped_column(default=False)
    created: Mapped[datetime] = mapped_column(default=now)


class ReferenceSet(Base):
    """A reference set."""

    __tablename__ = "reference_sets"

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True, default=new_id)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    authentic: Mapped[str] = mapped_column(String(NAME_LENGTH))
    created: Mapped[datetime] = mapped_column(default=now)
    images: Mapped[list[ReferenceImage]] = relationship(
        back_populates="reference_set", order_by="ReferenceImage.number", cascade="all, delete-orphan"
    )

    @property
    def counts(self) -> dict[str, int]:
        """Number of references of each class, the authentic class first."""
        counts = Counter(image.label for image in self.images)
        return {label: counts[label] for label in sorted(counts, key=lambda each: (each != self.authentic, each))}


class ReferenceImage(Base):
    """A reference: an image with its class and specimen."""

    __tablename__ = "reference_images"
    __table_args__ = (
        UniqueConstraint("reference_set_id", "name"),
        UniqueConstraint("reference_set_id", "sha256"),
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True, default=new_id)
    reference_set_id: Mapped[str] = mapped_column(ForeignKey("reference_sets.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    label: Mapped[str] = mapped_column(String(NAME_LENGTH))
    group: Mapped[str] = mapped_column("specimen", String(NAME_LENGTH))
    sha256: Mapped[str] = mapped_column(String(64))
    mark_sha256: Mapped[str | None] = mapped_column(String(64))
    pixel_size_um: Mapped[float | None] = mapped_column(Float)
    created: Mapped[datetime] = mapped_column(default=now)
    reference_set: Mapped[ReferenceSet] = relationship(back_populates="images")

    @property
    def marked(self) -> bool:
        """Whether its flaw is marked."""
        return self.mark_sha256 is not None


class Inspection(Base):
    """A verdict, and its overrulings."""

    __tablename__ = "inspections"
    __table_args__ = (
        Index(None, "decision", "number"),
        Index(None, "model_sha256", "number"),
        Index(None, "created"),
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True, default=new_id)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    score: Mapped[float] = mapped_column(Float)
    decision: Mapped[str] = mapped_column(String(16))
    alpha: Mapped[float] = mapped_column(Float)
    model_sha256: Mapped[str] = mapped_column(String(64))
    references_sha256: Mapped[str] = mapped_column(String(64))
    result: Mapped[dict[str, Any]]
    """The values of `Inspection.to_dict`: p-values, regions, nearest references, reasons."""
    evidence_sha256: Mapped[str] = mapped_column(String(64))
    evidence_scale: Mapped[float] = mapped_column(Float)
    thumbnail_sha256: Mapped[str] = mapped_column(String(64))
    ledger_sequence: Mapped[int] = mapped_column(ForeignKey("ledger.sequence"))
    by: Mapped[str] = mapped_column("made_by", String(NAME_LENGTH))
    created: Mapped[datetime] = mapped_column(default=now)
    overruled_decision: Mapped[str | None] = mapped_column(String(16))
    overruled_reason: Mapped[str | None] = mapped_column(Text)
    overruled_by: Mapped[str | None] = mapped_column(String(NAME_LENGTH))
    overruled_at: Mapped[datetime | None]
    overrulings: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    """All overrulings, oldest first; kept after a withdrawal, which empties the columns above."""


class Job(Base):
    """An audit or an enrolment, with its progress."""

    __tablename__ = "jobs"

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True, default=new_id)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), default="running")
    subject: Mapped[str] = mapped_column(String(64), index=True)
    reference_set_id: Mapped[str | None] = mapped_column(
        ForeignKey("reference_sets.id", ondelete="SET NULL"), index=True
    )
    done: Mapped[int] = mapped_column(Integer, default=0)
    total: Mapped[int] = mapped_column(Integer)
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    result: Mapped[dict[str, Any] | None]
    """The findings of an audit, the note of a job, or the problem of a failed one."""
    heard: Mapped[datetime] = mapped_column(default=now)
    created: Mapped[datetime] = mapped_column(default=now)
    model: Mapped[Model | None] = relationship(lazy="joined")


class ApiKey(Base):
    """An API key, stored as a hash. A key is 256 random bits, so no slow hash is needed."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    sha256: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]]
    created: Mapped[datetime] = mapped_column(default=now)
    revoked: Mapped[datetime | None]


class EndedSession(Base):
    """A session that was signed out, kept until its cookie would have expired."""

    __tablename__ = "ended_sessions"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    ends: Mapped[datetime] = mapped_column(index=True)


class LedgerLine(Base):
    """A line of the hash-chained ledger, in the format of `trust.ledger`."""

    __tablename__ = "ledger"

    sequence: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=False)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    line: Mapped[str] = mapped_column(Text)


class LedgerHead(Base):
    """The single row with the end of the ledger. Appending a line locks it."""

    __tablename__ = "ledger_head"

    only: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    ledger_id: Mapped[str] = mapped_column(String(32))
    count: Mapped[int] = mapped_column("lines", Number)
    hash: Mapped[str] = mapped_column(String(64))
