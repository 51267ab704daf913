"""The client of every server: N connections that each send one request after the other.

Closed loop on purpose: it asks what a server does at a concurrency. The open loop is in tests/load.
It is one process of asyncio streams with a parser of its own: at some hundred requests a second it
takes a few per cent of one processor, the same for every server.

```
 all N send ──── every one answered once ────────── seconds, and every one again ──── the rest
               a server's queue is as it stays     │   answers that are counted   │  awaited
```
With 64 connections and seven answers a second an answer takes nine seconds. A window of fixed
length that begins with the first request would see the queue fill, and of a server that answers in
bursts any number of answers; so it begins and ends with an answer, and sees every connection.

    python -m benchmarks.peers.client REQUEST_FILE --port N --concurrency 16 --seconds 5

REQUEST_FILE holds the whole request as bytes, head and body. Prints one line of JSON: elapsed
seconds, latencies in ms, errors, all answers, the last body.
"""

import argparse
import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

# Connections that are then still without an answer count as errors.
LONGEST_PHASE_S = 90.0
# After a refusal or a broken connection, so that asking again takes no processor from the server.
PAUSE_S = 0.05


@dataclass
class Tally:
    """What came back between the first answer to the last connection and the end.

    Attributes:
        connections: How many ask.
        seconds: Least length of the window.
        latencies_ms: Of answers 200 in the window.
        errors: Other answers, broken connections, connections that were not answered in time.
        body: Of the last answer.
        elapsed_s: Length of the window.
        in_all: Answers 200 before, in and after the window.
        ended: Set at its end.
    """

    connections: int
    seconds: float
    latencies_ms: list[float] = field(default_factory=list)
    errors: int = 0
    body: bytes = b""
    elapsed_s: float = 0.0
    in_all: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _begin_s: float | None = None
    _heard: set[int] = field(default_factory=set)

    def answered(self, connection: int, begin_s: float, status: int) -> None:
        """Take note of an answer; status 0 is a broken connection."""
        now_s = time.perf_counter()
        self.in_all += status == 200
        if self.ended.is_set():
            return
        if status != 200:
            self.errors += 1
        elif self._begin_s is not None:
            self.latencies_ms.append((now_s - begin_s) * 1000.0)
        self._heard.add(connection)
        everyone = len(self._heard) == self.connections
        if self._begin_s is None:
            if everyone:
                self._begin_s = now_s
                self._heard.clear()
        elif everyone and now_s >= self._begin_s + self.seconds:
            self._end(now_s)

    def give_up(self) -> None:
        """End although some connections have not been answered."""
        if not self.ended.is_set():
            self.errors += self.connections - len(self._heard)
            self._end(time.perf_counter())

    def _end(self, now_s: float) -> None:
        self.elapsed_s = now_s - self._begin_s if self._begin_s is not None else 0.0
        self.ended.set()


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


async def ask(request: bytes, port: int, connection: int, tally: Tally) -> None:
    """Send the request again and again until the window has ended."""
    writer: asyncio.StreamWriter | None = None
    try:
        while not tally.ended.is_set():
            begin_s = time.perf_counter()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
                writer.write(request)
                await writer.drain()
                status, body = await read_answer(reader)
            except (OSError, asyncio.IncompleteReadError):
                tally.answered(connection, begin_s, 0)
                if writer is not None:
                    writer.close()
                writer = None
                await asyncio.sleep(PAUSE_S)
                continue
            tally.body = body
            tally.answered(connection, begin_s, status)
            if status != 200:
                await asyncio.sleep(PAUSE_S)
    finally:
        if writer is not None:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def measure(
    request: bytes, port: int, concurrency: int, seconds: float, *, abandon: bool = False
) -> Tally:
    """Ask over `concurrency` connections.

    Args:
        request: The whole HTTP request.
        port: Of the server, on loopback.
        concurrency: Connections that ask at once.
        seconds: Least length of the window.
        abandon: Leave when the window ends, instead of waiting for the answers that are due: for
            the last window of a server, as the next one would begin with their work.
    """
    tally = Tally(concurrency, seconds)
    asking = [
        asyncio.ensure_future(ask(request, port, number, tally)) for number in range(concurrency)
    ]
    try:
        await asyncio.wait_for(tally.ended.wait(), LONGEST_PHASE_S + seconds)
    except TimeoutError:
        tally.give_up()
        abandon = True
    if not abandon:
        await asyncio.wait(asking, timeout=LONGEST_PHASE_S)
    for one in asking:
        one.cancel()
    for outcome in await asyncio.gather(*asking, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return tally


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("request", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--abandon", action="store_true", help="Do not await what is due at last.")
    arguments = parser.parse_args()
    tally = asyncio.run(
        measure(
            arguments.request.read_bytes(),
            arguments.port,
            arguments.concurrency,
            arguments.seconds,
            abandon=arguments.abandon,
        )
    )
    report = {
        "elapsed_s": tally.elapsed_s,
        "latencies_ms": tally.latencies_ms,
        "errors": tally.errors,
        "in_all": tally.in_all,
        "body": tally.body.decode("utf-8", "replace")[:2000],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
