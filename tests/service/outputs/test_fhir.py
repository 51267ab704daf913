"""Bundles against the standard's own models.

In fhir.resources 8 the top-level modules are FHIR R5, `fhir.resources.R4B` is FHIR 4.3 and there is
no module for R4 (4.0.1). R4B left the resources used here as they are in R4: the bundles of all the
states below were also accepted by fhir.resources 6.1.0, whose models are 4.0.1, and which needs
pydantic 1 and so cannot run beside the service.
"""

import base64
import uuid
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from fhir.resources.R4B.bundle import Bundle

from service.outputs.codes import Code, IdentifierSystems, ReportCodes
from service.outputs.fhir import BundleType, build_bundle
from service.outputs.report import reported_result

DocumentFactory = Callable[..., dict[str, Any]]


def bundle_of(document: dict[str, Any], **options: Any) -> dict[str, Any]:
    data = build_bundle(reported_result(document), **options)
    Bundle.model_validate_json(data)
    bundle: dict[str, Any] = orjson.loads(data)
    return bundle


def of_type(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    resources = [entry["resource"] for entry in bundle["entry"]]
    return [resource for resource in resources if resource["resourceType"] == kind]


@pytest.mark.parametrize("bundle_type", ["collection", "transaction"])
def test_every_state_is_a_valid_bundle(
    any_document: dict[str, Any], bundle_type: BundleType
) -> None:
    bundle = bundle_of(any_document, bundle_type=bundle_type)
    urls = {entry["fullUrl"] for entry in bundle["entry"]}
    assert len(urls) == len(bundle["entry"])
    text = orjson.dumps(bundle).decode()
    pointed = {piece.split('"')[0] for piece in text.split('"reference":"')[1:]}
    assert pointed
    assert pointed <= urls
    for entry in bundle["entry"]:
        assert entry["fullUrl"] == f"urn:uuid:{uuid.UUID(entry['resource']['id'])}"
        assert ("request" in entry) == (bundle_type == "transaction")
    for resource in of_type(bundle, "Observation") + of_type(bundle, "DiagnosticReport"):
        assert resource["meta"]["security"][0]["code"] == "AIAST"
        assert resource["status"] == any_document["status"]
        assert "subject" not in resource


def test_the_validator_refuses_what_is_wrong(result_document: DocumentFactory) -> None:
    bundle = bundle_of(result_document())
    bundle["entry"][1]["resource"]["valueQuantity"]["value"] = "many"
    with pytest.raises(ValueError, match="value"):
        Bundle.model_validate(bundle)


def test_the_figures(result_document: DocumentFactory) -> None:
    interval = {"lower": 118, "upper": 145, "level": 0.9, "method": "quantiles"}
    document = result_document(count_interval=interval)
    bundle = bundle_of(document)
    count, density, share = of_type(bundle, "Observation")
    assert count["valueQuantity"]["value"] == document["count"]
    value_range = count["component"][0]["valueRange"]
    assert (value_range["low"]["value"], value_range["high"]["value"]) == (118, 145)
    assert "referenceRange" not in count
    assert density["valueQuantity"]["value"] == round(document["density_per_mm2"], 2)
    assert density["valueQuantity"]["code"] == "/mm2"
    assert share["valueQuantity"]["value"] == round(100 * document["foreground_fraction"], 2)
    device = of_type(bundle, "Device")[0]
    assert document["model"]["digest"] in {item["value"] for item in device["version"]}
    sources = of_type(bundle, "Provenance")[0]["entity"]
    assert sources[0]["what"]["identifier"]["value"].endswith(document["image"]["sha256"])


def test_identifiers_codes_and_namespaces_are_the_laboratory_s(
    result_document: DocumentFactory,
) -> None:
    codes = ReportCodes(count=Code("NUC", "Nuclei", "https://lab.example/codes", "99LAB"))
    systems = IdentifierSystems(
        accession="https://lab.example/acc", specimen="https://lab.example/sp", order="urn:oid:1.2"
    )
    bundle = bundle_of(result_document(), codes=codes, systems=systems, bundle_type="transaction")
    count = of_type(bundle, "Observation")[0]
    assert count["code"]["coding"][0] == {
        "system": "https://lab.example/codes", "code": "NUC", "display": "Nuclei",
    }  # fmt: skip
    assert count["basedOn"][0]["identifier"] == {"system": "urn:oid:1.2", "value": "ORD-778812"}
    specimen = of_type(bundle, "Specimen")[0]
    assert specimen["accessionIdentifier"]["value"] == "S26-1234"
    entries = {entry["resource"]["resourceType"]: entry for entry in bundle["entry"]}
    request = entries["Specimen"]["request"]
    assert request["ifNoneExist"] == "identifier=https://lab.example/sp|S26-1234-A1"


def test_a_second_delivery_updates_the_first(result_document: DocumentFactory) -> None:
    review = {"reviewer": "a", "reason": "b", "time_utc": "2026-11-23T08:15:00.250Z"}
    first = result_document()
    second = first | {"status": "corrected", "count": 140, "review": review}

    def requests(document: dict[str, Any], kind: str) -> set[str]:
        bundle = bundle_of(document, bundle_type="transaction")
        return {
            entry["request"]["url"]
            for entry in bundle["entry"]
            if entry["resource"]["resourceType"] == kind
        }

    for kind in ("DiagnosticReport", "Observation", "Device", "Specimen"):
        assert requests(first, kind) == requests(second, kind)
    assert requests(first, "Provenance") != requests(second, "Provenance")
    assert build_bundle(reported_result(first)) == build_bundle(reported_result(first))


def test_the_signed_statement_travels(result_document: DocumentFactory) -> None:
    envelope = {"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": []}
    bundle = bundle_of(result_document(provenance=envelope))
    signature = of_type(bundle, "Provenance")[0]["signature"][0]
    assert orjson.loads(base64.b64decode(signature["data"])) == envelope
