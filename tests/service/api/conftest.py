"""The application with the tiny real model, and a client that speaks ASGI to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings


@pytest.fixture(scope="session")
def api_settings(tiny_models_dir: Path) -> Settings:
    """Settings of the test application: small bounds, so that tests can pass them."""
    return Settings(
        models_dir=tiny_models_dir,
        default_model="tiny",
        provider="cpu",
        threads=1,
        max_body_bytes=3_500_000,
        max_pixels=1_000_000,
        workers=2,
        max_waiting=4,
        upload_timeout_s=5.0,
    )


@pytest.fixture(scope="session")
def api_app(api_settings: Settings) -> FastAPI:
    """One application for the whole session."""
    return create_app(api_settings)


@pytest.fixture(scope="session")
def client(api_app: FastAPI) -> Iterator[TestClient]:
    """A client in an opened lifespan; exceptions become what a user would see."""
    with TestClient(api_app, raise_server_exceptions=False, follow_redirects=False) as opened:
        yield opened


@pytest.fixture(scope="session")
def he_png(test_data: Path) -> bytes:
    """A real 256x256 H&E tile as PNG (NuCLS, CC0)."""
    return (test_data / "images" / "nucls_test_1.png").read_bytes()
