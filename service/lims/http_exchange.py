"""One HTTP/1.1 request over a guarded connection; redirects are answers like any other.

A redirect that was followed would lead past the guard. h11 is there already: uvicorn brings it.
"""

import asyncio
import datetime as dt
import email.utils
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal
from urllib.parse import urlsplit

import h11

from service.lims.connection import open_guarded
from service.lims.outcome import Outcome

_READ_BYTES: Final = 65_536
_LONGEST_BODY_BYTES: Final = 8 * 1024 * 1024
_LATER: Final = frozenset({408, 409, 425, 429})
_GONE: Final = 410


class OverlongAnswerError(OSError):
    """The body of an answer is longer than anything that was asked for."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What a server answered.

    Attributes:
        status: HTTP status.
        retry_after_s: Seconds of its Retry-After, if it sent one.
        body: The body, where it was asked for.
    """

    status: int
    retry_after_s: float | None
    body: bytes = b""

    def outcome(self) -> Outcome:
        """Return what it means for the delivery: only 4xx is for ever, and not all of them."""
        said = f"HTTP {self.status}"
        if 200 <= self.status < 300:
            return Outcome("accepted", said)
        if self.status == _GONE:
            return Outcome("gone", said)
        if 400 <= self.status < 500 and self.status not in _LATER:
            return Outcome("refused", said)
        return Outcome("retry", said, self.retry_after_s)


def parse_retry_after(text: str, now: dt.datetime) -> float | None:
    """Return the seconds of a Retry-After, given as such or as a date; None if it is neither."""
    text = text.strip()
    if text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        until = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a year or a zone that no calendar has
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=dt.UTC)
    return max(0.0, (until - now).total_seconds())


async def post(
    url: str, headers: Mapping[str, str], body: bytes, *, allow_private: bool
) -> HttpReply:
    """POST a body and read the status of the answer. The caller bounds the time.

    Raises:
        OSError: The server cannot be reached, or hung up.
        h11.RemoteProtocolError: It answers something else than HTTP.
    """
    return await exchange("POST", url, headers, body, allow_private=allow_private, read_body=False)


async def exchange(
    method: Literal["GET", "POST"],
    url: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    allow_private: bool,
    read_body: bool = True,
) -> HttpReply:
    """Send a request and read the answer, its body too if asked to. The caller bounds the time.

    Raises:
        OSError: The server cannot be reached, or hung up, or (`OverlongAnswerError`) does not stop.
        h11.RemoteProtocolError: It answers something else than HTTP.
    """
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    reader, writer = await open_guarded(
        str(parts.hostname), port, tls=tls, allow_private=allow_private
    )
    try:
        connection = h11.Connection(h11.CLIENT)
        request = h11.Request(
            method=method,
            target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            headers=[
                ("Host", parts.netloc),
                ("Content-Length", str(len(body))),
                ("User-Agent", "Karyon"),
                ("Connection", "close"),
                *headers.items(),
            ],
        )
        for part in (request, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(part) or b"")
        await writer.drain()
        return await _read_reply(reader, connection, read_body=read_body)
    finally:
        writer.close()


async def _read_reply(
    reader: asyncio.StreamReader, connection: h11.Connection, *, read_body: bool
) -> HttpReply:
    reply = HttpReply(0, None)
    received = bytearray()
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            reply = HttpReply(event.status_code, _retry_after(event))
            if not read_body:
                return reply
        elif isinstance(event, h11.Data):
            received += event.data
            if len(received) > _LONGEST_BODY_BYTES:
                raise OverlongAnswerError("the answer is too long")
        elif isinstance(event, h11.EndOfMessage):
            return replace(reply, body=bytes(received))
        elif event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_BYTES))


def _retry_after(response: h11.Response) -> float | None:
    for name, value in response.headers:
        if name == b"retry-after":
            return parse_retry_after(value.decode("ascii", "replace"), dt.datetime.now(dt.UTC))
    return None
