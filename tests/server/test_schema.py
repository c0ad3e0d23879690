"""The OpenAPI schema, and requests made up from it: no fault, no status that it does not tell."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_whatever_is_sent_is_answered_as_told(api, mode):
    schema = schemathesis.openapi.from_url(f"{api.url}/openapi.json")
    tried = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=5,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS)

        try:
            send()
        except Unsatisfiable:
            continue  # nothing about it can be wrong
        tried.add(operation.label)
    assert "POST /v1/chat/completions" in tried


def test_the_schema_tells_of_keys_where_there_are_some(api, start):
    from video_llama.server.guard import GuardPolicy

    locked = start(guard=GuardPolicy(keys=("a-long-key",)))
    with locked.http(headers={"Authorization": "Bearer a-long-key"}) as http:
        told = http.get("/openapi.json").json()
    assert told["paths"]["/v1/chat/completions"]["post"]["security"]
    with api.http() as http:
        told = http.get("/openapi.json").json()
    assert "security" not in told["paths"]["/v1/chat/completions"]["post"]
    responses = told["paths"]["/v1/chat/completions"]["post"]["responses"]
    for status in ("400", "401", "404", "413", "422", "429", "503"):
        reference = responses[status]["content"]["application/json"]["schema"]
        assert reference["$ref"].endswith("/ErrorBody")
