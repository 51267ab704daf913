"""The example receivers, as their users run them."""

import base64
import contextlib
import importlib.util
import threading
import time
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


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], bool], str], None]:
    """Waits until something is so, for at most a minute."""

    def wait(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60.0
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.05)

    return wait


@pytest.fixture(scope="session")
def webhook_secret() -> str:
    """The secret of the webhook among `destinations`."""
    return "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture(scope="session")
def destinations(webhook_secret: str) -> Callable[..., list[dict[str, Any]]]:
    """One destination of each kind, by the ports of their receivers."""

    def make(http_port: int, mllp_port: int, senaite_port: int) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{http_port}"
        members: list[dict[str, Any]] = [
            {"kind": "webhook", "url": f"{url}/webhook", "secrets": [webhook_secret]},
            {"kind": "fhir", "url": f"{url}/fhir"},
            {"kind": "mllp", "host": "127.0.0.1", "port": mllp_port},
            {
                "kind": "senaite",
                "url": f"http://127.0.0.1:{senaite_port}/senaite",
                "user": "karyon",
                "password": "secret",
                "count_keyword": "NUC",
            },
        ]
        return [{"name": item["kind"], "allow_private": True, **item} for item in members]

    return make
