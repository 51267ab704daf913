import pytest

from service.api.negotiation import (
    COCO,
    CSV,
    FHIR,
    GEOJSON,
    HL7,
    HL7_ER7,
    JSON,
    PNG,
    choose_representation,
)
from service.errors import NotAcceptableError


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("application/json; charset=utf-8", JSON),
        ("APPLICATION/JSON", JSON),
        ("image/png", PNG),
        ("image/*", PNG),
        ("image/png, application/json", JSON),  # a tie: the default
        ("image/png, application/json;q=0.9", PNG),
        ("image/png;q=0.1, application/json;q=0.2", JSON),
        ("image/png;q=0.1, */*;q=0.5", JSON),
        ("application/json;q=0, */*", PNG),  # the most specific range decides, not the best
        ("application/*;q=0.3, image/*;q=0.4", PNG),
        ("text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8", JSON),
        ("nonsense, image/png", PNG),
        ("image/png;q=7, application/json;q=0.1", JSON),  # a malformed quality is no choice
        ("application/geo+json", GEOJSON),
        ("text/*", CSV),
        ("application/fhir+json; fhirVersion=4.0, application/json;q=0.9", FHIR),
        ("application/hl7-v2", HL7),
        ("x-application/hl7-v2+er7", HL7_ER7),
        ("application/vnd.karyon.coco+json", COCO),
    ],
)
def test_chooses_by_specificity_then_quality(accept: str | None, expected: str) -> None:
    assert choose_representation(accept) == expected


@pytest.mark.parametrize(
    "accept", ["text/html", "image/jpeg", "application/json;q=0", "*/*;q=0", "nonsense", "a/b/c"]
)
def test_refuses_what_it_cannot_make(accept: str) -> None:
    with pytest.raises(NotAcceptableError, match="application/json or image/png or "):
        choose_representation(accept)
