"""Swapping versions over HTTP, under load."""

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from service.api import schemas
from service.app import create_app
from service.settings import Settings


@pytest.fixture
def root(tiny_models_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_models_dir, tmp_path / "models")


@pytest.fixture
def settings(root: Path) -> Settings:
    return Settings(
        models_dir=root,
        default_model="tiny",
        provider="cpu",
        threads=1,
        max_waiting=64,
        load_versions="active",
        admin_routes=True,
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened


def activate(client: TestClient, version: str, name: str = "tiny") -> Any:
    return client.post(f"/models/{name}/versions/{version}/activate")


def test_no_request_fails_or_mixes_models_while_versions_swap(
    client: TestClient, he_pixels: NDArray[np.uint8]
) -> None:
    small_png = cv2.imencode(".png", he_pixels[:64, :64, ::-1])[1].tobytes()
    digests = {}
    for version in ("1.0.0", "1.1.0"):
        assert activate(client, version).status_code == 200
        digests[version] = client.get("/models/tiny").json()["digest"]
    assert len(set(digests.values())) == 2
    done = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not done.is_set():
            assert client.post("/models/tiny/rollback").status_code == 200
            swaps += 1

    def segment(_: int) -> dict[str, Any]:
        response = client.post("/segment", files={"image": small_png})
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    with ThreadPoolExecutor(5) as threads:
        swapping = threads.submit(swap)
        answers = list(threads.map(segment, range(200)))
        done.set()
        swapping.result()
    versions = Counter(answer["model"]["version"] for answer in answers)
    assert set(versions) == {"1.0.0", "1.1.0"}, versions
    assert swaps > 2
    for answer in answers:
        assert answer["model"]["digest"] == digests[answer["model"]["version"]]


def test_activation_and_rollback_tell_what_runs(client: TestClient) -> None:
    body = schemas.ActivationAnswer.model_validate(activate(client, "1.0.0").json())
    assert (body.version, body.previous, body.persisted) == ("1.0.0", "1.1.0", True)
    assert (body.provider, body.precision) == ("CPUExecutionProvider", "fp32")
    listed = client.get("/models").json()["models"]
    assert [item["version"] for item in listed if item["name"] == "tiny"] == ["1.0.0"]
    assert client.get("/health/ready").json()["canaries"][0]["model"] == "tiny:1.0.0"
    assert client.post("/models/tiny/rollback").json()["version"] == "1.1.0"


def test_what_cannot_become_active_is_a_problem(client: TestClient, root: Path) -> None:
    for path in ("/models/tiny/versions/9.9.9/activate", "/models/none/rollback"):
        response = client.post(path)
        assert response.status_code == 404
        assert response.json()["type"] == "/problems/unknown-model"
    nothing = client.post("/models/tiny/rollback")
    assert (nothing.status_code, nothing.json()["type"]) == (409, "/problems/nothing-to-roll-back")
    (root / "tiny" / "1.0.0" / "model.onnx").write_bytes(b"broken")
    refused = activate(client, "1.0.0")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/model-refused")
    assert "tiny/1.0.0/model.onnx" in refused.json()["detail"]
    assert str(root) not in refused.text
    too_long = activate(client, "1" * 65)
    assert (too_long.status_code, too_long.json()["type"]) == (422, "/problems/invalid-parameter")
    assert client.get("/models/tiny").json()["version"] == "1.1.0"


def test_the_routes_are_closed_unless_asked_for(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"admin_routes": False}))
    with TestClient(app) as closed:
        assert activate(closed, "1.0.0").status_code == 404
        assert closed.post("/models/tiny/rollback").status_code == 404
    assert not any("rollback" in path for path in app.openapi()["paths"])
    paths = create_app(settings).openapi()["paths"]
    answers = paths["/models/{name}/rollback"]["post"]["responses"]
    assert set(answers) == {"200", "401", "403", "404", "409", "422", "500", "503"}
