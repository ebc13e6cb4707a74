"""Field types that several bodies share, with their limits."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from fusion_diff.checkpoint import NAME_LENGTH
from fusion_diff.fewshot.decision import LEAST_ALPHA
from fusion_diff.service.naming import ID
from fusion_diff.service.records import MAX_REASON


def _one_line(value: str) -> str:
    plain = _plain_spaces(value)
    if not plain.isprintable():
        raise ValueError("contains invisible characters or line breaks; remove them")
    return plain


def _text(value: str) -> str:
    plain = _plain_spaces(value)
    if not all(character.isprintable() or character in "\n\r\t" for character in plain):
        raise ValueError("contains invisible characters; remove them")
    return plain


def _plain_spaces(value: str) -> str:
    """Return text with every Unicode space replaced by a plain one; keyboards and copied text contain others."""
    return "".join(" " if unicodedata.category(character) == "Zs" else character for character in value)


def _utc(value: datetime) -> datetime:
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999 in UTC") from None


Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_LENGTH), AfterValidator(_one_line)
]
Reason = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_REASON), AfterValidator(_text)
]
Id = Annotated[str, StringConstraints(pattern=ID)]
Alpha = Annotated[float, Field(ge=LEAST_ALPHA, lt=1, allow_inf_nan=False)]
PixelSize = Annotated[
    float, Field(ge=1e-6, le=1e6, allow_inf_nan=False, description="Pixel size in µm; overrides that in the file.")
]
Moment = Annotated[datetime, AfterValidator(_utc)]


class Body(BaseModel):
    """A request body. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")
