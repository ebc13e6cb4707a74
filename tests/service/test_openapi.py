"""Requests made from the description of the API, right and wrong ones: whatever is answered is what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fusion_diff.service.app import create_app
from fusion_diff.service.settings import Settings

EXAMPLES = 16
"""Requests of each operation."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
API = schemathesis.openapi.from_dict(create_app(Settings(data=Path("unused"), insecure=True)).openapi())
OPERATIONS = {each.label: each for each in (found.ok() for found in API.get_all_operations())}


@pytest.fixture(scope="module")
def kept(client, micrograph, learn) -> dict[str, str]:
    """The ids of what no request removes, by the names that paths call them."""
    answer = client.post("/v1/inspections", files={"files": ("a.tif", micrograph("fine", 180))})
    alone = client.post("/v1/reference-sets", json={"name": "alone", "authentic": "fine"}).json()["id"]
    sent = {"files": ("a.tif", micrograph("fine", 181))}
    client.post(f"/v1/reference-sets/{alone}/images", files=sent, data={"label": "fine"})
    return {
        "inspection_id": answer.json()["results"][0]["inspection"]["id"],
        "job_id": learn(client, alone)["id"],
        "model_id": client.get("/v1/models").json()["items"][0]["id"],
    }


@pytest.fixture
def ids(client, micrograph, kept, request) -> dict[str, str]:
    """The same, with a set of one reference."""
    made = client.post("/v1/reference-sets", json={"name": request.node.name, "authentic": "fine"}).json()["id"]
    sent = {"files": ("a.tif", micrograph("coarse", 180))}
    added = client.post(f"/v1/reference-sets/{made}/images", files=sent, data={"label": "coarse"}).json()["results"]
    return kept | {"set_id": made, "image_id": added[0]["reference"]["id"]}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_answers_as_it_is_described(client, ids, name):
    operation = OPERATIONS[name]
    own = {each.name: ids[each.name] for each in operation.path_parameters}
    cases = [operation.as_strategy(mode) for mode in GenerationMode]

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(cases), there=st.booleans())
    def ask(case, there):
        if there:
            case.path_parameters = dict(own)
        asked = requests.Request(**case.as_transport_kwargs(base_url="http://127.0.0.1")).prepare()
        headers = {
            name: each.encode("latin-1") if isinstance(each, str) else each for name, each in asked.headers.items()
        }
        answer = client.request(asked.method, asked.url, content=asked.body, headers=headers)
        # Who allows a verdict no time is told so, as of a gateway: nothing went wrong in the server.
        late = answer.status_code == 504 and answer.json()["type"].endswith(":late")
        case.validate_response(answer, checks=[each for each in CHECKS if not (late and each is not_a_server_error)])

    ask()
