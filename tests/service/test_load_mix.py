"""The load test itself: its mix gets the answers it expects, and it does measure open loop.

Locust patches the standard library when it is imported, so it runs in a process of its own.
"""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Each task once, and what became of it.
EACH_TASK_ONCE = """
import json, sys
from gevent import monkey
monkey.patch_all()
sys.path.insert(0, sys.argv[1])
import arrivals, locustfile
from locust.env import Environment
user = locustfile.Laboratory(Environment(host=sys.argv[2], user_classes=[locustfile.Laboratory]))
user.on_start()
tasks = sorted({task.__name__: task for task in user.tasks}.items())
for _, task in tasks:
    task(user)
left = not arrivals._UNDER_WAY.join(timeout=120)
samples = {sample.name: sample.outcome for sample in arrivals.SAMPLES}
print(arrivals.summary(arrivals.SAMPLES), file=sys.stderr)
report = {"tasks": len(tasks), "weights": len(user.tasks), "left": left, "samples": samples}
cases = [(200, "0"), (503, "3"), (429, "1"), (503, None), (504, None), (500, None), (0, None)]
report["judged"] = [arrivals.judge(status, 200, retry_after) for status, retry_after in cases]
print(json.dumps(report))
"""

# A server that answers nothing for a second, then everything at once.
STALLING_SERVER = """
import socket, threading, time
listener = socket.create_server(("127.0.0.1", 0), backlog=100)
print(listener.getsockname()[1], flush=True)
first = []
def answer(connection):
    while data := connection.recv(65536):
        first.append(time.monotonic()) if not first else None
        time.sleep(max(0.0, first[0] + 1.0 - time.monotonic()))
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
while True:
    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
"""

STEADY_SOURCE = """
from locust import task
from arrivals import ArrivalUser

class Source(ArrivalUser):
    @task
    def ask(self):
        self.send("ask", "/")
"""


@pytest.fixture(scope="module")
def load_folder(repository: Path) -> Path:
    return repository / "tests" / "load"


@pytest.fixture
def service_url(tiny_models_dir: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "service", "--port", "0", "--log-level", "warning"]
    with subprocess.Popen(
        [*command, "--models-dir", str(tiny_models_dir)], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        found = re.search(r"http://[^: ]+:\d+", server.stdout.readline())
        assert found, "the service did not start"
        yield found.group()
        server.terminate()


def test_no_task_gets_an_answer_that_it_does_not_expect(
    load_folder: Path, service_url: str
) -> None:
    command = [sys.executable, "-c", EACH_TASK_ONCE, str(load_folder), service_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["weights"] == 100
    assert report["left"] is False
    assert len(report["samples"]) == report["tasks"] == 11
    assert report["judged"] == [
        *["answered", "refused", "refused"],
        # A refusal that does not say when to come back leaves the caller alone with it.
        *["error", "too late", "error", "error"],
    ]
    # The urgent one has ten seconds, which a busy machine may not have.
    assert report["samples"].pop("stat") in {"answered", "too late"}
    assert set(report["samples"].values()) == {"answered"}, done.stderr


@pytest.fixture
def stalling_port() -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", STALLING_SERVER], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.terminate()


def test_a_stall_does_not_slow_the_arrivals_and_counts_in_full(
    load_folder: Path, stalling_port: int, tmp_path: Path
) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        f"import sys; sys.path.insert(0, {str(load_folder)!r})\n{STEADY_SOURCE}", encoding="utf-8"
    )
    samples = tmp_path / "samples.csv"
    command = [sys.executable, "-m", "locust", "-f", str(source), "--headless", "-t", "5s"]
    # The five seconds include the time that Locust takes to start.
    command += ["-u", "1", "--rate-per-user", "20", "--spacing", "constant"]
    command += ["--host", f"http://127.0.0.1:{stalling_port}", "--samples", str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert samples.exists(), done.stderr
    with samples.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["scheduled_s"]))
    due_s = [float(row["scheduled_s"]) - float(rows[0]["scheduled_s"]) for row in rows]
    # All that were due within the stall were sent: a closed loop would have sent one.
    assert sum(due < 0.9 for due in due_s) > 10
    # Equally spaced: the schedule is independent of the answers.
    assert due_s[:11] == pytest.approx([number / 20 for number in range(11)], abs=1e-3)
    # Whoever came first waited for the whole stall.
    assert max(float(row["latency_ms"]) for row in rows) >= 990
    assert all(row["outcome"] == "answered" for row in rows)
