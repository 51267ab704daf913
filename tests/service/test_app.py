"""Putting the application together: lifespan, refusals to start, independence."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.api.lifecycle import Phase
from service.app import create_app
from service.errors import (
    DatabaseError,
    KaryonError,
    ModelContractError,
    ProviderError,
    RecordsUnavailableError,
    UnknownModelError,
)
from service.records.database import Database
from service.server import KaryonServer, server_config
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


def test_it_says_that_it_is_ready_only_where_it_is(
    tiny_models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(server: uvicorn.Server, *_: object) -> None:
        server.started = True

    said: list[Phase] = []
    monkeypatch.setattr(uvicorn.Server, "startup", start)
    monkeypatch.setattr(
        KaryonServer, "_announce", lambda server: said.append(server._lifecycle.phase)
    )
    settings = settings_for(tiny_models_dir)
    for phase in (Phase.READY, Phase.DRAINING):
        app = create_app(settings)
        app.state.lifecycle.phase = phase  # as after a SIGTERM during start-up
        asyncio.run(KaryonServer(server_config(app, settings), app, settings).startup())
    assert said == [Phase.READY]


def test_records_that_cannot_be_written_refuse_to_start(
    tiny_models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def fail(_: Database) -> Iterator[None]:
        raise RecordsUnavailableError("The records cannot be reached now.")
        yield

    settings = settings_for(tiny_models_dir, data_dir=tmp_path)
    monkeypatch.setattr(Database, "writing", fail)
    assert "cannot be written to; check" in refuse(settings, DatabaseError)


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
