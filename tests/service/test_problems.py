"""Errors as problems: every typed error has one, and no other error tells what it is."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from sqlalchemy.exc import OperationalError

from fusion_diff import errors
from fusion_diff.service import problems
from fusion_diff.service.app import create_app
from fusion_diff.service.settings import Settings

TYPED = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FusionDiffError)]
REFUSED = problems.RefusedError.__subclasses__()


@pytest.mark.parametrize("kind", [*TYPED, *REFUSED], ids=lambda kind: kind.__name__)
def test_every_typed_error_is_a_problem_that_says_what_it_says(kind):
    told = problems.problem(kind("a.tif: is broken;\nmend it"), "r1")
    assert 400 <= told.status <= 504
    assert told.detail == "a.tif: is broken; mend it"
    assert told.type == f"urn:fusion-diff:problem:{kind.__name__.removesuffix('Error').lower()}"
    assert told.title
    assert told.request_id == "r1"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyError("secret"), 500),
        (MemoryError("secret"), 507),
        (OperationalError("secret", {}, KeyError("secret")), 503),
    ],
)
def test_other_errors_keep_to_themselves_what_they_are(error, status):
    told = problems.problem(error)
    assert told.status == status
    assert "secret" not in told.detail


def test_a_refusal_says_when_to_try_again_and_how_to_sign_in():
    assert problems.respond(problems.problem(problems.BusyError("x")), retry_after=0.2).headers["retry-after"] == "1"
    assert problems.respond(problems.problem(problems.UnauthorizedError("x"))).headers["www-authenticate"] == "Bearer"


@pytest.mark.skipif(find_spec("opentelemetry.sdk") is not None, reason="the telemetry extra is installed")
def test_telemetry_without_its_packages_names_what_to_install(tmp_path):
    with pytest.raises(errors.DependencyError, match=r"fusion-diff\[telemetry\]"):
        create_app(Settings(data=tmp_path, telemetry=True))
