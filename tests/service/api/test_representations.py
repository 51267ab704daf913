"""POST /segment in every representation, by `format` and by Accept."""

import csv
import io
from typing import Any

import cv2
import hl7
import httpx2 as httpx
import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient
from fhir.resources.R4B.bundle import Bundle
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from shapely.geometry import shape

from service.api.negotiation import HL7_ER7, MEDIA_TYPE_OF, Format


def post(client: TestClient, image: bytes, accept: str = "*/*", **params: Any) -> httpx.Response:
    response = client.post(
        "/segment",
        files={"image": ("x.png", image)},
        params={"mpp": 0.25, "accession": "S26-1", **params},
        headers={"Accept": accept},
    )
    assert response.status_code == 200, response.text
    return response


@pytest.mark.parametrize("name", MEDIA_TYPE_OF)
def test_format_wins_over_accept_and_both_give_the_same(
    client: TestClient, he_png: bytes, name: Format
) -> None:
    media_type = MEDIA_TYPE_OF[name]
    by_format = post(client, he_png, "image/jpeg", format=name)
    by_accept = post(client, he_png, media_type)
    for response in (by_format, by_accept):
        assert response.headers["content-type"].partition(";")[0] == media_type
        assert response.headers["vary"] == "Accept"
        assert ("x-karyon-count" in response.headers) == (name != "json")


def test_every_one_reports_the_same_count(client: TestClient, he_png: bytes) -> None:
    count = post(client, he_png).json()["count"]
    assert count > 0
    features = orjson.loads(post(client, he_png, format="geojson").content)["features"]
    assert all(shape(feature["geometry"]).is_valid for feature in features)
    rows = list(csv.reader(io.StringIO(post(client, he_png, format="csv").text, newline="")))
    coco = orjson.loads(post(client, he_png, format="coco").content)
    assert len(features) == len(rows) - 1 == len(coco["annotations"]) == count
    bundle = orjson.loads(post(client, he_png, format="fhir").content)
    assert bundle["entry"][1]["resource"]["valueQuantity"]["value"] == count
    message = hl7.parse(post(client, he_png, format="hl7").text)
    assert str(message["OBX"][0][5]) == str(count)


def test_messages_are_valid(client: TestClient, he_png: bytes) -> None:
    fhir = post(client, he_png, format="fhir")
    Bundle.model_validate_json(fhir.content)
    er7 = post(client, he_png, HL7_ER7)
    assert er7.headers["content-type"].startswith(HL7_ER7)
    message = parse_message(
        er7.content.decode(), validation_level=VALIDATION_LEVEL.STRICT, find_groups=True
    )
    assert message.validate()


def test_an_image_without_nuclei(client: TestClient) -> None:
    written, encoded = cv2.imencode(".png", np.full((64, 64, 3), 255, np.uint8))
    assert written
    for name in MEDIA_TYPE_OF:
        response = post(client, encoded.tobytes(), format=name)
        assert response.headers.get("x-karyon-count", "0") == "0"
