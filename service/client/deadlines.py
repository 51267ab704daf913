"""The deadline of a whole call: a timeout of httpx bounds each read and each write alone.

A server that sends a byte now and then, or a line on which an upload crawls, would else hold a
call for ever. Not looked at is a dripping head. For asyncio `asyncio.timeout` bounds all of it.
"""

import time
from collections.abc import Iterator
from typing import Final

import httpx2 as httpx

_PART_BYTES: Final = 65_536


class TimedParts:
    """A request's body in parts, which end with `httpx.WriteTimeout` at the monotonic `until_s`.

    It can be gone through again, as a transport that repeats by itself does.
    """

    def __init__(self, content: bytes, until_s: float) -> None:
        self._content = content
        self._until_s = until_s

    def __iter__(self) -> Iterator[bytes]:
        view = memoryview(self._content)
        for begin in range(0, len(view), _PART_BYTES):
            if time.monotonic() >= self._until_s:
                raise httpx.WriteTimeout("the image was not sent in time")
            yield bytes(view[begin : begin + _PART_BYTES])


class TimedStream(httpx.SyncByteStream):
    """An answer's body that ends with `httpx.ReadTimeout` at the monotonic time `until_s`.

    A read that has begun ends by its own timeout.
    """

    def __init__(self, stream: httpx.SyncByteStream, until_s: float) -> None:
        self._stream = stream
        self._until_s = until_s

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            yield part
            if time.monotonic() >= self._until_s:
                raise httpx.ReadTimeout("the answer did not end in time")

    def close(self) -> None:
        """Close the stream within."""
        self._stream.close()
