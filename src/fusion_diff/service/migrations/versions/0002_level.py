"""The level of a model's references."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column, empty for the models that are there."""
    op.add_column("models", sa.Column("level", sa.JSON(), nullable=True))
