"""Reading a body chunk by chunk, as a network delivers it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from service.api.upload import MalformedBodyError, UploadTimeoutError, read_upload

BOUNDARY = b"----karyon"
IMAGE = bytes(range(256)) * 40 + b"\r\n------karyo\r\n"  # almost a boundary within the image


def form(image: bytes) -> bytes:
    return (
        b"--" + BOUNDARY + b"\r\n"
        b'CONTENT-DISPOSITION: form-data; filename="a;b.png"; name="image"\r\n'
        b"Content-Type: image/png\r\n\r\n" + image + b"\r\n--" + BOUNDARY + b"--\r\nepilogue"
    )


def request_of(messages: Iterator[Message], content_type: bytes) -> Request:
    async def receive() -> Message:
        message = next(messages, None)
        if message is None:
            await asyncio.sleep(60)
            raise AssertionError
        return message

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", content_type)],
    }
    return Request(scope, receive)


def chunks(body: bytes, size: int, *, end: bool = True) -> Iterator[Message]:
    for start in range(0, len(body), size):
        yield {"type": "http.request", "body": body[start : start + size], "more_body": True}
    if end:
        yield {"type": "http.request", "body": b"", "more_body": False}


def read(messages: Iterator[Message], content_type: bytes, timeout_s: float = 5.0) -> bytes:
    request = request_of(messages, content_type)
    return asyncio.run(read_upload(request, timeout_s=timeout_s)).image


MULTIPART = b"multipart/form-data; boundary=" + BOUNDARY


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_the_image_arrives_whole_however_it_is_cut(size: int) -> None:
    assert read(chunks(form(IMAGE), size), MULTIPART) == IMAGE
    assert read(chunks(IMAGE, size), b"image/png") == IMAGE


def test_a_quoted_boundary_and_an_empty_file() -> None:
    quoted = b'Multipart/Form-Data; Boundary="' + BOUNDARY + b'"'
    assert read(chunks(form(IMAGE), 1000), quoted) == IMAGE
    assert read(chunks(form(b""), 1000), MULTIPART) == b""


def test_a_cut_form_is_malformed() -> None:
    with pytest.raises(MalformedBodyError, match="closing boundary"):
        read(chunks(form(IMAGE)[:5000], 1000), MULTIPART)


def test_a_part_with_endless_headers_is_malformed() -> None:
    body = b"--" + BOUNDARY + b"\r\nX-Long: " + b"a" * 100_000
    with pytest.raises(MalformedBodyError):
        read(chunks(body, 1000), MULTIPART)


@pytest.mark.parametrize("content_type", [b"image/png", MULTIPART])
def test_a_slow_client_is_cut_off(content_type: bytes) -> None:
    with pytest.raises(UploadTimeoutError, match=r"0\.05 seconds"):
        read(chunks(form(IMAGE)[:5000], 1000, end=False), content_type, timeout_s=0.05)


def test_a_client_that_goes_away_is_told_apart() -> None:
    with pytest.raises(ClientDisconnect):
        read(iter([{"type": "http.disconnect"}]), b"image/png")
