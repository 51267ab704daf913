"""Classes, deadlines, quota, room and cache over HTTP, with the tiny real model."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings

PNG = {"Content-Type": "image/png"}


def metric(client: TestClient, name: str) -> float:
    """Return one sample of /metrics, 0 where there is none yet."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


@pytest.mark.parametrize("priority", ["stat", "routine", "batch"])
def test_every_class_is_answered(client: TestClient, he_png: bytes, priority: str) -> None:
    response = client.post("/segment", params={"priority": priority}, content=he_png, headers=PNG)
    assert response.status_code == 200
    assert response.headers["x-karyon-cache"] == "miss"
    assert "ratelimit" not in response.headers


def test_an_unknown_class_and_an_impossible_deadline_are_refused(
    client: TestClient, he_png: bytes
) -> None:
    unknown = client.post("/segment?priority=now", content=he_png, headers=PNG)
    assert unknown.status_code == 422
    for wrong in ("0", "-5", "soon", "99999999999"):
        response = client.post(
            "/segment", content=he_png, headers={**PNG, "X-Request-Timeout-Ms": wrong}
        )
        assert response.status_code == 422
        assert response.json()["errors"][0]["location"] == ["header", "X-Request-Timeout-Ms"]


def test_a_deadline_that_is_kept_changes_nothing(client: TestClient, he_png: bytes) -> None:
    patient = {**PNG, "X-Request-Timeout-Ms": "600000"}
    assert client.post("/segment", content=he_png, headers=patient).status_code == 200


def test_what_the_header_refuses_never_takes_a_worker(client: TestClient) -> None:
    before = metric(client, 'karyon_segment_stage_duration_seconds_count{stage="queue"}')
    assert client.post("/segment", content=b"no image", headers=PNG).status_code == 415
    after = metric(client, 'karyon_segment_stage_duration_seconds_count{stage="queue"}')
    assert before == after


def test_a_quota_is_told_and_kept(api_settings: Settings, he_png: bytes) -> None:
    settings = api_settings.model_copy(update={"quota_requests_per_minute": 2})
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:

        def post(made_up_key: str) -> httpx.Response:
            headers = {**PNG, "X-Api-Key": made_up_key}
            response: httpx.Response = opened.post("/segment", content=he_png, headers=headers)
            return response

        first = post("a")
        assert first.headers["ratelimit-policy"] == '"minute";q=2;w=60'
        assert re.fullmatch(r'"minute";r=1;t=\d+', first.headers["ratelimit"])
        assert post("a").headers["ratelimit"].startswith('"minute";r=0;')
        refused = post("a")
        assert refused.status_code == 429
        assert refused.json()["type"] == "/problems/quota-exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["ratelimit"].startswith('"minute";r=0;')
        # Where nobody logs in, a key that was made up brings no quota of its own.
        assert post("b").status_code == 429
        assert opened.get("/health/live").status_code == 200
        assert metric(opened, 'karyon_requests_refused_total{reason="quota"}') == 2


def test_the_same_question_again_is_answered_from_the_cache(
    api_settings: Settings, he_png: bytes, test_data: Any
) -> None:
    other = (test_data / "images" / "nucls_test_2.png").read_bytes()
    settings = api_settings.model_copy(update={"cache_bytes": 10_000_000})
    with TestClient(create_app(settings)) as opened:

        def ask(image: bytes = he_png, accept: str = "*/*", **params: Any) -> httpx.Response:
            response: httpx.Response = opened.post(
                "/segment", params=params, content=image, headers={**PNG, "Accept": accept}
            )
            assert response.status_code == 200, response.text
            return response

        first, second = ask(include="nuclei"), ask(include="nuclei")
        assert (first.json()["cached"], second.json()["cached"]) == (False, True)
        assert second.headers["x-karyon-cache"] == "hit"
        assert first.json()["id"] != second.json()["id"]
        assert "inference" not in second.json()["timings_ms"]
        assert second.json()["timings_ms"]["total"] >= second.json()["timings_ms"]["lookup"] > 0
        own = ("id", "created_utc", "timings_ms", "cached", "provenance")
        assert {k: v for k, v in first.json().items() if k not in own} == {
            k: v for k, v in second.json().items() if k not in own
        }
        # Another representation of the same result is a hit too, and equals the computed one.
        for mask in ("labels", "probability", "binary"):
            kept = ask(accept="image/png", mask=mask)
            fresh = opened.post(
                "/segment", params={"mask": mask, "model": "tiny:1.1.0", "threshold": 0.5},
                content=he_png, headers={**PNG, "Accept": "image/png"},
            )  # fmt: skip
            assert kept.headers["x-karyon-cache"] == "hit"
            assert kept.content == fresh.content
            assert kept.headers["x-karyon-count"] == fresh.headers["x-karyon-count"]
        # Whatever changes the result, or needs the pixels, is computed.
        for params in ({"threshold": 0.6}, {"mpp": 0.25}, {"model": "tiny:1.0.0"}):
            assert ask(**params).headers["x-karyon-cache"] == "miss"
        overlay = ask(accept="image/png", mask="overlay")
        assert overlay.headers["x-karyon-cache"] == "miss"
        assert ask(other).headers["x-karyon-cache"] == "miss"
        assert metric(opened, 'karyon_cache_lookups_total{result="hit"}') >= 4
        assert 0 < metric(opened, "karyon_cache_bytes") <= 10_000_000


def test_without_a_cache_every_answer_is_computed(client: TestClient, he_png: bytes) -> None:
    for _ in range(2):
        response = client.post("/segment", content=he_png, headers=PNG)
        assert response.json()["cached"] is False


async def body_of(image: bytes) -> AsyncIterator[bytes]:
    yield image


def test_a_full_service_refuses_drops_and_expires_without_running(
    api_settings: Settings, he_png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both workers are held in the model: what waits expires, is dropped, or is refused."""
    settings = api_settings.model_copy(update={"max_queued_tiles": 6})
    app = create_app(settings)
    gate, runs = threading.Event(), []

    def hold(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def held(tiles: Any) -> Any:
            runs.append(len(tiles))
            assert gate.wait(30)
            return run(tiles)

        return held

    with TestClient(app) as opened:
        state = opened.app_state["service"]
        session = state.repository.get(None)
        monkeypatch.setattr(session, "run", hold(session.run))
        asyncio.run(_scenario(app, dict(opened.app_state), he_png, gate, runs))
        assert metric(opened, "karyon_deadlines_exceeded_total") == 1
        assert metric(opened, "karyon_requests_abandoned_total") == 1
        assert metric(opened, 'karyon_requests_refused_total{reason="tiles"}') == 1
        assert metric(opened, "karyon_tiles_queued") == 0
        assert metric(opened, "karyon_queue_waiting") == 0


async def _scenario(
    app: FastAPI, state: dict[str, Any], image: bytes, gate: threading.Event, runs: list[int]
) -> None:
    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = dict(state)
        await app(scope, receive, send)

    transport = httpx.ASGITransport(with_state)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://karyon") as opened:
        running = [
            asyncio.create_task(opened.post("/segment", content=image, headers=PNG))
            for _ in range(2)
        ]
        await asyncio.sleep(0.3)
        late = await opened.post(
            "/segment", content=image, headers={**PNG, "X-Request-Timeout-Ms": "200"}
        )
        assert late.status_code == 504
        assert late.json()["type"] == "/problems/deadline-exceeded"
        await _leave(with_state, image)
        waiting = [
            asyncio.create_task(opened.post("/segment", content=image, headers=PNG))
            for _ in range(3)
        ]
        await asyncio.sleep(0.2)
        refused = await opened.post("/segment", content=image, headers=PNG)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert (await opened.get("/health/ready")).status_code == 200
        gate.set()
        answers = await asyncio.gather(*running, *waiting)
        assert [answer.status_code for answer in answers] == [200] * 5
        assert len(runs) == 5  # neither the late one nor the one that left ever ran


async def _leave(app: Any, image: bytes) -> None:
    """Send a whole request and close the connection while it waits."""
    messages = [
        {"type": "http.request", "body": image, "more_body": False},
        {"type": "http.disconnect"},
    ]
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        if len(messages) == 1:
            await asyncio.sleep(0.1)
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/segment", "raw_path": b"/segment", "query_string": b"",
        "root_path": "", "headers": [(b"content-type", b"image/png")], "client": ("test", 1),
        "server": ("karyon", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    assert statuses == [499]


def test_a_deadline_that_passes_during_the_upload_is_counted(
    api_settings: Settings, he_png: bytes
) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield he_png[:100]
        await asyncio.sleep(1.0)
        yield he_png[100:]

    async def send(app: FastAPI, state: dict[str, Any]) -> httpx.Response:
        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            scope["state"] = dict(state)
            await app(scope, receive, send)

        transport = httpx.ASGITransport(with_state)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://karyon") as opened:
            headers = {**PNG, "X-Request-Timeout-Ms": "100"}
            return await opened.post("/segment", content=slowly(), headers=headers)

    app = create_app(api_settings)
    with TestClient(app) as opened:
        answer = asyncio.run(send(app, dict(opened.app_state)))
        assert (answer.status_code, answer.json()["type"]) == (504, "/problems/deadline-exceeded")
        assert metric(opened, "karyon_deadlines_exceeded_total") == 1
