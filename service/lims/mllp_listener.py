"""An MLLP listener: frames in, acknowledgements out, bounded in bytes, time and connections.

```
 connection ──► 0x0B message 0x1C 0x0D ──► receive ──► 0x0B ACK 0x1C 0x0D      one at a time
                   │
                   └─ too long, too slow, no start: AR, and the connection goes on
```
A message begins after the last 0x0B of its frame, so that a sender who broke off and begins anew is
understood. Source: HL7 MLLP Release 1. MLLP has no logins: whoever reaches the port places orders.
"""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from service.errors import ListenerError
from service.lims.mllp import END, START, frame

_STOP_S: Final = 5.0
_BETWEEN_FRAMES: Final = (b"\r", b"\n", b" ")
_logger = structlog.get_logger("karyon.mllp")


class Receiver(Protocol):
    """Who carries messages out."""

    async def receive(self, message: bytes) -> bytes:
        """Carry out a message and return its acknowledgement."""

    def refuse(self, data: bytes, reason: str) -> bytes:
        """Return the acknowledgement of what came in no proper frame."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a sender may take up.

    Attributes:
        frame_bytes: Most bytes of a frame.
        frame_s: Seconds from its first byte to its last, and to take the answer.
        idle_s: Seconds that a connection may be silent between frames.
        connections: Most at once; one more is closed.
    """

    frame_bytes: int = 1024 * 1024
    frame_s: float = 30.0
    idle_s: float = 3600.0
    connections: int = 32


class _BadFrameError(Exception):
    """What came is no message; the text says why, `data` is what is left of it."""

    def __init__(self, reason: str, data: bytes = b"") -> None:
        super().__init__(reason)
        self.data = data


class MllpListener:
    """Listens while it is open. All methods belong to the event loop."""

    def __init__(self, receiver: Receiver, bounds: Bounds) -> None:
        """Take who carries messages out; see `open`."""
        self._receiver = receiver
        self._bounds = bounds
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> int:
        """Begin to listen.

        Args:
            host: Address.
            port: TCP port; 0 takes a free one.

        Returns:
            The port.

        Raises:
            ListenerError: The address cannot be listened on.
        """
        try:
            self._server = await asyncio.start_server(
                self._connected, host, port, limit=self._bounds.frame_bytes
            )
        except OSError as error:
            raise ListenerError(
                f"the MLLP listener cannot listen on {host} port {port} ({error.strerror});"
                " check KARYON_MLLP_LISTEN"
            ) from error
        bound: int = self._server.sockets[0].getsockname()[1]
        _logger.info("MLLP listener is open", host=host, port=bound)
        return bound

    async def close(self) -> None:
        """Take no more frames; those that are being carried out are still answered."""
        if self._server is None:
            return
        self._server.close()
        for task in self._waiting:
            task.cancel()
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=_STOP_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= self._bounds.connections:
            _logger.warning("MLLP connection refused", reason="too many")
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._converse(task, reader, writer)
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            # Gone, silent for too long, or the service ends; nothing was left half done.
            pass
        except Exception:
            _logger.exception("MLLP connection failed unexpectedly")
        finally:
            self._connections.discard(task)
            writer.close()

    async def _converse(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while self._server is not None and self._server.is_serving():
            # Only while it waits for a frame may the end of the service cut it off.
            self._waiting.add(task)
            try:
                message = await self._read(reader)
            except _BadFrameError as error:
                answer = self._receiver.refuse(error.data, str(error))
            else:
                self._waiting.discard(task)
                answer = await self._receiver.receive(message)
            finally:
                self._waiting.discard(task)
            writer.write(frame(answer))
            async with asyncio.timeout(self._bounds.frame_s):
                await writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """Return the next message.

        Raises:
            _BadFrameError: What came is none; what was read of it is thrown away.
            TimeoutError: Nothing came.
            EOFError: The sender hung up.
        """
        async with asyncio.timeout(self._bounds.idle_s):
            first = await reader.readexactly(1)
            while first in _BETWEEN_FRAMES:
                first = await reader.readexactly(1)
        try:
            async with asyncio.timeout(self._bounds.frame_s):
                framed = first + await self._read_to_end(reader)
        except TimeoutError:
            raise _BadFrameError("The frame did not end in time.") from None
        _, start, message = framed.removesuffix(END).rpartition(START)
        if not start:
            raise _BadFrameError("The frame has no start block.", message)
        if not message.strip():
            raise _BadFrameError("The frame is empty.")
        return message

    async def _read_to_end(self, reader: asyncio.StreamReader) -> bytes:
        """Read up to the end block; skip a frame that is too long, up to its end."""
        too_long = False
        while True:
            try:
                rest = await reader.readuntil(END)
            except asyncio.LimitOverrunError as error:
                too_long = True
                await reader.readexactly(error.consumed)
            else:
                if too_long:
                    raise _BadFrameError("The frame has too many bytes.")
                return rest
