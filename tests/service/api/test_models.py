import hashlib
from pathlib import Path

from fastapi.testclient import TestClient

from service.api import schemas


def test_models_are_listed(client: TestClient, tiny_models_dir: Path) -> None:
    body = schemas.ModelList.model_validate(client.get("/models").json())
    assert body.default == "tiny"
    assert [model.name for model in body.models if model.default] == ["tiny"]
    by_name = {(model.name, model.version): model for model in body.models}
    path = tiny_models_dir / "tiny" / "1.1.0" / "model.onnx"
    newest = by_name["tiny", "1.1.0"]
    assert newest.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (newest.provider, newest.precision) == ("CPUExecutionProvider", "fp32")
    assert newest.active
    assert not by_name["tiny", "1.0.0"].active
    assert ("tiny_onechannel", "1.0.0") in by_name


def test_a_model_shows_its_contract(client: TestClient) -> None:
    response = client.get("/models/tiny_onechannel")
    detail = schemas.ModelDetail.model_validate_json(response.content)
    assert detail.contract.output.channels == ("nucleus",)
    assert not detail.default
    assert client.get("/models/tiny:1.0.0").json()["version"] == "1.0.0"


def test_an_unknown_model_is_a_problem(client: TestClient) -> None:
    response = client.get("/models/nobody")
    assert response.status_code == 404
    assert response.json()["type"] == "/problems/unknown-model"
    assert "tiny" in response.json()["detail"]
