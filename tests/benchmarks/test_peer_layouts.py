"""A server is measured in all its layouts, against a small real one."""

import argparse
import sys
from pathlib import Path

import pytest

from benchmarks.peers import run
from benchmarks.peers.launch import Layout, request_bytes
from benchmarks.peers.processes import Server, free_port
from benchmarks.peers.run import measure

PROGRAM = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Count(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "12")
        self.end_headers()
        self.wfile.write(b'{"count": 3}')

    def log_message(self, *details):
        pass

if sys.argv[2] == "broken":
    sys.exit("no such layout")
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Count).serve_forever()
"""


@pytest.fixture(autouse=True)
def without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "REST_S", 0.0)
    monkeypatch.setattr(run, "WARM_UP_S", 0.0)


def server(folder: Path, broken: Layout | None, layout: Layout) -> Server:
    """A server that counts three, and in one layout does not start."""
    port = free_port()
    command = [sys.executable, "-c", PROGRAM, str(port), "broken" if layout == broken else "whole"]
    request = request_bytes("/count", "image/jpeg", b"jpeg")
    workers, threads = layout
    return Server("A", f"{workers} x {threads}", command, port, request, {}, folder)


@pytest.mark.parametrize("broken", [(2, 1), (1, 2)])
def test_the_layout_that_starts_goes_on_to_more_connections(
    tmp_path: Path, broken: Layout, capfd: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(concurrency=[1, 2, 8], seconds=0.0, control=None)
    rows, failed = measure(
        lambda layout: server(tmp_path, broken, layout), [(1, 2), (2, 1)], 3, options
    )
    assert [row.concurrency for row in rows] == [1, 2, 8]
    assert all(row.answers >= row.concurrency and row.errors == 0 for row in rows)
    assert {row.layout for row in rows} == {"1 x 2" if broken == (2, 1) else "2 x 1"}
    # The last window is left before all answers came, so that their cost is not known.
    assert [row.processor_ms is None for row in rows] == [False, False, True]
    assert len(failed) == 1
    assert "no such layout" in failed[0]
    assert "FAILED A" in capfd.readouterr().out


def test_only_one_layout_goes_on_to_more_connections(tmp_path: Path) -> None:
    options = argparse.Namespace(concurrency=[1, 2, 8], seconds=0.0, control=None)
    rows, failed = measure(
        lambda layout: server(tmp_path, None, layout), [(1, 2), (2, 1)], 3, options
    )
    assert failed == []
    assert sorted(row.concurrency for row in rows) == [1, 1, 2, 2, 8]


def test_a_server_that_counts_otherwise_is_not_measured(tmp_path: Path) -> None:
    options = argparse.Namespace(concurrency=[1], seconds=0.0, control=None)
    rows, failed = measure(lambda layout: server(tmp_path, None, layout), [(1, 2)], 4, options)
    assert rows == []
    assert failed == ["A, 1 x 2: A counts 3, the ceiling 4"]
