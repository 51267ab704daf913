"""What a caller does wrong, and what the service may do wrong, as RFC 9457 documents."""

import gzip
from collections.abc import Iterator
from typing import Any

import cv2
import httpx2 as httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service import errors
from service.api.problem_table import PROBLEM_TYPES
from service.api.problems import problem_type_of
from service.api.schemas import Problem
from service.app import create_app
from service.settings import Settings

PNG = {"Content-Type": "image/png"}


def assert_problem(response: httpx.Response, status: int, name: str) -> dict[str, Any]:
    """Check the shape of a problem answer and return its document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    Problem.model_validate_json(response.content)
    document: dict[str, Any] = response.json()
    assert document["type"] == f"/problems/{name}"
    assert document["status"] == status
    assert document["instance"] == response.headers["x-request-id"]
    return document


def test_every_error_of_the_core_has_a_row() -> None:
    unseen = [
        error
        for error in vars(errors).values()
        if isinstance(error, type)
        and issubclass(error, errors.KaryonError)
        and error is not errors.KaryonError
        and not any(error in problem.raised for problem in PROBLEM_TYPES)
    ]
    assert unseen == []


def test_an_unknown_error_is_internal() -> None:
    assert problem_type_of(ZeroDivisionError()).name == "internal-error"
    assert problem_type_of(errors.KaryonError("new")).name == "internal-error"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("threshold=nan", "threshold"),
        ("threshold=inf", "threshold"),
        ("threshold=1.01", "threshold"),
        ("threshold=0", "threshold"),
        ("threshold=-0.1", "threshold"),
        ("threshold=half", "threshold"),
        ("threshold=", "threshold"),
        ("threshold=1e400", "threshold"),
        ("mpp=inf", "mpp"),
        ("mpp=nan", "mpp"),
        ("mpp=0", "mpp"),
        ("mpp=0.01", "mpp"),
        ("mpp=72", "mpp"),
        ("min_area_px=-1", "min_area_px"),
        ("min_area_um2=NaN", "min_area_um2"),
        ("min_area_um2=5&min_area_px=5", "min_area_px"),
        ("mask=outline", "mask"),
        ("mask=overlay&mask_encoding=rle", "mask_encoding"),
        ("include=nuclei,everything", "include"),
        ("tresholt=0.5", "tresholt"),
        ("threshold=0.5&threshold=0.6", "threshold"),
    ],
)
def test_a_wrong_parameter_is_named(
    client: TestClient, he_png: bytes, query: str, named: str
) -> None:
    response = client.post(f"/segment?{query}", content=he_png, headers=PNG)
    document = assert_problem(response, 422, "invalid-parameter")
    assert any(named in error["location"] for error in document["errors"])
    assert named in document["detail"]


def test_the_answer_to_thousands_of_wrong_parameters_is_short(client: TestClient) -> None:
    query = "&".join(f"a{number}" for number in range(2000))
    document = assert_problem(
        client.post(f"/segment?{query}", content=b"x", headers=PNG), 422, "invalid-parameter"
    )
    assert len(document["errors"]) == 32


@pytest.mark.parametrize(
    ("content", "headers", "status", "name"),
    [
        (b"", PNG, 415, "unreadable-image"),
        (b"not an image", PNG, 415, "unreadable-image"),
        (b"\x89PNG\r\n\x1a\n", PNG, 415, "unreadable-image"),
        (b"{}", {"Content-Type": "application/json"}, 415, "unsupported-body"),
        (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported-body"),
        (b"x", {"Content-Type": "text/plain"}, 415, "unsupported-body"),
        (b"x", {"Content-Type": "\xff\xfe/;;;="}, 415, "unsupported-body"),
        (
            gzip.compress(b"x", mtime=0),
            {**PNG, "Content-Encoding": "gzip"},
            415,
            "unsupported-body",
        ),
        (b"x", {"Content-Type": "multipart/form-data"}, 400, "malformed-request"),
        (b"x", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "malformed-request"),
        (b"", {"Content-Type": "multipart/form-data; boundary=b"}, 422, "invalid-parameter"),
        (
            b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--",
            {"Content-Type": "multipart/form-data; boundary=b"},
            422,
            "invalid-parameter",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nhalf',
            {"Content-Type": "multipart/form-data; boundary=b"},
            400,
            "malformed-request",
        ),
        (
            b"x",
            {"Content-Type": f"multipart/form-data; boundary={'b' * 500}"},
            400,
            "malformed-request",
        ),
    ],
)
def test_a_wrong_body_is_the_callers_fault(
    client: TestClient, content: bytes, headers: dict[str, str], status: int, name: str
) -> None:
    raw = [(key.encode("ascii"), value.encode("latin-1")) for key, value in headers.items()]
    assert_problem(client.post("/segment", content=content, headers=raw), status, name)


def test_a_truncated_image_is_refused(client: TestClient, he_png: bytes) -> None:
    response = client.post("/segment", content=he_png[: len(he_png) // 2], headers=PNG)
    assert_problem(response, 415, "unreadable-image")


def test_forms_hold_one_image_and_nothing_else(client: TestClient, he_png: bytes) -> None:
    missing = client.post("/segment", files={"file": ("x.png", he_png)})
    assert "'file'" in assert_problem(missing, 422, "invalid-parameter")["detail"]
    two = client.post("/segment", files=[("image", he_png), ("image", he_png)])
    assert "two fields" in assert_problem(two, 422, "invalid-parameter")["detail"]
    extra = client.post("/segment", files={"image": he_png}, data={"threshold": "0.7"})
    document = assert_problem(extra, 422, "invalid-parameter")
    assert "query parameters" in document["detail"]
    assert document["errors"][0]["location"] == ["body", "threshold"]


def test_an_image_over_the_pixel_bound_is_not_decoded(client: TestClient) -> None:
    # 2000 x 2000 white pixels are a few kB of PNG: the body passes, the header does not.
    bomb = cv2.imencode(".png", np.full((2000, 2000), 255, np.uint8))[1].tobytes()
    assert len(bomb) < 20_000
    assert_problem(client.post("/segment", content=bomb, headers=PNG), 413, "image-too-large")


def test_an_image_too_small_is_refused(client: TestClient) -> None:
    speck = cv2.imencode(".png", np.full((5, 7, 3), 255, np.uint8))[1].tobytes()
    assert_problem(client.post("/segment", content=speck, headers=PNG), 422, "image-too-small")


def test_a_body_over_the_bound_is_refused(client: TestClient) -> None:
    assert_problem(
        client.post("/segment", content=bytes(3_500_001), headers=PNG), 413, "body-too-large"
    )

    def stream() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(100_000)

    streamed = client.post("/segment", content=stream(), headers=PNG)
    assert "content-length" not in streamed.request.headers
    assert_problem(streamed, 413, "body-too-large")


def test_an_unknown_model_is_not_found(client: TestClient, he_png: bytes) -> None:
    response = client.post("/segment?model=other", content=he_png, headers=PNG)
    assert "tiny" in assert_problem(response, 404, "unknown-model")["detail"]


def test_nothing_acceptable(client: TestClient, he_png: bytes) -> None:
    response = client.post("/segment", content=he_png, headers={**PNG, "Accept": "text/html"})
    assert_problem(response, 406, "not-acceptable")
    assert response.headers["vary"] == "Accept"


def test_the_frameworks_errors_are_problems_too(client: TestClient) -> None:
    assert_problem(client.get("/nowhere"), 404, "not-found")
    response = client.get("/segment")
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_every_type_has_its_page(client: TestClient) -> None:
    listed = client.get("/problems").json()
    assert [item["type"] for item in listed] == [problem.uri for problem in PROBLEM_TYPES]
    for item in listed:
        assert client.get(item["type"]).json() == item
    assert_problem(client.get("/problems/none"), 404, "unknown-problem")


def test_a_failure_of_ours_does_not_show_its_message(api_settings: Settings) -> None:
    app: FastAPI = create_app(api_settings)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the password is hunter2")

    @app.get("/contract")
    async def contract() -> None:
        raise errors.ModelContractError("/secret/path is broken")

    with TestClient(app, raise_server_exceptions=False) as opened:
        for path, secret in (("/broken", "hunter2"), ("/contract", "/secret")):
            response = opened.get(path, headers={"X-Request-ID": "find-me"})
            document = assert_problem(response, 500, "internal-error")
            assert document["instance"] == "find-me"
            assert secret not in response.text
