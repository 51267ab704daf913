"""The commands as people run them: a real process, a real socket, real files."""

import json
import os
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

# The serving environment has none of these; in the tests' environment they are made unimportable.
FORBIDDEN = (
    "tensorflow", "keras", "tf2onnx", "scipy", "matplotlib", "jax", "torch",
    "imagecodecs", "skimage", "PIL", "httpx", "httpx2",
)  # fmt: skip
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ImportError(name + " is not part of the serving environment")
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="session")
def serving_environment(
    tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> dict[str, str]:
    """Environment variables of a process in which the training packages cannot be imported."""
    folder = tmp_path_factory.mktemp("blocker")
    (folder / "sitecustomize.py").write_text(BLOCKER, "utf-8")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KARYON_", "COV_"))}
    path = os.pathsep.join([str(folder), str(repository)])
    return {**kept, "PYTHONPATH": path, "KARYON_DATA_DIR": str(folder / "karyon-data")}


def karyon(
    environment: dict[str, str], *arguments: str, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


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


def test_a_bad_start_says_why_in_a_sentence(
    serving_environment: dict[str, str], tmp_path: Path
) -> None:
    done = karyon(serving_environment, "--models-dir", str(tmp_path), "--port", "0")
    assert done.returncode == 3
    assert done.stderr.startswith("Karyon cannot start: no model in")
    assert "Traceback" not in done.stderr
    wrong = karyon({**serving_environment, "KARYON_PROT": "1"})
    assert wrong.returncode == 2
    assert "KARYON_PORT" in wrong.stderr
    wrong = karyon(serving_environment, "--port", "99999")
    assert wrong.returncode == 2
    assert "port" in wrong.stderr


def test_segment_writes_its_files_and_lists_failures(
    serving_environment: dict[str, str], tiny_models_dir: Path, test_data: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    images = test_data / "images"
    good = [images / "nucls_test_1.png", images / "nucls_test_2.png"]
    out = tmp_path / "new" / "results"
    done = karyon(
        serving_environment, "segment", str(good[0]), str(bad), str(tmp_path / "missing.png"),
        str(good[1]), "--out", str(out), "--models-dir", str(tiny_models_dir), "--mpp", "0.25",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "2 of 4 images failed" in done.stderr
    assert f"FAILED {bad}" in done.stderr
    assert "missing.png" in done.stderr
    assert len(done.stdout.splitlines()) == 2
    for path in good:
        document = json.loads((out / f"{path.stem}.json").read_text("utf-8"))
        labels = cv2.imread(str(out / f"{path.stem}_labels.png"), cv2.IMREAD_UNCHANGED)
        assert labels is not None
        assert labels.max() == document["count"] == len(document["nuclei"])
        assert document["image"]["mpp_source"] == "parameter"
        mask = cv2.imread(str(out / f"{path.stem}_mask.png"), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        assert ((mask > 0) == (labels > 0)).all()
        assert (out / f"{path.stem}_overlay.png").stat().st_size > 1000
    assert sorted(path.suffix for path in out.iterdir()) == [".json"] * 2 + [".png"] * 6


def test_segment_refuses_to_overwrite_one_result_with_another(
    serving_environment: dict[str, str], tiny_models_dir: Path, test_data: Path, tmp_path: Path
) -> None:
    image = test_data / "images" / "nucls_test_1.png"
    twin = tmp_path / image.name
    twin.write_bytes(image.read_bytes())
    done = karyon(
        serving_environment, "segment", str(image), str(twin), "--out", str(tmp_path / "out"),
        "--models-dir", str(tiny_models_dir),
    )  # fmt: skip
    assert done.returncode == 2
    assert "nucls_test_1" in done.stderr
    assert not (tmp_path / "out").exists()


def test_segment_refuses_to_overwrite_an_image_with_a_result(
    serving_environment: dict[str, str], tiny_models_dir: Path, test_data: Path, tmp_path: Path
) -> None:
    image = (test_data / "images" / "nucls_test_1.png").read_bytes()
    annotation = b"a mask that somebody drew by hand"
    (tmp_path / "a.png").write_bytes(image)
    (tmp_path / "a_mask.png").write_bytes(annotation)
    done = karyon(
        serving_environment, "segment", str(tmp_path / "a.png"), str(tmp_path / "a_mask.png"),
        "--out", str(tmp_path / "." / "sub" / ".."), "--models-dir", str(tiny_models_dir),
    )  # fmt: skip
    assert done.returncode == 2
    assert "a_mask.png is an image to segment" in done.stderr
    assert (tmp_path / "a_mask.png").read_bytes() == annotation


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", "2"], "Option threshold: Input should be less than 1"),
        (["--out", "{images}/nucls_test_1.png"], "Cannot start: [Errno"),
        (["--model", "other"], "Cannot start: no model 'other'"),
    ],
)
def test_segment_says_what_is_wrong_in_a_line(
    serving_environment: dict[str, str],
    tiny_models_dir: Path,
    test_data: Path,
    tmp_path: Path,
    options: list[str],
    words: str,
) -> None:
    images = test_data / "images"
    done = karyon(
        serving_environment, "segment", str(images / "nucls_test_1.png"), "--out",
        str(tmp_path / "out"), "--models-dir", str(tiny_models_dir),
        *(option.format(images=images) for option in options),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(words)
    assert len(done.stderr.splitlines()) == 1


def test_counts_go_where_standard_output_goes_also_from_a_terminal(
    serving_environment: dict[str, str], tiny_models_dir: Path, test_data: Path, tmp_path: Path
) -> None:
    """`segment ... > counts.tsv`: the progress bar on the terminal must not swallow the counts."""
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    image = test_data / "images" / "nucls_test_1.png"
    controller, terminal = pty.openpty()
    counts = tmp_path / "counts.tsv"
    with counts.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [
                sys.executable, "-m", "service", "segment", str(image), "--out",
                str(tmp_path / "out"), "--models-dir", str(tiny_models_dir),
            ],
            env={**serving_environment, "TERM": "xterm"}, stdout=file, stderr=terminal,
            timeout=60, check=False,
        )  # fmt: skip
    os.close(terminal)
    os.close(controller)
    assert done.returncode == 0
    assert re.fullmatch(r"\S+nucls_test_1\.png\t\d+ nuclei\n", counts.read_text("utf-8"))


def test_openapi_prints_the_document(serving_environment: dict[str, str]) -> None:
    done = karyon(serving_environment, "openapi")
    assert done.returncode == 0
    assert json.loads(done.stdout)["info"]["title"] == "Karyon"


def test_help_teaches(serving_environment: dict[str, str]) -> None:
    shown = karyon(serving_environment, "--help").stdout
    for word in ("serve", "segment", "openapi", "KARYON_"):
        assert word in shown
    assert "--port" in karyon(serving_environment, "serve", "--help").stdout
