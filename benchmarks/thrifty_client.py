"""An HTTP client that costs little, for benchmarks that share their processors with the server.

At twice a server's load a comfortable client takes several per cent of the machine, which the
server then misses; this one knows only what the benchmarks need.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

_LONGEST_HEAD_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Attributes:
        status: HTTP status.
        headers: By name in lower case.
        body: The whole body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ThriftyClient:
    """Speaks HTTP/1.1 to one port of this machine, over as many connections as are needed."""

    def __init__(self, port: int) -> None:
        """Connect to nothing yet.

        Args:
            port: Where the server listens on loopback.
        """
        self._port = port
        self._idle: list[_Connection] = []

    async def get(self, path: str) -> Answer:
        """Get a path."""
        return await self._ask(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("ascii"))

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post a body.

        Raises:
            ConnectionError: The server closed the connection.
        """
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
        )
        return await self._ask(head.encode("ascii"), body)

    def close(self) -> None:
        """Close the idle connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _ask(self, head: bytes, body: bytes = b"") -> Answer:
        reader, writer = self._idle.pop() if self._idle else await self._connect()
        try:
            writer.writelines((head, body))
            answer = await _read_answer(reader)
        except BaseException:
            writer.close()
            raise
        if answer.headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return answer

    async def _connect(self) -> _Connection:
        return await asyncio.open_connection("127.0.0.1", self._port, limit=_LONGEST_HEAD_BYTES)


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    try:
        status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("the server closed the connection") from error
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(status_line.split()[1]), headers, body)
