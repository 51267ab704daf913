"""A bare loop before and after each window: what the machine could do in those very seconds.

A shared machine drifts by a fifth within minutes, and servers are measured one after the other.
What a server has of the loop that ran beside its window can be compared; its requests/s alone
cannot.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers.launch import SERVERS, TILE

CONTROL_S = 3.0


def run_loop(
    python: Path,
    environment: Mapping[str, str],
    loops: int,
    threads: int,
    seconds: float,
) -> str:
    """Run the bare loop in a process of its own and return its line.

    Args:
        python: Of the environment it runs in.
        environment: Its own variables.
        loops: So many at once.
        threads: That one run of the model has.
        seconds: For so long, at least one run each.

    Raises:
        CalledProcessError: It failed.
    """
    command = [str(python), str(SERVERS / "bare.py"), str(TILE)]
    command += ["--concurrency", str(loops), "--seconds", str(seconds)]
    return subprocess.run(
        command,
        env={**os.environ, **environment, "PEER_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


class Control:
    """Runs the loop in the layout that suits a number of connections.

    One connection is compared with one run of all threads at a time, several with a one-thread run
    for each processor.
    """

    def __init__(
        self,
        python: Path,
        environment: Mapping[str, str],
        processors: int,
        seconds: float = CONTROL_S,
    ) -> None:
        """Take the ceiling's environment, and how long one run shall last."""
        self._python = python
        self._environment = environment
        self._processors = processors
        self._seconds = seconds

    def per_s(self, concurrency: int) -> float:
        """Run the loop now and return what it carried a second."""
        loops = 1 if concurrency == 1 else self._processors
        threads = self._processors if concurrency == 1 else 1
        output = run_loop(self._python, self._environment, loops, threads, self._seconds)
        report = json.loads(output.splitlines()[-1])
        return len(report["latencies_ms"]) / float(report["elapsed_s"])
