"""The references in short by their present names, `specimens_by_side` and `with_pixel_size`, in all inspections."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_NAMES = {"voices": "specimens_by_side", "sized": "with_pixel_size"}
_AT_ONCE = 500


def upgrade() -> None:
    """Rename the two values."""
    inspections = sa.table("inspections", sa.column("number", sa.BigInteger()), sa.column("result", sa.JSON()))
    known, connection, last = inspections.c, op.get_bind(), 0
    some = sa.select(known.number, known.result).order_by(known.number).limit(_AT_ONCE)
    while rows := connection.execute(some.where(known.number > last)).all():
        for number, result in rows:
            compared = {_NAMES.get(name, name): value for name, value in result.get("compared_with", {}).items()}
            renamed = sa.update(inspections).where(known.number == number)
            connection.execute(renamed.values(result=result | {"compared_with": compared}))
        last = rows[-1].number
