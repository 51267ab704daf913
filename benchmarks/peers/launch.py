"""How each server is started, in which layouts, and what it is asked."""

import hashlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.processes import Server, free_port
from benchmarks.peers.table import Peer, raw
from benchmarks.publish import REPOSITORY

SERVERS = Path(__file__).resolve().parent / "servers"
TILE = REPOSITORY / "tests" / "load" / "images" / "tnbc_p07_1.jpg"

Layout = tuple[int, int]
"""Workers (in Karyon: lanes), and threads of each."""

DEFAULT_LAYOUT: Layout = (0, 0)
"""Karyon without a setting: it changes its lanes with the load, which no peer does."""


def request_bytes(path: str, content_type: str, body: bytes, headers: Sequence[str] = ()) -> bytes:
    """Return a whole HTTP/1.1 request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nAccept: application/json\r\n"
    )
    more = "".join(f"{line}\r\n" for line in headers)
    return f"{head}{more}\r\n".encode("ascii") + body


def layouts(processors: int, *, several: bool) -> list[Layout]:
    """Return the (workers, threads) to try."""
    whole = [(1, processors)]
    return [*whole, (processors, 1)] if several and processors > 1 else whole


def peer_server(peer: Peer, python: Path, environment: Mapping[str, str], layout: Layout) -> Server:
    """Return how to start a peer with the Python of its environment."""
    port = free_port()
    workers, threads = layout
    command = [part.format(port=port, workers=workers) for part in peer.command]
    own = {"PEER_WORKERS": str(workers), "PEER_THREADS": str(threads), "PEER_PORT": str(port)}
    return Server(
        peer.name,
        f"{workers} x {threads}",
        [str(python), *command],
        port,
        request_bytes(peer.path, *peer.encode(TILE.read_bytes()), peer.headers),
        {**environment, **own},
        SERVERS,
    )


def karyon_server(
    name: str, settings: Mapping[str, str], data: Path, most: int, layout: Layout
) -> Server:
    """Return how to start Karyon.

    Args:
        name: In the table.
        settings: Beside those of the layout.
        data: Folder of the folders of its records, one for each layout.
        most: Connections that will ask at once. Newcomers may fill nine tenths of the waiting room.
        layout: Lanes and threads, or `DEFAULT_LAYOUT`.
    """
    port = free_port()
    lanes, threads = layout
    known = {
        **settings,
        "data_dir": str(data / f"{lanes}x{threads}"),
        "max_waiting": str(2 * most),
        "concurrency": str(lanes),
        "threads": str(threads),
    }
    command = [sys.executable, "-m", "service", "--port", str(port), "--log-level", "warning"]
    return Server(
        name,
        "default" if layout == DEFAULT_LAYOUT else f"{lanes} x {threads}",
        command,
        port,
        request_bytes("/segment", *raw(TILE.read_bytes())),
        {f"KARYON_{key.upper()}": value for key, value in known.items()},
        REPOSITORY,
    )


def keras_file(model: Path, folder: Path) -> Path:
    """Write the Keras twin of an ONNX file, once.

    Raises:
        RuntimeError: It has none; the message holds the last words.
    """
    path = folder / f"{hashlib.sha256(model.read_bytes()).hexdigest()[:16]}.keras"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.peers.keras_twin", str(model), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
        if done.returncode:
            raise RuntimeError(done.stderr[-500:])
    return path
