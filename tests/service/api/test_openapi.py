"""The committed OpenAPI document is what is served; it changes only on purpose."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient
from fhir.resources.R4B.bundle import Bundle
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from service.api.negotiation import CSV, FHIR, HL7, OFFERED
from service.api.schemas import SegmentationAnswer
from service.outputs.csv_table import COLUMNS

SNAPSHOT = Path(__file__).resolve().parents[1] / "openapi.json"
REMAKE = "python -m service openapi > tests/service/openapi.json"


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    """The document as served."""
    served: dict[str, Any] = client.get("/openapi.json").json()
    return served


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_it_equals_the_committed_document(document: dict[str, Any]) -> None:
    committed = orjson.loads(SNAPSHOT.read_bytes())
    # The version is the distribution's; a release must not have to remake the document.
    committed["info"]["version"] = document["info"]["version"]
    assert document == committed, f"if the change is meant: {REMAKE}"


def test_every_operation_is_documented(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    identifiers = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(identifiers)) == len(identifiers)
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        for status, response in operation["responses"].items():
            assert response["description"], (name, status)
            assert "X-Request-ID" in response["headers"], (name, status)
            problem = "application/problem+json" in response.get("content", {})
            assert problem == (int(status) >= 400), (name, status)
            waiting_helps = status == "503" or (name, status) == ("POST /segment", "409")
            assert ("Retry-After" in response["headers"]) == waiting_helps, (name, status)


def test_the_example_is_a_valid_answer(document: dict[str, Any]) -> None:
    content = document["paths"]["/segment"]["post"]["responses"]["200"]["content"]
    SegmentationAnswer.model_validate(content["application/json"]["example"])


def test_every_example_of_a_representation_is_valid(document: dict[str, Any]) -> None:
    content = document["paths"]["/segment"]["post"]["responses"]["200"]["content"]
    assert set(content) == set(OFFERED)
    Bundle.model_validate(content[FHIR]["example"])
    message = parse_message(content[HL7]["example"], validation_level=VALIDATION_LEVEL.STRICT)
    assert message.validate()
    assert content[CSV]["example"].startswith(",".join(COLUMNS) + "\r\n")


def test_parameters_say_their_bounds(document: dict[str, Any]) -> None:
    parameters = {
        parameter["name"]: parameter["schema"]
        for parameter in document["paths"]["/segment"]["post"]["parameters"]
        if parameter["in"] == "query"
    }
    assert set(parameters) == {
        "model", "mask", "threshold", "min_area_um2", "min_area_px", "mpp", "include",
        "mask_encoding", "format", "accession", "specimen_id", "order_id",
    }  # fmt: skip
    assert (parameters["mpp"]["minimum"], parameters["mpp"]["maximum"]) == (0.05, 5.0)
    threshold = parameters["threshold"]
    assert (threshold["exclusiveMinimum"], threshold["exclusiveMaximum"]) == (0, 1)
