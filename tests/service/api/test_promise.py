"""Retry-After as a promise, with a real process, real sockets and more load than it can carry."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.http_overhead import running_service
from benchmarks.overload import HEADERS, image_of_its_own
from benchmarks.thrifty_client import ThriftyClient

NEWCOMERS = 30


async def overload(port: int, png: bytes) -> tuple[Counter[int], Counter[int]]:
    """Send newcomers faster than they are served; let all who are refused come back as told."""
    first: Counter[int] = Counter()
    again: Counter[int] = Counter()
    client = ThriftyClient(port)

    async def one_client(image: bytes) -> None:
        answer = await client.post("/segment", image, HEADERS)
        first[answer.status] += 1
        if answer.status != 200:
            await asyncio.sleep(int(answer.headers["retry-after"]))
            again[(await client.post("/segment", image, HEADERS)).status] += 1

    async with asyncio.TaskGroup() as group:
        # Made beforehand and sent at once: on a quick machine making them takes as long as serving.
        for image in [image_of_its_own(png) for _ in range(NEWCOMERS)]:
            group.create_task(one_client(image))
    client.close()
    return first, again


def test_nobody_who_comes_back_as_told_is_refused_again(
    tiny_models_dir: Path, he_png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KARYON_WORKERS", "1")
    monkeypatch.setenv("KARYON_MAX_WAITING", "1")
    monkeypatch.setenv("KARYON_DEFAULT_MODEL", "tiny")
    with running_service(tiny_models_dir, threads=1) as (_, port):
        first, again = asyncio.run(overload(port, he_png))
    assert set(first) == {200, 503}
    assert first[503] > NEWCOMERS // 4, "the load was none"
    assert again == {200: first[503]}
