"""The served OpenAPI document against the application, with generated requests.

Positive data follow the document, negative data break it; either way there is no 5xx, no status and
no content type that the document does not name, and no answer of another shape.
"""

from typing import Any, cast

import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from service.api.negotiation import FHIR, HL7, HL7_ER7
from service.api.order_answers import BUNDLE_EXAMPLE, OML_EXAMPLE

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


def with_open_lifespan(app: FastAPI, client: TestClient) -> Any:
    """Return the application with the state of `client`, whose lifespan is open.

    Schemathesis runs a lifespan around each call; the models are not opened again for it.
    """

    async def opened(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["state"] = dict(client.app_state)
            await app(scope, receive, send)
            return
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})

    return opened


def make_real(case: Any, image: bytes) -> None:
    """Put in what the document cannot say: a real image, a loaded model, no contradictions."""
    if case.media_type == FHIR:
        case.body = BUNDLE_EXAMPLE
    elif case.media_type in (HL7, HL7_ER7):
        case.body = OML_EXAMPLE.encode()
    elif case.media_type == "multipart/form-data":
        case.body = {"image": image}
    elif case.media_type is not None:
        case.body = image
    if "model" in case.query:
        case.query["model"] = "tiny"
    if "name" in case.path_parameters:
        case.path_parameters["name"] = "tiny" if "models" in case.path else "overloaded"
    if "min_area_px" in case.query:
        case.query.pop("min_area_um2", None)
    if case.query.get("mask") in ("overlay", "probability", "distance"):
        case.query.pop("mask_encoding", None)


def have_patience(case: Any) -> None:
    """Turn a legal deadline of a few milliseconds, which is a 504 by design, into ten minutes."""
    headers = case.headers or {}
    for name in [name for name in headers if name.lower() == "x-request-timeout-ms"]:
        if headers[name].isdecimal() and 1 <= int(headers[name]) <= 3_600_000:
            headers[name] = "600000"


def statuses_of(operation: Any, mode: GenerationMode, app: Any, image: bytes) -> set[int]:
    """Call an operation with generated requests, check every answer, and return the statuses."""
    seen: set[int] = set()

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())
    @hypothesis.settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any, *, real: bool) -> None:
        if real and mode is GenerationMode.POSITIVE:
            make_real(case, image)
        have_patience(case)
        response = case.call(app=app)
        case.validate_response(response, checks=CHECKS)
        seen.add(response.status_code)

    check()
    return seen


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_it_keeps_what_its_document_promises(
    api_app: FastAPI, client: TestClient, he_png: bytes, mode: GenerationMode
) -> None:
    app = with_open_lifespan(api_app, client)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    statuses: dict[str, set[int]] = {}
    for result in schema.get_all_operations():
        operation = cast("Any", result).ok()
        try:
            statuses[operation.label] = statuses_of(operation, mode, app, he_png)
        except hypothesis.errors.Unsatisfiable:
            # Nothing to break: the operation has no parameters.
            assert mode is GenerationMode.NEGATIVE
    # The requests reached what they were made for: a segmentation, or a refusal.
    reached = 200 if mode is GenerationMode.POSITIVE else 422
    assert reached in statuses["POST /segment"], statuses
    assert reached in statuses["POST /orders"], statuses
