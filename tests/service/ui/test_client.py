"""What people read when something between them and the service goes wrong."""

import http.server
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from service.ui.client import KaryonClient, ServiceError


class _Between(http.server.BaseHTTPRequestHandler):
    """A proxy that answers by itself, in HTML; the status is the first part of the path."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.asked.append(self.path)
        body = b"<html>Welcome</html>"
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Between) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (200, "log in"),
        (302, "log in"),
        (401, "log in"),
        (403, "log in"),
        (404, "KARYON_URL"),
        (413, "smaller"),
        (429, "try again"),
        (502, "try again"),
        (503, "try again"),
        (504, "smaller"),
    ],
)
def test_what_a_proxy_answers_is_no_result_and_has_a_remedy(
    proxy: str, status: int, remedy: str
) -> None:
    client = KaryonClient(f"{proxy}/{status}")
    for ask in (
        lambda: client.segment(b"image", "a.png", {}),
        lambda: client.result("r1"),
        client.models,
    ):
        with pytest.raises(ServiceError, match="none of Karyon's") as refused:
            ask()
        assert remedy in refused.value.remedy
