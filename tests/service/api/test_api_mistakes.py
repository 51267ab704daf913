"""Mistakes that people make with the HTTP API: the answer itself names the fault and the remedy."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.records.database import Database
from service.records.keys import create_key
from service.settings import Settings


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
    before: str | None = None


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
    Mistake("a resolution of nothing", 422, "mpp", "0.05", url="/segment?mpp=0"),
    Mistake("an unknown format", 422, "format", "'geojson'", url="/segment?format=xlsx"),
    Mistake(
        "a name for an accession number",
        422,
        "accession",
        "never a name",
        url="/segment?accession=Jane+Doe",
    ),
    Mistake(
        "a name for an accession number, in the form",
        422,
        "accession",
        "never a name",
        extra={"files": {"image": b"x"}, "data": {"accession": "Jane Doe"}},
    ),
    Mistake(
        "one Idempotency-Key for two requests",
        422,
        "was used for another request",
        "Use a new key for each new request",
        url="/segment?threshold=0.4",
        sends_image=True,
        headers={**PNG, "Idempotency-Key": "the-same-for-all"},
        before="/segment?threshold=0.6",
    ),
    Mistake(
        "an Idempotency-Key with spaces",
        422,
        "Idempotency-Key",
        "send a UUID",
        headers={"Idempotency-Key": "my key"},
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


def assert_helpful(response: Any, mistake: Mistake) -> None:
    problem = response.json()
    assert response.status_code == problem["status"] == mistake.status
    said = f"{problem['title']} {problem['detail']}"
    assert mistake.fault in said
    assert mistake.remedy in f"{said} {problem['remedy']}"


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named_with_its_remedy(
    client: TestClient, he_png: bytes, mistake: Mistake
) -> None:
    content = he_png if mistake.sends_image else mistake.content
    sent = {"content": content, "headers": mistake.headers, **mistake.extra}
    if mistake.before is not None:
        assert client.request(mistake.method, mistake.before, **sent).status_code == 200
    response = client.request(mistake.method, mistake.url, **sent)
    assert_helpful(response, mistake)
    page = client.get(response.json()["type"]).json()
    assert page["remedy"] == response.json()["remedy"]


CREDENTIALS = (
    Mistake("no key", 401, "no credential", "Send an API key as `X-API-Key: KEY`"),
    Mistake(
        "a key that nobody made",
        401,
        "unknown",
        "Ask the operator for a new key",
        headers={"X-API-Key": "karyon_nonsense"},
    ),
    Mistake(
        "a key that is good for something else",
        403,
        "needs a credential with the scope results",
        "ask the operator for a key with it",
        url="/results",
        method="GET",
        headers={"X-API-Key": "{key}"},
    ),
)


@pytest.fixture(scope="module")
def guarded(
    api_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TestClient, str]]:
    """The application with logins required, and a key for segmenting alone."""
    folder: Path = tmp_path_factory.mktemp("mistakes")
    settings = Settings.model_validate(
        {**api_settings.model_dump(), "auth": "required", "data_dir": folder}
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        database = Database.open(None, folder)
        with database.writing() as transaction:
            key, _ = create_key(transaction, name="t", scopes=["segment"], days=1, actor="test")
        database.close()
        yield client, key


@pytest.mark.parametrize("mistake", CREDENTIALS, ids=lambda mistake: mistake.name)
def test_a_wrong_credential_is_named_with_its_remedy(
    guarded: tuple[TestClient, str], mistake: Mistake
) -> None:
    client, key = guarded
    headers = {name: value.format(key=key) for name, value in mistake.headers.items()}
    assert_helpful(client.request(mistake.method, mistake.url, headers=headers), mistake)
