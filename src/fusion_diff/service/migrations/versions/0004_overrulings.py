"""All overrulings of an inspection instead of the last one. The last one becomes the first of the list."""

from __future__ import annotations

from datetime import UTC

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column and fill it from the existing overrulings."""
    op.add_column("inspections", sa.Column("overrulings", sa.JSON(), nullable=False, server_default="[]"))
    inspections = sa.table(
        "inspections",
        sa.column("number", sa.BigInteger()),
        sa.column("overruled_decision", sa.String()),
        sa.column("overruled_reason", sa.Text()),
        sa.column("overruled_by", sa.String()),
        sa.column("overruled_at", sa.DateTime(timezone=True)),
        sa.column("overrulings", sa.JSON()),
    )
    known = inspections.c
    connection = op.get_bind()
    query = sa.select(
        known.number, known.overruled_decision, known.overruled_reason, known.overruled_by, known.overruled_at
    ).where(known.overruled_decision.is_not(None))
    for number, decision, reason, by, at in connection.execute(query).all():
        when = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)  # SQLite stores no time zone
        told = [{"decision": decision, "reason": reason, "by": by, "at": when.isoformat()}]
        connection.execute(sa.update(inspections).where(known.number == number).values(overrulings=told))
