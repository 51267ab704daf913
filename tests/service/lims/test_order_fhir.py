"""Bundles of ServiceRequest and Specimen in, orders out."""

import copy
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from fhir.resources.R4B.bundle import Bundle

from service.api.order_answers import BUNDLE_EXAMPLE
from service.errors import MalformedOrderError, UnusableOrderError
from service.lims.order_fhir import parse_bundle
from service.records.orders import OrderRequest

Change = Callable[[dict[str, Any], dict[str, Any]], object]


def bundle(change: Change | None = None) -> bytes:
    document = copy.deepcopy(BUNDLE_EXAMPLE)
    if change is not None:
        request, specimen = (entry["resource"] for entry in document["entry"])
        change(request, specimen)
    return orjson.dumps(document)


def test_the_example_is_a_valid_bundle_and_an_order() -> None:
    Bundle.model_validate(BUNDLE_EXAMPLE)
    placed = OrderRequest(
        "place", "ORD-778812", "S26-1234", "LAB-26-0991", "S26-1234-A1", "entry.0.resource"
    )
    assert parse_bundle(bundle()) == [placed]


def move_inside(request: dict[str, Any], specimen: dict[str, Any]) -> None:
    request["contained"] = [{**specimen, "id": "s1"}]
    request["specimen"] = [{"reference": "#s1"}]


def by_id(request: dict[str, Any], specimen: dict[str, Any]) -> None:
    specimen["id"] = "s1"
    request["specimen"] = [{"reference": "Specimen/s1"}]


def by_identifier(request: dict[str, Any], _: dict[str, Any]) -> None:
    request["specimen"] = [{"identifier": {"value": "S26-1234-A1"}}]
    accession = {"type": {"coding": [{"code": "ACSN"}]}, "value": "S26-1234"}
    request["identifier"].append(accession)


def with_a_patient(request: dict[str, Any], _: dict[str, Any]) -> None:
    request["subject"] = {"reference": "#p", "display": "Erika Mustermann"}
    request["contained"] = [{"resourceType": "Patient", "id": "p", "name": [{"family": "M"}]}]


@pytest.mark.parametrize("change", [move_inside, by_id, by_identifier, with_a_patient])
def test_specimens_are_found_however_they_are_named(change: Change) -> None:
    data = bundle(change)
    Bundle.model_validate_json(data)
    assert parse_bundle(data) == parse_bundle(bundle())
    assert "Mustermann" not in str(parse_bundle(data))


@pytest.mark.parametrize("status", ["revoked", "entered-in-error"])
def test_a_status_cancels(status: str) -> None:
    (request,) = parse_bundle(bundle(lambda asked, _: asked.update(status=status)))
    assert (request.action, request.placer_number) == ("cancel", "ORD-778812")


@pytest.mark.parametrize(
    ("change", "location"),
    [
        (lambda asked, _: asked.update(status="draft"), "status"),
        (lambda asked, _: asked.update(status=7), "status"),
        (lambda asked, _: asked.update(intent="proposal"), "intent"),
        (lambda asked, _: asked.update(doNotPerform=True), "intent"),
        (lambda asked, _: asked.update(identifier=[]), "identifier"),
        (lambda asked, _: asked.update(specimen=[]), "specimen"),
        (lambda asked, _: asked.update(specimen=[{"reference": "Specimen/x"}]), "specimen.0"),
        (lambda _, specimen: specimen.pop("accessionIdentifier"), "specimen"),
        (lambda _, specimen: specimen.update(accessionIdentifier={"value": "Mustermann"}),
         "accessionIdentifier"),
        (lambda _, specimen: specimen.update(identifier="x"), "identifier"),
        (lambda asked, _: asked.update(resourceType="Task"), "entry"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_out_says_where(change: Change, location: str) -> None:
    with pytest.raises(UnusableOrderError) as refused:
        parse_bundle(bundle(change))
    assert not isinstance(refused.value, MalformedOrderError)
    assert refused.value.location.endswith(location)
    assert "Mustermann" not in str(refused.value)


def test_a_deletion_is_no_order() -> None:
    document = copy.deepcopy(BUNDLE_EXAMPLE)
    document["entry"][0]["request"]["method"] = "DELETE"
    with pytest.raises(UnusableOrderError, match="POST or PUT"):
        parse_bundle(orjson.dumps(document))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"resourceType": "Patient"}',
        b'{"resourceType": "Bundle", "type": "searchset", "entry": []}',
        b'{"resourceType": "Bundle", "type": "transaction"}',
        b'{"resourceType": "Bundle", "type": "transaction", "entry": [{"resource": 7}]}',
        b'{"a":' * 100_000,
    ],
)
def test_what_is_no_bundle_is_rejected(data: bytes) -> None:
    with pytest.raises(MalformedOrderError):
        parse_bundle(data)
