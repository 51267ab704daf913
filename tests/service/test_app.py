"""Putting the application together: lifespan, refusals to start, independence."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.api.lifecycle import Phase
from service.app import create_app
from service.errors import KaryonError, ModelContractError, ProviderError, UnknownModelError
from service.settings import Settings


def settings_for(models_dir: Path, **changes: object) -> Settings:
    return Settings.model_validate(
        {"models_dir": models_dir, "provider": "cpu", "threads": 1, **changes}
    )


def phase_of(app: FastAPI) -> Phase:
    phase: Phase = app.state.lifecycle.phase
    return phase


def test_creating_opens_nothing() -> None:
    app = create_app(settings_for(Path("nowhere")))
    assert app.openapi()["info"]["title"] == "Karyon"
    assert phase_of(app) is Phase.STARTING


def test_the_lifespan_opens_and_closes(tiny_models_dir: Path) -> None:
    app = create_app(settings_for(tiny_models_dir))
    with TestClient(app) as client:
        assert phase_of(app) is Phase.READY
        assert client.get("/health/ready").status_code == 200
        metrics = client.get("/metrics").text
        assert 'karyon_model_info{digest="' in metrics
    assert phase_of(app) is Phase.DRAINING


def test_a_signal_during_start_up_is_not_forgotten(tiny_models_dir: Path) -> None:
    app = create_app(settings_for(tiny_models_dir))
    app.state.lifecycle.phase = Phase.DRAINING
    with TestClient(app) as client:
        assert client.get("/health/ready").status_code == 503


def refuse(settings: Settings, error: type[KaryonError]) -> str:
    """Start and return what the operator is told about why it does not."""
    app = create_app(settings)
    with pytest.raises(error), TestClient(app):
        pass
    reason = app.state.lifecycle.start_up_error
    assert isinstance(reason, str)
    assert phase_of(app) is Phase.STARTING
    return reason


def test_it_refuses_to_start_on_what_is_wrong(tiny_models_dir: Path, tmp_path: Path) -> None:
    assert "no model" in refuse(settings_for(tmp_path), ModelContractError)
    unknown = settings_for(tiny_models_dir, default_model="other")
    assert "other" in refuse(unknown, UnknownModelError)
    broken = tmp_path / "m" / "1.0.0" / "model.onnx"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not a model")
    refuse(settings_for(tmp_path), ModelContractError)


def test_a_missing_accelerator_is_not_replaced_in_silence(tiny_models_dir: Path) -> None:
    import onnxruntime  # noqa: PLC0415  only to know whether this machine has one

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed here")
    refuse(settings_for(tiny_models_dir, provider="cuda"), ProviderError)


def test_two_applications_share_nothing(tiny_models_dir: Path, test_data: Path) -> None:
    image = (test_data / "images" / "nucls_test_1.png").read_bytes()
    first = create_app(settings_for(tiny_models_dir))
    second = create_app(settings_for(tiny_models_dir, default_model="tiny_onechannel"))
    with TestClient(first) as one, TestClient(second) as two:
        assert one.post("/segment", files={"image": image}).json()["model"]["name"] == "tiny"
        assert "karyon_images_segmented_total{" not in two.get("/metrics").text
        assert two.get("/models").json()["default"] == "tiny_onechannel"
