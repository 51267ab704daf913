"""One result document, as `POST /segment` answers and as a record store keeps it."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.api.examples import SEGMENTATION_EXAMPLE

REVIEW = {
    "reviewer": "dr.o'neill@lab",
    "reason": "Counted | by hand ^ twice & more~less \\ so\r\nyes",
    "time_utc": "2026-11-23T08:15:00.250Z",
}


def document_of(**changes: Any) -> dict[str, Any]:
    document = copy.deepcopy(SEGMENTATION_EXAMPLE)
    document["identity"] = {
        "accession": "S26-1234", "specimen_id": "S26-1234-A1", "order_id": "ORD-778812",
    }  # fmt: skip
    document["software"] = {"name": "karyon", "version": "0.1.0"}
    document["image"] |= {"pixel_sha256": "ab" * 32, "mpp_tag": None}
    document.update(changes)
    return document


DocumentFactory = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def result_document() -> DocumentFactory:
    """`result_document(status="final")`: a whole document, top-level members replaced."""
    return document_of


def _states() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "preliminary", {}
    yield "final", {"status": "final", "review": REVIEW}
    yield "corrected", {"status": "corrected", "review": REVIEW, "count": 140}
    silent = {"reviewer": "dr\x0bx", "reason": " \x00", "time_utc": "2026-11-23T08:15:00Z"}
    yield "odd review", {"status": "final", "review": silent}
    mute = {"reviewer": "dr.x", "reason": None, "time_utc": "2026-11-23T08:15:00Z"}
    yield "review without a reason", {"status": "final", "review": mute}
    yield "cancelled", {"status": "cancelled", "review": REVIEW}
    interval = {"lower": 118, "upper": 145, "level": 0.9, "method": "relative error quantiles"}
    yield "interval", {"count_interval": interval, "precision": "fp32"}
    yield "cancelled with interval", {
        "status": "cancelled", "review": REVIEW, "count_interval": interval,
    }  # fmt: skip
    nobody = {"accession": None, "specimen_id": None, "order_id": None}
    yield "no identity, no resolution", {"identity": nobody, "density_per_mm2": None}
    yield "accession alone", {"identity": nobody | {"accession": "S26-1"}}
    envelope = {"payloadType": "application/vnd.in-toto+json", "payload": "e30=", "signatures": []}
    yield "signed", {"provenance": envelope}
    flag = {"name": "blur", "fired": True, "message": "The image is blurred."}
    yield (
        "flagged",
        {"quality": {"flags": [flag], "review_recommended": True, "reasons": [flag["message"]]}},
    )


STATES = dict(_states())


@pytest.fixture(params=STATES)
def any_document(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A document of every kind that can be reported, one after the other."""
    return document_of(**STATES[request.param])
