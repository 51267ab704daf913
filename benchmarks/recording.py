"""What recording costs: throughput at saturation with records and without, on both databases.

    python -m benchmarks.recording [--database-url postgresql://...] [--rounds 6] [--seconds 10]

Services with the embedded model run side by side, one without records, one with a SQLite file, and
one with the PostgreSQL of --database-url where given. They take turns under the same closed load
(as many clients as there are workers, twice over, so that none ever idles), several rounds each in
changing order, so that whatever else the machine does hits all alike. Bar: the throughput with
records is at least 0.95 of that without, median over the rounds.
"""

import argparse
import http.client
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

IMAGE = Path(__file__).resolve().parents[1] / "tests" / "data" / "images" / "tnbc_p08_2.png"
BAR = 0.95
CLIENTS = 4
WARM_UP_S = 3.0


@contextmanager
def running_service(models_dir: Path | None, **variables: str) -> Iterator[int]:
    """Run a service with KARYON_ variables on a free port; yield the port.

    Raises:
        RuntimeError: It does not start; its own message is on standard error.
    """
    command = [sys.executable, "-m", "service", "--port", "0", "--log-level", "error"]
    if models_dir is not None:
        command += ["--models-dir", str(models_dir)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KARYON_")}
    environment |= {f"KARYON_{name.upper()}": value for name, value in variables.items()}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = server.stdout.readline() if server.stdout else ""
        match = re.search(r"http://[^:]+:(\d+)", line)
        if match is None:
            raise RuntimeError("the service did not start")
        yield int(match.group(1))
    finally:
        server.terminate()
        server.wait(timeout=30)


def requests_per_second(port: int, data: bytes, seconds: float) -> float:
    """Keep a service busy for a while and return how many images it answered a second."""
    answered = [0] * CLIENTS
    end_s = time.perf_counter() + seconds

    def ask(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.perf_counter() < end_s:
            connection.request("POST", "/segment", data, {"Content-Type": "image/png"})
            response = connection.getresponse()
            body = response.read()
            if response.status != http.HTTPStatus.OK:
                raise RuntimeError(body.decode("utf-8", "replace"))
            answered[client] += 1
        connection.close()

    start_s = time.perf_counter()
    threads = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered) / (time.perf_counter() - start_s)


def main() -> int:
    """Measure, print, and return 0 when the bar is held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", help="PostgreSQL to measure too")
    parser.add_argument("--models-dir", type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    data = IMAGE.read_bytes()

    variants = {"off": {"records": "false"}, "sqlite": {}}
    if arguments.database_url:
        variants["postgresql"] = {"database_url": arguments.database_url}
    rates: dict[str, list[float]] = {name: [] for name in variants}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ports = {
            name: stack.enter_context(
                running_service(arguments.models_dir, data_dir=folder, **variables)
            )
            for name, variables in variants.items()
        }
        for port in ports.values():
            requests_per_second(port, data, WARM_UP_S)
        for turn in range(arguments.rounds):
            names = list(ports) if turn % 2 else list(reversed(ports))
            for name in names:
                rates[name].append(requests_per_second(ports[name], data, arguments.seconds))

    off = statistics.median(rates["off"])
    print(f"{arguments.rounds} rounds of {arguments.seconds:g} s, {CLIENTS} clients")
    print(f"{'off':<12} {off:7.2f} images/s")
    held = True
    for name in list(rates)[1:]:
        # Round by round against the neighbour, so that slow spells of the machine cancel out.
        share = statistics.median(
            with_records / without
            for with_records, without in zip(rates[name], rates["off"], strict=True)
        )
        held &= share >= BAR
        print(f"{name:<12} {statistics.median(rates[name]):7.2f} images/s, {share:.3f} of off")
    print("bar held" if held else "BAR BROKEN")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
