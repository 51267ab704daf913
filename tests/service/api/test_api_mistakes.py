"""Mistakes that people make with the HTTP API: the answer names the fault and the remedy.

The remedy stands in the detail, or in that of the problem's own page, which `type` points to.
"""

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient


@dataclass(frozen=True)
class Mistake:
    """A wrong request, and words that its answer must hold."""

    name: str
    status: int
    fault: str
    remedy: str
    url: str = "/segment"
    method: str = "POST"
    content: bytes | None = None
    sends_image: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def encode(suffix: str, *shape: int) -> bytes:
    done, data = cv2.imencode(suffix, np.full(shape, 200, np.uint8))
    assert done
    return data.tobytes()


PNG = {"Content-Type": "image/png"}
MISTAKES = (
    Mistake("no image", 415, "empty", "Send a whole PNG", content=b"", headers=PNG),
    Mistake(
        "a text file", 415, "no image", "PNG, JPEG, TIFF, WebP or BMP", content=b"Hello, there"
    ),
    Mistake(
        "a PNG cut short",
        415,
        "truncated",
        "Send a whole PNG",
        content=encode(".png", 64, 64, 3)[:-40],
    ),
    Mistake(
        "a PDF",
        422,
        "PDF is not read",
        "send PNG, JPEG, TIFF, WebP or BMP",
        content=b"%PDF-1.7\n" + bytes(64),
    ),
    Mistake(
        "JSON with the image in base64",
        415,
        "application/json",
        "Send an image as",
        content=b'{"image": "aGVsbG8="}',
        headers={"Content-Type": "application/json"},
    ),
    Mistake(
        "the form field has another name",
        422,
        "a field 'file'",
        "it may hold 'image'",
        extra={"files": {"file": b"x"}},
    ),
    Mistake(
        "a misspelt parameter",
        422,
        "treshold: Unknown",
        "did you mean threshold?",
        url="/segment?treshold=0.5",
    ),
    Mistake(
        "a parameter of something else", 422, "dpi: Unknown", "/docs lists", url="/segment?dpi=300"
    ),
    Mistake(
        "a misspelt filter",
        422,
        "acession",
        "did you mean accession?",
        url="/results?acession=S26-1",
        method="GET",
    ),
    Mistake("a threshold in percent", 422, "threshold", "less than 1", url="/segment?threshold=50"),
    Mistake(
        "two least areas",
        422,
        "exclude each other",
        "give one",
        url="/segment?min_area_px=10&min_area_um2=5",
    ),
    Mistake("a model that is not there", 404, "absent", "GET /models", url="/segment?model=absent"),
    Mistake(
        "a patient's name",
        422,
        "patient_name",
        "accession, specimen_id and order_id",
        url="/segment?patient_name=Doe",
    ),
    Mistake(
        "a representation that is not made",
        406,
        "Accept allows none",
        "can be application/json",
        sends_image=True,
        headers={**PNG, "Accept": "image/gif"},
    ),
    Mistake(
        "an image that is too large",
        413,
        "1500",
        "Cut the image into regions",
        content=encode(".png", 1500, 1500),
        headers=PNG,
    ),
    Mistake(
        "an image that is too small",
        422,
        "8",
        "larger region",
        content=encode(".png", 8, 8),
        headers=PNG,
    ),
    Mistake("GET instead of POST", 405, "method", "Allow", method="GET"),
    Mistake("a path that is not there", 404, "No such resource", "/docs", url="/predict"),
    Mistake(
        "a review without a version",
        428,
        "which version",
        "ETag of the result as If-Match",
        url=f"/results/{'0' * 32}/review",
        content=b'{"decision": "accept", "reviewer": "p7"}',
        headers={"Content-Type": "application/json"},
    ),
    Mistake(
        "a result that is not there",
        404,
        "result",
        "GET /results lists",
        url=f"/results/{'0' * 32}",
        method="GET",
    ),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named_with_its_remedy(
    client: TestClient, he_png: bytes, mistake: Mistake
) -> None:
    content = he_png if mistake.sends_image else mistake.content
    response = client.request(
        mistake.method, mistake.url, content=content, headers=mistake.headers, **mistake.extra
    )
    problem = response.json()
    assert response.status_code == problem["status"] == mistake.status
    said = f"{problem['title']} {problem['detail']}"
    assert mistake.fault in said
    assert mistake.remedy in f"{said} {client.get(problem['type']).json()['remedy']}"
