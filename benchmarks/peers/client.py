"""The client of every server: N connections that each send one request after the other.

Closed loop on purpose: it asks what a server does at a concurrency. The open loop is in tests/load.
It is one process of asyncio streams with a parser of its own: at some hundred requests a second it
takes a few per cent of one processor, the same for every server.

    python -m benchmarks.peers.client REQUEST_FILE --port N --concurrency 16 --seconds 20

REQUEST_FILE holds the whole request as bytes, head and body. Prints one line of JSON: elapsed
seconds, latencies in ms, errors, the last body.
"""

import argparse
import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Tally:
    """What came back.

    Attributes:
        latencies_ms: Of answers 200 that were finished before the end.
        errors: Other answers, and broken connections.
        body: Of the last answer.
    """

    latencies_ms: list[float] = field(default_factory=list)
    errors: int = 0
    body: bytes = b""


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one HTTP/1.1 answer with a length or in chunks; return status and body.

    Raises:
        ConnectionError: The server closed, or its answer has neither.
    """
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("closed") from error
    status_line, *lines = head.split("\r\n")
    headers = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    status = int(status_line.split()[1])
    if "content-length" in headers:
        return status, await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") != "chunked":
        raise ConnectionError("an answer of unknown length")
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return status, body


async def ask(request: bytes, port: int, end_s: float, tally: Tally) -> None:
    """Send the request again and again until `end_s` (of time.perf_counter)."""
    writer: asyncio.StreamWriter | None = None
    while time.perf_counter() < end_s:
        begin_s = time.perf_counter()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
            writer.write(request)
            await writer.drain()
            status, body = await read_answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            tally.errors += 1
            if writer is not None:
                writer.close()
            writer = None
            await asyncio.sleep(0.05)
            continue
        now_s = time.perf_counter()
        tally.body = body
        if status != 200:
            tally.errors += 1
        elif now_s <= end_s:
            tally.latencies_ms.append((now_s - begin_s) * 1000.0)
    if writer is not None:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def measure(request: bytes, port: int, concurrency: int, seconds: float) -> Tally:
    """Ask over `concurrency` connections for `seconds`."""
    tally = Tally()
    end_s = time.perf_counter() + seconds
    await asyncio.gather(*(ask(request, port, end_s, tally) for _ in range(concurrency)))
    return tally


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("request", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    tally = asyncio.run(
        measure(
            arguments.request.read_bytes(),
            arguments.port,
            arguments.concurrency,
            arguments.seconds,
        )
    )
    report = {
        "elapsed_s": arguments.seconds,
        "latencies_ms": tally.latencies_ms,
        "errors": tally.errors,
        "body": tally.body.decode("utf-8", "replace")[:2000],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
