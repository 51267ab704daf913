"""What HTTP, decoding, separation and encoding add to bare inference, measured in one run.

    python benchmarks/http_overhead.py [--models-dir DIR] [--rounds 40]

One 512x512 PNG goes over HTTP to a real `python -m service` process; the same pixels go through a
bare `session.run` of the same file, provider and thread count in this process. The two alternate,
so that whatever else the machine does hits both alike. Bars: p50 over HTTP < 1.3 x bare + 40 ms,
and idle resident memory < 400 MB.
"""

import argparse
import http.client
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from service.images.decode import ImageLimits, decode_image
from service.inference.repository import ModelRepository, embedded_models_dir

IMAGE = Path(__file__).resolve().parents[1] / "tests" / "data" / "images" / "tnbc_p08_2.png"
BAR_FACTOR = 1.3
BAR_PLUS_MS = 40.0
BAR_RESIDENT_MB = 400.0
WARM_UP_ROUNDS = 3


@contextmanager
def running_service(
    models_dir: Path, threads: int, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[psutil.Process, int]]:
    """Run the service on a free port, with records of its own; yield its process and the port.

    Args:
        models_dir: Model repository.
        threads: The setting.
        settings: Other settings by field name, over those of the environment.

    Raises:
        RuntimeError: It does not start; its own message is on standard error.
    """
    command = [sys.executable, "-m", "service", "--port", "0", "--log-level", "warning"]
    command += ["--models-dir", str(models_dir), "--threads", str(threads)]
    with tempfile.TemporaryDirectory() as data_dir:
        chosen = {"data_dir": data_dir, **(settings or {})}
        variables = {f"KARYON_{name.upper()}": value for name, value in chosen.items()}
        environment = {**os.environ, **variables}
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            line = server.stdout.readline() if server.stdout else ""
            match = re.search(r"http://[^:]+:(\d+)", line)
            if match is None:
                raise RuntimeError("the service did not start")
            yield psutil.Process(server.pid), int(match.group(1))
        finally:
            server.terminate()
            server.wait(timeout=30)
            if server.stdout:
                server.stdout.close()


def post(connection: http.client.HTTPConnection, data: bytes) -> None:
    """Send one image over an open connection and read the whole answer."""
    connection.request("POST", "/segment", data, {"Content-Type": "image/png"})
    response = connection.getresponse()
    body = response.read()
    if response.status != http.HTTPStatus.OK:
        raise RuntimeError(body.decode("utf-8", "replace"))


def timed_ms(action: Callable[[], object]) -> float:
    """Return the milliseconds of one call."""
    start_s = time.perf_counter()
    action()
    return (time.perf_counter() - start_s) * 1000.0


def show(name: str, values_ms: list[float]) -> float:
    """Print the percentiles of a series and return its median."""
    p50, p95 = statistics.median(values_ms), float(np.percentile(values_ms, 95))
    print(f"{name:<20} p50 {p50:7.1f} ms   p95 {p95:7.1f} ms")
    return p50


def main() -> int:
    """Measure, print, and return 0 when the bars are held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models-dir", type=Path, default=embedded_models_dir())
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()

    data = IMAGE.read_bytes()
    pixels = decode_image(data, ImageLimits()).pixels[np.newaxis]
    session = ModelRepository.open(arguments.models_dir, threads=arguments.threads).get()
    bare_ms: list[float] = []
    http_ms: list[float] = []
    with running_service(arguments.models_dir, arguments.threads) as (process, port):
        time.sleep(1.0)
        idle_mb = process.memory_info().rss / 1e6
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for turn in range(-WARM_UP_ROUNDS, arguments.rounds):
            pair = timed_ms(lambda: session.run(pixels)), timed_ms(lambda: post(connection, data))
            if turn >= 0:
                bare_ms.append(pair[0])
                http_ms.append(pair[1])
        loaded_mb = process.memory_info().rss / 1e6

    contract = session.contract
    print(f"{contract.name} {contract.version} on {session.provider}, {arguments.rounds} rounds")
    bare = show("bare session.run", bare_ms)
    over = show("POST /segment", http_ms)
    bar_ms = BAR_FACTOR * bare + BAR_PLUS_MS
    print(f"ratio {over / bare:.2f}, {over - bare:+.1f} ms; bar {bar_ms:.1f} ms at p50")
    print(f"resident memory: idle {idle_mb:.0f} MB (bar {BAR_RESIDENT_MB:.0f}),", end=" ")
    print(f"after the rounds {loaded_mb:.0f} MB")
    held = over < bar_ms and idle_mb < BAR_RESIDENT_MB
    print("bars held" if held else "BARS BROKEN")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
