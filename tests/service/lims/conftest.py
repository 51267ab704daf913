"""The example receivers, as their users run them."""

import contextlib
import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from service.settings import Settings


def load_example(repository: Path, name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        f"karyon_example_{name}", repository / "examples" / f"{name}.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def receiver(repository: Path) -> ModuleType:
    """The module examples/receiver.py."""
    return load_example(repository, "receiver")


@pytest.fixture(scope="session")
def senaite(repository: Path) -> ModuleType:
    """The module examples/senaite.py."""
    return load_example(repository, "senaite")


@pytest.fixture
def serve() -> Iterator[Callable[[Any], int]]:
    """Runs a socketserver until the test ends; returns its port."""
    with contextlib.ExitStack() as stack:

        def start(server: Any) -> int:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            port: int = server.server_address[1]
            return port

        yield start


@pytest.fixture(scope="session")
def api_settings(tiny_models_dir: Path) -> Settings:
    """Settings of an application with the tiny model."""
    return Settings(
        models_dir=tiny_models_dir,
        default_model="tiny",
        load_versions="active",
        provider="cpu",
        threads=1,
        workers=2,
    )


@pytest.fixture(scope="session")
def he_png(test_data: Path) -> bytes:
    """A real 256x256 H&E tile as PNG (NuCLS, CC0)."""
    return (test_data / "images" / "nucls_test_1.png").read_bytes()
