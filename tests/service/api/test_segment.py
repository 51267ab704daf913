"""POST /segment through the whole application, with a tiny real model and real tiles."""

import base64
import hashlib
import itertools
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from service.api.schemas import SegmentationAnswer


def decode(data: bytes) -> NDArray[Any]:
    """Read a PNG as it is, without conversion."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def answer_of(client: TestClient, image: bytes, **params: Any) -> dict[str, Any]:
    """Post an image and return the checked JSON answer."""
    response = client.post("/segment", files={"image": ("x.png", image)}, params=params)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["vary"] == "Accept"
    SegmentationAnswer.model_validate_json(response.content, strict=False)
    body: dict[str, Any] = response.json()
    return body


def test_multipart_answers_json_by_default(client: TestClient, he_png: bytes) -> None:
    body = answer_of(client, he_png)
    assert body["count"] > 5
    assert body["status"] == "preliminary"
    assert "research use only" in body["research_use_only"].lower()
    assert body["image"]["sha256"] == hashlib.sha256(he_png).hexdigest()
    assert (body["image"]["width"], body["image"]["height"]) == (256, 256)
    assert body["image"]["format"] == "png"
    assert body["model"]["name"] == "tiny"
    assert (body["provider"], body["precision"]) == ("CPUExecutionProvider", "fp32")
    assert "nuclei" not in body
    assert "mask" not in body
    stages = {"queue", "decoding", "inference", "separation", "total"}
    assert stages <= set(body["timings_ms"])
    assert body["timings_ms"]["total"] >= body["timings_ms"]["inference"]


@pytest.mark.parametrize(
    "content_type", ["image/png", "image/jpeg", "application/octet-stream", None]
)
def test_a_raw_body_is_sniffed(client: TestClient, he_png: bytes, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = client.post("/segment", content=he_png, headers=headers)
    assert response.status_code == 200, response.text
    assert response.json()["count"] == answer_of(client, he_png)["count"]
    assert response.json()["image"]["format"] == "png"


def test_ids_are_new_and_results_the_same(client: TestClient, he_png: bytes) -> None:
    first, second = answer_of(client, he_png), answer_of(client, he_png)
    assert first["id"] != second["id"]
    for volatile in ("id", "created_utc", "timings_ms", "provenance"):
        del first[volatile], second[volatile]
    assert first == second


def test_density_and_micrometres_need_a_known_resolution(client: TestClient, he_png: bytes) -> None:
    assumed = answer_of(client, he_png, include="nuclei")
    assert assumed["image"]["mpp_source"] == "assumed_native"
    assert assumed["density_per_mm2"] is None
    assert assumed["mean_area_um2"] is None
    assert assumed["nuclei"][0]["area_um2"] is None
    known = answer_of(client, he_png, mpp=0.25, include="nuclei")
    assert known["image"]["mpp_source"] == "parameter"
    square_mm = (256 * 0.25e-3) ** 2
    assert known["density_per_mm2"] == pytest.approx(known["count"] / square_mm)
    assert known["mean_area_um2"] == pytest.approx(known["mean_area_px"] * 0.0625)
    nucleus = known["nuclei"][0]
    assert nucleus["area_um2"] == pytest.approx(nucleus["area_px"] * 0.0625)


def test_nuclei_agree_with_the_labels(client: TestClient, he_png: bytes) -> None:
    body = answer_of(client, he_png, include="nuclei,mask", mask="labels")
    labels = decode(base64.b64decode(body["mask"]["data"]))
    assert labels.dtype == np.uint16
    assert labels.shape == (256, 256)
    assert labels.max() == body["count"] == len(body["nuclei"])
    assert body["foreground_fraction"] == pytest.approx((labels > 0).mean())
    for nucleus in body["nuclei"]:
        inside = labels == nucleus["id"]
        assert inside.sum() == nucleus["area_px"]
        rows, columns = np.nonzero(inside)
        assert nucleus["centroid_px"] == pytest.approx((columns.mean(), rows.mean()), abs=0.51)
        left, top, width, height = nucleus["bounding_box_px"]
        assert (left, top) == (columns.min(), rows.min())
        assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert all(inside[y, x] for x, y in nucleus["contour_px"])


def test_include_repeats_or_splits_on_commas(client: TestClient, he_png: bytes) -> None:
    repeated = client.post(
        "/segment?include=nuclei&include=mask",
        content=he_png,
        headers={"Content-Type": "image/png"},
    ).json()
    commas = answer_of(client, he_png, include="nuclei,mask")
    assert repeated["parameters"] == commas["parameters"]
    assert repeated["nuclei"] == commas["nuclei"]
    assert repeated["mask"] == commas["mask"]


@pytest.mark.parametrize("kind", ["binary", "labels", "overlay", "probability", "distance"])
def test_png_carries_the_figures_in_headers(client: TestClient, he_png: bytes, kind: str) -> None:
    response = client.post(
        "/segment",
        params={"mask": kind},
        files={"image": ("x.png", he_png)},
        headers={"Accept": "image/png"},
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    assert response.headers["vary"] == "Accept"
    plain = answer_of(client, he_png)
    assert response.headers["x-karyon-count"] == str(plain["count"])
    assert response.headers["x-karyon-model"] == f"tiny:{plain['model']['version']}"
    assert response.headers["x-karyon-model-digest"] == plain["model"]["digest"]
    assert response.headers["x-karyon-provider"] == plain["provider"]
    assert response.headers["x-karyon-precision"] == plain["precision"]
    assert len(response.headers["x-karyon-id"]) == 32
    picture = decode(response.content)
    assert picture.shape[:2] == (256, 256)
    if kind == "binary":
        assert set(np.unique(picture)) == {0, 255}
        assert (picture > 0).mean() == pytest.approx(plain["foreground_fraction"])
    if kind == "overlay":
        # An outline on the caller's own pixels: most stay as they were.
        unchanged = (picture == decode(he_png)[..., :3]).all(axis=-1).mean()
        assert 0.5 < unchanged < 1.0


def test_the_distance_map_is_for_models_that_have_one(client: TestClient, he_png: bytes) -> None:
    def ask(model: str, mask: str) -> Any:
        return client.post(
            "/segment",
            params={"mask": mask, "format": "png", "model": model},
            files={"image": ("x.png", he_png)},
        )

    distance, probability = (
        decode(ask("tiny", kind).content) for kind in ("distance", "probability")
    )
    assert distance.shape == probability.shape
    assert (distance != probability).any(), "another map than the probability"
    refused = ask("tiny_onechannel", "distance")
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["location"] == ["query", "mask"]
    assert "no distance map" in refused.text


def run_lengths_to_mask(run_lengths: dict[str, Any]) -> NDArray[np.bool_]:
    """Decode COCO run lengths: column-major, background first."""
    height, width = run_lengths["size"]
    values = itertools.cycle([False, True])
    flat = np.concatenate(
        [np.full(run, value) for run, value in zip(run_lengths["counts"], values, strict=False)]
    )
    return flat.reshape(width, height).T


def test_run_lengths_hold_the_same_mask_as_png(client: TestClient, he_png: bytes) -> None:
    png = answer_of(client, he_png, include="mask")["mask"]
    binary = decode(base64.b64decode(png["data"])) > 0
    rle = answer_of(client, he_png, include="mask", mask_encoding="rle")["mask"]
    assert (run_lengths_to_mask(rle["run_lengths"]) == binary).all()
    labels = answer_of(client, he_png, include="mask", mask="labels", mask_encoding="rle")["mask"]
    together = np.zeros((256, 256), np.int32)
    for nucleus in labels["nuclei"]:
        together += run_lengths_to_mask(nucleus)
    assert (together == binary).all()


def test_parameters_reach_the_segmentation(client: TestClient, he_png: bytes) -> None:
    default = answer_of(client, he_png)
    strict = answer_of(client, he_png, threshold=0.9)
    assert strict["foreground_fraction"] < default["foreground_fraction"]
    assert strict["parameters"]["threshold"] == 0.9
    large = answer_of(client, he_png, min_area_px=300, include="nuclei")
    assert large["count"] < default["count"]
    assert all(nucleus["area_px"] >= 300 for nucleus in large["nuclei"])
    other = answer_of(client, he_png, model="tiny_onechannel")
    assert other["model"]["name"] == "tiny_onechannel"
    older = answer_of(client, he_png, model="tiny:1.0.0")
    assert older["model"]["version"] == "1.0.0"
    assert default["model"]["version"] == "1.1.0"


def test_the_source_of_every_default_is_told(client: TestClient, he_png: bytes) -> None:
    parameters = answer_of(client, he_png)["parameters"]
    assert parameters == {
        "threshold": 0.5,
        "seed_threshold": 0.5,
        "min_area_px": pytest.approx(4.0 / 0.0625),
        "min_mean_probability": 0.0,
        "test_time_augmentation": "none",
        "mask": "binary",
        "mask_encoding": "png",
        "include": [],
    }


def test_a_uniform_image_has_no_nuclei(client: TestClient) -> None:
    white = np.full((64, 96, 3), 255, np.uint8)
    body = answer_of(client, cv2.imencode(".png", white)[1].tobytes(), include="nuclei,mask")
    assert body["count"] == 0
    assert body["nuclei"] == []
    assert body["mean_area_px"] is None
    assert body["foreground_fraction"] == 0.0
    assert decode(base64.b64decode(body["mask"]["data"])).shape == (64, 96)
