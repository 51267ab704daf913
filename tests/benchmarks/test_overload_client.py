"""The overload benchmark's images and client do what its figures rest on."""

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bars import Row, table
from benchmarks.overload import image_of_its_own
from benchmarks.thrifty_client import ThriftyClient
from service.images.decode import ImageLimits, decode_image

LONG = b"x" * 300_000


def test_an_image_of_its_own_is_the_same_picture_in_another_length(test_data: Path) -> None:
    random.seed(4)
    png = (test_data / "images" / "nucls_test_1.png").read_bytes()
    own = [image_of_its_own(png) for _ in range(3)]
    assert len({len(image) for image in own}) == 3
    for image in own:
        np.testing.assert_array_equal(
            decode_image(image, ImageLimits()).pixels, decode_image(png, ImageLimits()).pixels
        )


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with the path's wish: `/close` closes, `/silent` says nothing."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line[:15] == b"Content-Length:"),
                0,
            )
            body = await reader.readexactly(length)
            if b"/silent" in head:
                break
            close = b"Connection: close\r\n" if b"/close" in head else b""
            writer.write(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n" + close)
            writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            if close:
                break
    except asyncio.IncompleteReadError:
        pass
    writer.close()


def test_the_client_reads_answers_and_keeps_connections_that_stay_open() -> None:
    async def scenario() -> None:
        connections = 0

        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await serve(reader, writer)

        server = await asyncio.start_server(count, "127.0.0.1", 0)
        async with server:
            client = ThriftyClient(server.sockets[0].getsockname()[1])
            for _ in range(3):
                answer = await client.post("/segment", LONG, {"Content-Type": "image/png"})
                assert (answer.status, answer.headers["retry-after"]) == (503, "7")
                assert answer.body == LONG
            assert (await client.get("/health/ready")).body == b""
            assert connections == 1
            await client.get("/close")
            await client.get("/again")
            assert connections == 2
            with pytest.raises(ConnectionError):
                await client.get("/silent")
            client.close()

    asyncio.run(scenario())


def test_the_table_tells_what_is_held() -> None:
    rows = [Row("1", "fast", "slow", False), Row("2", "kept", "kept", True), Row("3", "-", "8")]
    lines = table(rows).splitlines()
    assert lines[2] == "| 1 | fast | slow | **not held** |"
    assert lines[3].endswith("| held |")
    assert lines[4].endswith("| - |")
