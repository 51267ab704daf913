"""The Dockerfile and its health check; `make image-check` builds and starts the image itself."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ready = self.path == "/health/ready" and self.server.server_name != "draining"
        self.send_response(200 if ready else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def health_server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def check(repository: Path, port: int) -> int:
    environment = {**os.environ, "KARYON_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
    command = [sys.executable, "-I", str(repository / "deploy" / "healthcheck.py")]
    return subprocess.run(command, env=environment, check=False, timeout=60).returncode


def test_the_health_check_follows_readiness(repository: Path, health_server: HTTPServer) -> None:
    assert check(repository, health_server.server_port) == 0
    health_server.server_name = "draining"
    assert check(repository, health_server.server_port) == 1


def test_the_health_check_fails_where_nobody_listens(
    repository: Path, health_server: HTTPServer
) -> None:
    port = health_server.server_port
    health_server.server_close()
    assert check(repository, port) == 1


def test_the_image_is_made_of_files_that_the_build_may_see(repository: Path) -> None:
    seen = [
        line.removeprefix("!")
        for line in (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    ]
    dockerfile = (repository / "Dockerfile").read_text(encoding="utf-8")
    for runtime in ("cpu", "gpu"):
        sources = [
            source.replace("${RUNTIME}", runtime)
            for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
            for source in line.split()
        ]
        assert len(sources) == 5
        for source in sources:
            assert (repository / source).exists(), source
            assert any(Path(source).match(pattern) for pattern in seen), source


def test_the_image_runs_as_a_fixed_user_in_exec_form(repository: Path) -> None:
    dockerfile = (repository / "Dockerfile").read_text(encoding="utf-8")
    final = dockerfile.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert re.search(r"^ENTRYPOINT \[", final, re.MULTILINE)
    assert "--require-hashes" in dockerfile
    assert "pip install" not in final
