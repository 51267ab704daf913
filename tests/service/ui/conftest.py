"""Running services with the tiny model, and the app's script against them."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit", reason="needs the extra `ui`")

import streamlit as st
from streamlit.testing.v1 import AppTest


class Process:
    """A running `python -m service serve` on a free port."""

    def __init__(self, folder: Path, models_dir: Path, repository: Path, **settings: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("KARYON_")}
        self.environment = {
            **kept,
            "PYTHONPATH": str(repository),
            "KARYON_DATA_DIR": str(folder),
            **{f"KARYON_{name.upper()}": value for name, value in settings.items()},
        }
        command = ["serve", "--port", "0", "--threads", "1", "--models-dir", str(models_dir)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", *command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        match = re.search(r"http://127\.0\.0\.1:\d+", self.process.stdout.readline())
        assert match is not None, "the service did not start"
        self.url = match.group()

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=15)


@pytest.fixture(scope="session")
def running_service(
    tmp_path_factory: pytest.TempPathFactory, tiny_models_dir: Path, repository: Path
) -> Iterator[Process]:
    """A service that anybody may use."""
    folder = tmp_path_factory.mktemp("ui-data")
    running = Process(folder, tiny_models_dir, repository, default_model="tiny")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def guarded_service(
    tmp_path_factory: pytest.TempPathFactory, tiny_models_dir: Path, repository: Path
) -> Iterator[tuple[Process, str]]:
    """A service that asks for an API key, and a key."""
    folder = tmp_path_factory.mktemp("ui-guarded")
    running = Process(folder, tiny_models_dir, repository, default_model="tiny", auth="required")
    scopes = "segment,results,review"
    made = subprocess.run(
        [sys.executable, "-m", "service", "keys", "create", "--name", "ui", "--scopes", scopes],
        env=running.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    yield running, made.stdout.strip()
    running.stop()


@pytest.fixture
def app(
    running_service: Process, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Start the app's script; it runs once, with a sample chosen unless told otherwise."""
    # All of Streamlit's tests are one session, which would know the answers of the test before.
    st.cache_data.clear()

    def start(*, url: str | None = None, sample: str | None = "256") -> AppTest:
        monkeypatch.setenv("KARYON_URL", url or running_service.url)
        test = AppTest.from_file(str(repository / "service/ui/app.py"), default_timeout=60)
        test.run()
        if sample is not None:
            select = test.selectbox(key="sample")
            select.select(next(title for title in select.options if sample in title)).run()
        return test

    return start
