"""Quality flags in the answers."""

import cv2
import numpy as np
from fastapi.testclient import TestClient

from service.api.schemas import SegmentationAnswer


def _blank_png() -> bytes:
    return cv2.imencode(".png", np.full((128, 128, 3), 240, dtype=np.uint8))[1].tobytes()


def test_json_lists_every_flag(client: TestClient, he_png: bytes) -> None:
    answer = SegmentationAnswer.model_validate(client.post("/segment", content=he_png).json())
    quality = answer.quality
    assert len({flag.name for flag in quality.flags}) == 5
    assert quality.review_recommended is False
    assert quality.reasons == []


def test_an_empty_field_recommends_review_and_says_why(client: TestClient) -> None:
    quality = client.post("/segment", content=_blank_png()).json()["quality"]
    assert quality["review_recommended"] is True
    (flag,) = [flag for flag in quality["flags"] if flag["fired"]]
    assert flag["name"] == "too_little_tissue"
    assert quality["reasons"] == [flag["message"]]


def test_png_tells_it_in_a_header(client: TestClient, he_png: bytes) -> None:
    for content, expected in ((he_png, "false"), (_blank_png(), "true")):
        response = client.post("/segment", content=content, headers={"Accept": "image/png"})
        assert response.headers["X-Karyon-Review-Recommended"] == expected
