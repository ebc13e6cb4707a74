"""Discarded files: digests whose files are deleted later, and indexes to find out what refers to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table and the indexes."""
    op.create_table(
        "discarded",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_discarded")),
    )
    for table, column in (
        ("discarded", "since"),
        ("inspections", "evidence_sha256"),
        ("inspections", "thumbnail_sha256"),
        ("reference_images", "mark_sha256"),
        ("reference_images", "sha256"),
    ):
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column], unique=False)
