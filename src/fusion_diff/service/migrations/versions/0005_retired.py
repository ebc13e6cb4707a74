"""Retired models: no longer offered; their verdicts stay."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column."""
    op.add_column("models", sa.Column("retired", sa.Boolean(), nullable=False, server_default=sa.false()))
