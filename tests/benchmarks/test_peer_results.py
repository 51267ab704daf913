"""Servers that were measured minutes apart are compared by the bare loop that ran beside each."""

import sys
from pathlib import Path

import pytest

from benchmarks.peers.control import Control
from benchmarks.peers.launch import SERVERS
from benchmarks.peers.results import (
    CEILING,
    KARYON_ON_CPU,
    Window,
    better,
    compare,
    comparison_table,
    plot,
    table,
)
from service.inference.repository import embedded_models_dir


def window(server: str, per_s: float, p99_ms: float, bare_per_s: float | None) -> Window:
    return Window(server, "1 x 2", 4, 20, per_s, p99_ms, p99_ms, 0, 500.0, 100.0, bare_per_s)


def test_a_server_measured_in_a_slow_minute_is_not_the_slower_one(tmp_path: Path) -> None:
    windows = [
        Window(CEILING, "2 x 1", 4, 20, 5.0, float("nan"), float("nan"), 0, None, 200.0),
        window("A", 4.5, 900.0, 5.0),
        window("B", 2.4, 1600.0, 2.5),
        window(KARYON_ON_CPU, 3.0, 1250.0, 3.0),
    ]
    (one,) = compare(windows)
    assert one.peer.server == "B"
    assert one.soonest.server == "B"
    assert one.ratio == pytest.approx(1.0 / 0.96)
    assert one.same.delay == pytest.approx(3.75)
    assert not one.held  # not six times
    assert (
        "| 4 | 0.96 (B, 1 x 2) | 1.00 (1 x 2): 1.04 of it | 4.0 (B, 1 x 2) |"
        in comparison_table([one])
    )
    assert "2.40 (0.96), 1600, 1600" in table(windows, [4])
    plot(windows, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_loop_requests_a_second_decide() -> None:
    fast, slow = [window("A", 4.0, 900.0, None)], [window("A", 3.0, 900.0, None)]
    assert better([slow, fast]) is fast
    assert "4.00, 900, 900" in table(fast, [4])


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_loop_runs_the_embedded_model(concurrency: int) -> None:
    model = next(embedded_models_dir().glob("*/*/model.onnx"))
    environment = {"PEER_MODEL": str(model), "PYTHONPATH": str(SERVERS)}
    control = Control(Path(sys.executable), environment, 2, seconds=0.2)
    assert 0.0 < control.per_s(concurrency) < 1000.0
