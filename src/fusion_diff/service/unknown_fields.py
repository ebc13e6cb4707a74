"""Refuses query parameters and form fields that a route does not declare: misspelt ones would be left out silently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form

from fusion_diff.references.reference import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fastapi.dependencies.models import Dependant


async def expect_declared(request: Request) -> None:
    """Check the names in the query and in the form of a request. Bodies in JSON check theirs themselves.

    Raises:
        RequestValidationError: the route declares no parameter of such a name.
    """
    every = list(_flat(request.scope["route"].dependant))
    query = {field.alias for each in every for field in each.query_params}
    form = {field.alias for each in every for field in each.body_params if isinstance(field.field_info, Form)}
    found = _unknown("query", request.query_params, query, form)
    if form:
        found += _unknown("form", await request.form(), form, query)  # it is parsed already
    if found:
        raise RequestValidationError(found)


def _unknown(where: str, given: Iterable[str], known: set[str], elsewhere: set[str]) -> list[dict[str, object]]:
    """Return an error for each name that is not known there; `elsewhere` are the names of the other place."""
    told = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
    other = "form" if where == "query" else "query"
    return [
        {
            "type": "unknown_name",
            "loc": (where, name),
            "msg": f"belongs into the {other}"
            if name in elsewhere
            else f"unknown name{did_you_mean(name, known | elsewhere)}; {told}",
            "input": None,
        }
        for name in dict.fromkeys(given)
        if name not in known
    ]


def _flat(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for each in dependant.dependencies:
        yield from _flat(each)
