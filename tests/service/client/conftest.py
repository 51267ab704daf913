"""A real server on a real socket, in a thread of the tests' process."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from service.app import create_app
from service.settings import Settings


@dataclass(frozen=True)
class Running:
    """A running service: its address, and the state of its application."""

    address: str
    state: Any


Serve = Callable[[Settings], contextlib.AbstractContextManager[Running]]


@contextlib.contextmanager
def _serve(settings: Settings) -> Iterator[Running]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        until_s = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive(), "the server ended at start-up"
            assert time.monotonic() < until_s, "the server did not start"
            time.sleep(0.02)
        host, port = listener.getsockname()
        yield Running(f"http://{host}:{port}", server.lifespan.state["service"])
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="session")
def serve() -> Serve:
    """`with serve(settings) as running:`."""
    return _serve


@pytest.fixture(scope="module")
def settings(tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The tiny model, with records of its own."""
    return Settings(
        models_dir=tiny_models_dir,
        default_model="tiny",
        provider="cpu",
        threads=1,
        workers=1,
        max_waiting=4,
        data_dir=tmp_path_factory.mktemp("client-data"),
    )


@pytest.fixture(scope="module")
def running(serve: Serve, settings: Settings) -> Iterator[Running]:
    """A server of this module."""
    with serve(settings) as opened:
        yield opened
