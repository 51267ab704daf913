"""The commands as people run them: a real process, a real socket, real files."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx2 as httpx
import numpy as np
import pytest


class Server:
    """A running `python -m service`."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", "0", "--threads", "1", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.start_up_line = self.process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)", self.start_up_line)
        if match is None:
            raise AssertionError(self.process.communicate(timeout=10))
        self.url, self.port = match.group(), int(match.group(1))

    def stop(self, signal_number: int = signal.SIGTERM) -> tuple[int, str]:
        """Return exit status and standard error after a signal."""
        self.process.send_signal(signal_number)
        _, stderr = self.process.communicate(timeout=15)
        return self.process.returncode, stderr


@pytest.fixture(scope="module")
def server(serving_environment: dict[str, str], tiny_models_dir: Path) -> Iterator[Server]:
    """A server over a real socket, without the training packages."""
    running = Server(
        serving_environment, "--models-dir", str(tiny_models_dir), "--max-body-bytes", "2000000"
    )
    yield running
    if running.process.poll() is None:
        running.stop()


def test_the_blocker_blocks(serving_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import scipy"], env=serving_environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert "not part of the serving environment" in done.stderr


def test_it_serves_a_real_image_without_the_training_packages(
    server: Server, test_data: Path
) -> None:
    assert server.start_up_line.startswith("Karyon is ready on http://127.0.0.1:")
    assert f"{server.url}/docs" in server.start_up_line
    image = (test_data / "images" / "tnbc_p08_2.png").read_bytes()
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/health/ready").json()["status"] == "ready"
        response = client.post("/segment", files={"image": ("tile.png", image)})
        assert response.status_code == 200
        assert response.json()["count"] > 20
        assert "server" not in response.headers
        mask = client.post("/segment", content=image, headers={
            "Content-Type": "image/png", "Accept": "image/png",
        })  # fmt: skip
        picture = cv2.imdecode(np.frombuffer(mask.content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert picture is not None
        assert picture.shape == (512, 512)
        assert client.get("/docs").status_code == 200


def exchange(port: int, request: bytes) -> bytes:
    """Send raw bytes and return all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        received = bytearray()
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


def sends(connection: socket.socket, pieces: list[bytes]) -> bool:
    """Send one piece after the other; tell whether all of them could be sent."""
    try:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.005)
    except ConnectionError:
        return False
    return True


def test_endless_headers_are_refused(server: Server) -> None:
    head = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 40_000
    answer = exchange(server.port, head)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"/problems/headers-too-large" in answer
    # One that comes whole, in a single piece, is no smaller; nor is a long line.
    assert exchange(server.port, head + b"\r\n\r\n").startswith(b"HTTP/1.1 431 ")
    line = b"GET /health/live?" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    assert exchange(server.port, line).startswith(b"HTTP/1.1 431 ")
    fits = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: " + b"a" * 20_000
    assert exchange(server.port, fits + b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("endless", [b"3\r\nabc\r\n0\r\nX-Long: ", b"3;extension="])
def test_a_chunked_body_cannot_bring_endless_headers_after_all(
    server: Server, endless: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + endless
        )
        # 12 MB; the connection breaks long before they are all sent.
        assert not sends(connection, [b"a" * 65_536] * 200)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"BREW /segment HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /models HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS, spoken to a server that has none
    ],
)
def test_what_is_no_http_is_a_problem_too(server: Server, request_bytes: bytes) -> None:
    head, _, body = exchange(server.port, request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["type"] == "/problems/malformed-request"


def test_many_requests_at_once_are_no_long_one(server: Server) -> None:
    one = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Pad: " + b"a" * 2_000 + b"\r\n\r\n"
    last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
    assert exchange(server.port, one * 40 + last).count(b"HTTP/1.1 200 ") == 41


def test_head_is_get_without_the_body(server: Server) -> None:
    def asked(method: str, path: str) -> tuple[bytes, bytes]:
        request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        head, _, body = exchange(server.port, request.encode()).partition(b"\r\n\r\n")
        changing = (b"date:", b"x-request-id:")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(changing)]
        return b"\n".join(lines), body

    for path in ("/health/live", "/health/startup", "/models", "/docs", "/problems", "/nowhere"):
        head, body = asked("HEAD", path)
        wanted, full = asked("GET", path)
        assert (head, body) == (wanted, b""), path
        assert f"content-length: {len(full)}".encode() in head.lower()
    assert asked("HEAD", "/segment")[0].startswith(b"HTTP/1.1 405 ")
    counted = httpx.get(f"{server.url}/metrics").text
    assert re.search(r'requests_total{[^}]*method="HEAD"[^}]*route="/models"', counted), counted


def test_headers_that_do_not_come_are_not_waited_for(
    serving_environment: dict[str, str], tiny_models_dir: Path
) -> None:
    impatient = {**serving_environment, "KARYON_KEEP_ALIVE_TIMEOUT_S": "1"}
    running = Server(impatient, "--models-dir", str(tiny_models_dir))
    begun = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
    for sent in (b"", begun, begun + b"\r\n" + begun):
        # Returns when the server closes, and fails after ten seconds.
        received = exchange(running.port, sent)
        assert received.count(b"HTTP/1.1 200 ") == sent.count(b"\r\n\r\n")
    assert running.stop()[0] == 0


def test_a_declared_body_over_the_bound_is_answered_before_it_is_sent(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_clients_that_go_away_leave_nothing_behind(server: Server, test_data: Path) -> None:
    image = (test_data / "images" / "nucls_test_1.png").read_bytes()
    head = (
        b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        b"Content-Length: %d\r\n\r\n" % len(image)
    )
    for sent in (head, head + image[:1000], head + image):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(sent)
    with httpx.Client(base_url=server.url) as client:
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            metrics = client.get("/metrics").text
            if "karyon_queue_waiting 0.0" in metrics and "karyon_queue_working 0.0" in metrics:
                break
            time.sleep(0.05)
        assert "karyon_queue_waiting 0.0" in metrics
        assert 'route="/segment",status="499"' in metrics
        assert 'status="500"' not in metrics
        assert client.post("/segment", files={"image": image}).status_code == 200


def test_sigterm_ends_it_cleanly_and_soon(
    serving_environment: dict[str, str], tiny_models_dir: Path
) -> None:
    running = Server(
        serving_environment, "--models-dir", str(tiny_models_dir), "--log-format", "json"
    )
    with httpx.Client(base_url=running.url) as client:
        # An idle keep-alive connection must not hold the process.
        client.get("/models/Jane-Doe", headers={"X-Request-ID": "order-17"})
        start_s = time.monotonic()
        status, stderr = running.stop()
    assert status == 0, stderr
    assert time.monotonic() - start_s < 15  # it would be kept for 75 s
    lines = [json.loads(line) for line in stderr.splitlines()]
    models = [line["model"] for line in lines if line["event"] == "model ready"]
    assert models == ["tiny:1.1.0", "tiny:1.0.0", "tiny_onechannel:1.0.0"]
    requests = [line for line in lines if line["event"] != "model ready"]
    assert [(line["event"], line["request_id"], line["status"]) for line in requests] == [
        ("request", "order-17", 404)
    ]
    assert "Jane" not in stderr


def test_sigterm_under_load_answers_every_accepted_request(
    serving_environment: dict[str, str], tiny_models_dir: Path, test_data: Path
) -> None:
    patient = {**serving_environment, "KARYON_SHUTDOWN_TIMEOUT_S": "100"}
    running = Server(patient, "--models-dir", str(tiny_models_dir), "--workers", "1")
    tile = cv2.imread(str(test_data / "images" / "tnbc_p08_2.png"))
    assert tile is not None
    image = cv2.imencode(".jpg", np.tile(tile, (3, 3, 1)))[1].tobytes()
    head = (
        b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(image)
    )
    connections = [socket.create_connection(("127.0.0.1", running.port), 60) for _ in range(6)]
    for connection in connections:
        connection.settimeout(60)
        connection.sendall(head + image)
    in_queue = re.compile(r"^karyon_queue_(?:waiting|working) (\d+)", re.MULTILINE)
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        metrics = httpx.get(f"{running.url}/metrics").text
        if sum(map(int, in_queue.findall(metrics))) == len(connections):
            break
    # Five of six at least have not been answered yet.
    running.process.send_signal(signal.SIGTERM)
    for connection in connections:
        with connection, connection.makefile("rb") as stream:
            assert stream.read().startswith(b"HTTP/1.1 200 ")
    running.process.communicate(timeout=60)
    assert running.process.returncode == 0


def test_while_draining_it_is_not_ready_but_still_answers(
    serving_environment: dict[str, str], tiny_models_dir: Path
) -> None:
    running = Server(
        serving_environment, "--models-dir", str(tiny_models_dir), "--drain-delay-s", "1.5"
    )
    running.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert httpx.get(f"{running.url}/health/ready").status_code == 503
    assert httpx.get(f"{running.url}/health/live").status_code == 200
    running.process.communicate(timeout=10)
    assert running.process.returncode == 0
