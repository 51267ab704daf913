import asyncio
import time
from collections.abc import AsyncIterator

import httpx2 as httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from service.api import schemas
from service.api.lifecycle import Lifecycle, Phase
from service.app import create_app
from service.settings import Settings


def test_probes_answer(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/startup").json() == {"status": "started"}
    ready = schemas.Readiness.model_validate(client.get("/health/ready").json())
    assert {canary.model for canary in ready.canaries} >= {"tiny:1.1.0", "tiny_onechannel:1.0.0"}
    assert all(canary.provider == "CPUExecutionProvider" for canary in ready.canaries)
    assert all(canary.precision == "fp32" for canary in ready.canaries)
    assert all(canary.duration_ms > 0 for canary in ready.canaries)


def test_probes_know_head(client: TestClient) -> None:
    for probe in ("live", "ready", "startup"):
        assert client.head(f"/health/{probe}").status_code == 200


def test_before_start_up_nothing_is_ready_but_the_process_lives(api_settings: Settings) -> None:
    # A client that is not entered runs no lifespan: the process before its models are open.
    early = TestClient(create_app(api_settings), raise_server_exceptions=False)
    assert early.get("/health/live").status_code == 200
    for path in ("/health/ready", "/health/startup", "/models"):
        response = early.get(path)
        assert response.status_code == 503
        assert response.json()["type"] == "/problems/not-ready"
        assert int(response.headers["retry-after"]) >= 1
    refused = early.post("/segment", content=b"x", headers={"Content-Type": "image/png"})
    assert refused.status_code == 503


def test_draining_fails_readiness_and_refuses_work(api_settings: Settings, he_png: bytes) -> None:
    app = create_app(api_settings)
    lifecycle: Lifecycle = app.state.lifecycle
    with TestClient(app) as opened:
        assert opened.get("/health/ready").status_code == 200
        lifecycle.phase = Phase.DRAINING
        assert opened.get("/health/ready").status_code == 503
        assert opened.get("/health/startup").status_code == 200
        assert opened.get("/health/live").status_code == 200
        refused = opened.post("/segment", files={"image": he_png})
        assert refused.json()["detail"] == "The service is draining and takes no work now."


def test_a_busy_pool_does_not_delay_probes(api_app: FastAPI, client: TestClient) -> None:
    """Slow uploads fill the queue; probes still answer at once and one more upload gets 503."""

    async def slow_body(gate: asyncio.Event) -> AsyncIterator[bytes]:
        yield b"x"
        await gate.wait()

    async def scenario() -> None:
        gate = asyncio.Event()
        # The lifespan of `client` is open; its state is handed to this second transport.
        state = client.app_state

        async def with_state(scope: dict, receive: object, send: object) -> None:  # type: ignore[type-arg]
            scope["state"] = dict(state)
            await api_app(scope, receive, send)  # type: ignore[arg-type]

        transport = httpx.ASGITransport(with_state)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://karyon") as opened:
            headers = {"Content-Type": "image/png"}
            uploads = [
                asyncio.create_task(
                    opened.post("/segment", content=slow_body(gate), headers=headers)
                )
                for _ in range(6)  # 2 workers and 4 places
            ]
            await asyncio.sleep(0.2)
            start_s = time.perf_counter()
            assert (await opened.get("/health/live")).status_code == 200
            assert (await opened.get("/health/ready")).status_code == 200
            metrics = (await opened.get("/metrics")).text
            assert time.perf_counter() - start_s < 30  # the uploads never end by themselves
            assert "karyon_queue_waiting 6.0" in metrics
            refused = await opened.post("/segment", content=b"x", headers=headers)
            assert refused.status_code == 503
            assert refused.json()["type"] == "/problems/overloaded"
            assert refused.headers["retry-after"].isdecimal()
            gate.set()
            answers = await asyncio.gather(*uploads)
            assert {answer.status_code for answer in answers} == {415}

    asyncio.run(scenario())


def test_metrics_count_what_happened(api_settings: Settings, he_png: bytes) -> None:
    with TestClient(create_app(api_settings)) as opened:
        count = opened.post("/segment", files={"image": he_png}).json()["count"]
        opened.post("/segment", files={"image": b"no image"})
        opened.get("/models/a-patients-name")
        response = opened.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }

    def value(name: str, **labels: str) -> float:
        return samples[name, frozenset(labels.items())]

    posted = {"method": "POST", "route": "/segment"}
    assert value("karyon_http_requests_total", **posted, status="200") == 1
    assert value("karyon_http_requests_total", **posted, status="415") == 1
    assert value("karyon_problems_total", type="unreadable-image") == 1
    assert value("karyon_nuclei_counted_total", model="tiny", version="1.1.0") == count
    assert value("karyon_segment_stage_duration_seconds_count", stage="inference") == 1
    assert value("karyon_image_pixels_sum") == 256 * 256
    assert value("karyon_upload_bytes_sum") == len(he_png)
    assert value("karyon_http_requests_in_flight") == 1  # the scrape itself
    assert "a-patients-name" not in response.text
    ours = {name for name, _ in samples if not name.startswith(("python_info",))}
    assert all(name.startswith("karyon_") for name in ours), ours
