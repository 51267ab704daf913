"""The interval of a count and the averaged copies, as a caller sees them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.api.schemas import SegmentationAnswer
from service.app import create_app
from service.settings import Settings

METHOD = "split conformal by patient, 37 images of 8 patients"


@pytest.fixture(scope="module")
def averaging(
    tiny_model_factory: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """A service that averages four copies, with a model that was calibrated so."""
    root = tmp_path_factory.mktemp("averaging")
    tiny_model_factory(
        root / "tiny" / "1.0.0" / "model.onnx",
        count_interval={
            "level": 0.9,
            "lower_ratio": 0.8,
            "upper_ratio": 1.25,
            "allowance": 2.0,
            "method": METHOD,
            "images": 37,
            "patients": 8,
            "test_time_augmentation": "flips4",
        },
    )
    settings = Settings(models_dir=root, provider="cpu", threads=1, test_time_augmentation="flips4")
    with TestClient(create_app(settings)) as opened:
        yield opened


def test_the_answer_carries_interval_and_copies(averaging: TestClient, he_png: bytes) -> None:
    response = averaging.post("/segment", content=he_png)
    assert response.status_code == 200, response.text
    SegmentationAnswer.model_validate_json(response.content, strict=False)
    body = response.json()
    interval = body["count_interval"]
    assert 0 <= interval["lower"] < body["count"] < interval["upper"]
    assert (interval["level"], interval["method"]) == (0.9, METHOD)
    assert body["parameters"]["test_time_augmentation"] == "flips4"


def test_png_answers_carry_it_in_a_header(averaging: TestClient, he_png: bytes) -> None:
    interval = averaging.post("/segment", content=he_png).json()["count_interval"]
    png = averaging.post("/segment", content=he_png, headers={"Accept": "image/png"})
    expected = f"{interval['lower']}-{interval['upper']}; level=0.9"
    assert png.headers["X-Karyon-Count-Interval"] == expected


def test_a_threshold_of_the_callers_own_has_no_interval(
    averaging: TestClient, he_png: bytes
) -> None:
    body = averaging.post("/segment", params={"threshold": 0.6}, content=he_png).json()
    assert body["count_interval"] is None
    png = averaging.post(
        "/segment", params={"threshold": 0.6}, content=he_png, headers={"Accept": "image/png"}
    )
    assert "X-Karyon-Count-Interval" not in png.headers


def test_a_model_without_interval_answers_null(client: TestClient, he_png: bytes) -> None:
    body = client.post("/segment", content=he_png).json()
    assert body["count_interval"] is None
    assert body["parameters"]["test_time_augmentation"] == "none"
