"""Starting a server with all its processes, weighing it, and ending it."""

import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

START_LIMIT_S = 180.0
# Those who left at the end of the last window need no answer any more.
END_LIMIT_S = 4.0


@dataclass(frozen=True, slots=True)
class Server:
    """How a server is started and asked.

    Attributes:
        name: In the table.
        layout: Worker processes x threads, for the table.
        command: Command line.
        port: Where it listens on loopback.
        request: The whole HTTP request that it is to answer.
        environment: Variables beside those of this process.
        folder: Where it starts.
    """

    name: str
    layout: str
    command: Sequence[str]
    port: int
    request: bytes
    environment: Mapping[str, str]
    folder: Path


def free_port() -> int:
    """Return a port that is free now, as are the two above it.

    Seldom that of the server before: not every server takes a port that has just been left.
    """
    for port in random.sample(range(18_000, 19_000, 10), 100):
        try:
            for offset in range(3):
                with socket.create_server(("127.0.0.1", port + offset)):
                    pass
        except OSError:
            continue
        return port
    raise RuntimeError("no free port")


def answers(server: Server) -> bool:
    """Say whether the server answers its request with 200 now."""
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(server.request)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


@contextmanager
def running(server: Server) -> Iterator[psutil.Process]:
    """Run a server until the block ends; yield its first process.

    Raises:
        RuntimeError: It ends, or does not answer in time; the message holds its last words.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            server.command,
            env={**os.environ, **server.environment},
            cwd=server.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            end_s = time.monotonic() + START_LIMIT_S
            while not answers(server):
                if process.poll() is not None or time.monotonic() > end_s:
                    log.seek(0)
                    words = log.read()[-1500:].decode("utf-8", "replace")
                    raise RuntimeError(f"{server.name} does not answer: {words}")
                time.sleep(0.5)
            yield psutil.Process(process.pid)
        finally:
            end_all(process)


def end_all(process: subprocess.Popen[bytes]) -> None:
    """End a process and all below it, those that made themselves independent included."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(family, timeout=END_LIMIT_S)
    for child in left:
        child.kill()


def memory_mb(process: psutil.Process) -> float:
    """Return the proportional set size of a process and all below it.

    Pages that several worker processes share count once in the sum, where resident sizes would
    count them for each.
    """
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss / 1e6
        except psutil.NoSuchProcess:
            continue
    return total


def processor_s(process: psutil.Process) -> float:
    """Return the processor time that a process and all below it have taken so far, in seconds."""
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
