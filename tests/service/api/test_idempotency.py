"""Idempotency-Key on POST /segment: one inference, one result, the same answer to everybody."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.records.database import Database
from service.records.idempotency import IdempotencyKey, claim
from service.settings import Settings


@pytest.fixture
def settings(api_settings: Settings, tmp_path: Path) -> Settings:
    return api_settings.model_copy(update={"data_dir": tmp_path, "idempotency_wait_s": 20.0})


@pytest.fixture
def keyed(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose requests really run at the same time."""
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            scope["state"] = dict(state)
            await app(scope, receive, send)

        transport = httpx.ASGITransport(with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


def inferences(metrics: str) -> float:
    lines = [x for x in metrics.splitlines() if x.startswith("karyon_images_segmented_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_fifty_at_once_are_one_inference_and_fifty_equal_answers(
    settings: Settings, he_png: bytes
) -> None:
    async def fifty() -> tuple[list[httpx.Response], str, list[dict[str, object]]]:
        async with serving(create_app(settings)) as client:
            answers = await asyncio.gather(
                *(
                    client.post(
                        "/segment", files={"image": he_png}, headers={"Idempotency-Key": "k-1"}
                    )
                    for _ in range(50)
                )
            )
            metrics = (await client.get("/metrics")).text
            listed = (await client.get("/results")).json()["results"]
        return answers, metrics, listed

    answers, metrics, listed = asyncio.run(fifty())
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert inferences(metrics) == 1
    assert [result["id"] for result in listed] == [answers[0].json()["id"]]


def test_a_restart_does_not_forget(settings: Settings, he_png: bytes) -> None:
    answers = []
    for _ in range(2):
        with TestClient(create_app(settings)) as client:
            # Quotes make a structured-field string of the same key.
            key = '"again"' if answers else "again"
            headers = {"Idempotency-Key": key, "Accept": "image/png"}
            answers.append(client.post("/segment", files={"image": he_png}, headers=headers))
    assert answers[0].content == answers[1].content
    assert answers[0].headers["x-karyon-id"] == answers[1].headers["x-karyon-id"]
    assert answers[1].headers["content-type"] == "image/png"
    assert answers[1].headers["idempotency-replayed"] == "true"


def test_another_request_under_the_key_is_refused(keyed: TestClient, he_png: bytes) -> None:
    headers = {"Idempotency-Key": "once"}
    assert keyed.post("/segment", files={"image": he_png}, headers=headers).status_code == 200
    for other in (
        {"files": {"image": he_png + b"\0"}, "headers": headers},
        {"files": {"image": he_png}, "headers": headers, "params": {"mpp": 0.5}},
        {"files": {"image": he_png}, "headers": {**headers, "Accept": "image/png"}},
    ):
        refused = keyed.post("/segment", **other)  # type: ignore[arg-type]  # of several types
        assert refused.status_code == 422
        assert refused.json()["type"] == "/problems/idempotency-key-reused"


def test_an_error_leaves_the_key_free(keyed: TestClient, he_png: bytes) -> None:
    headers = {"Idempotency-Key": "free"}
    assert keyed.post("/segment", files={"image": b"no"}, headers=headers).status_code == 415
    assert keyed.post("/segment", files={"image": he_png}, headers=headers).status_code == 200


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, '"half', "\u00e4"])
def test_a_malformed_key_is_refused(keyed: TestClient, he_png: bytes, key: str) -> None:
    response = keyed.post(
        "/segment", files={"image": he_png}, headers={"Idempotency-Key": key.encode("latin-1")}
    )
    assert response.status_code == 422
    assert response.json()["errors"][0]["location"] == ["header", "Idempotency-Key"]


def test_without_records_a_key_is_refused(settings: Settings, he_png: bytes) -> None:
    off = settings.model_copy(update={"records": False})
    with TestClient(create_app(off)) as client:
        headers = {"Idempotency-Key": "k"}
        assert client.post("/segment", files={"image": he_png}, headers=headers).status_code == 422
        assert client.post("/segment", files={"image": he_png}).status_code == 200
        assert client.get("/results").json()["type"] == "/problems/records-off"


def test_nobody_waits_for_another_longer_than_they_said(settings: Settings, he_png: bytes) -> None:
    held = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield he_png[:100]
        await held.wait()
        yield he_png[100:]

    async def both() -> tuple[httpx.Response, httpx.Response]:
        headers = {"Idempotency-Key": "slow", "Content-Type": "image/png"}
        async with serving(create_app(settings)) as client:
            first = asyncio.create_task(client.post("/segment", content=slowly(), headers=headers))
            await asyncio.sleep(0.2)
            hurried = {**headers, "X-Request-Timeout-Ms": "300"}
            second = client.post("/segment", content=he_png, headers=hurried)
            # Within the 20 seconds that the service would let it wait.
            answer = await asyncio.wait_for(second, 10.0)
            metrics = (await client.get("/metrics")).text
            assert "karyon_deadlines_exceeded_total 1.0" in metrics
            held.set()
            return await first, answer

    first, second = asyncio.run(both())
    assert first.status_code == 200
    assert (second.status_code, second.json()["type"]) == (504, "/problems/deadline-exceeded")


def test_a_request_elsewhere_is_waited_for_and_then_told(settings: Settings, he_png: bytes) -> None:
    """Another process holds the key: 409 with Retry-After; once its lease is over, it is ours."""
    brief = settings.model_copy(update={"idempotency_wait_s": 0.3})
    with TestClient(create_app(brief)) as client:
        headers = {"Idempotency-Key": "elsewhere"}
        database = Database.open(None, brief.data_dir)
        first = client.post("/segment", files={"image": he_png}, headers=headers)
        assert first.status_code == 200
        with database.writing() as transaction:
            stored = transaction.connection.exec_driver_sql(
                "SELECT fingerprint FROM idempotency_keys"
            ).scalar_one()
            transaction.connection.exec_driver_sql("DELETE FROM idempotency_keys")
            key = IdempotencyKey("anonymous", "elsewhere")
            claim(transaction, key, fingerprint=stored, owner="other", lifetime_s=60)
        hurried = {**headers, "X-Request-Timeout-Ms": "150"}
        assert client.post("/segment", files={"image": he_png}, headers=hurried).status_code == 504
        waited = client.post("/segment", files={"image": he_png}, headers=headers)
        assert waited.status_code == 409
        assert int(waited.headers["retry-after"]) >= 1
        with database.writing() as transaction:
            transaction.connection.exec_driver_sql(
                "UPDATE idempotency_keys SET lease_utc = '2000-01-01T00:00:00.000Z'"
            )
        taken = client.post("/segment", files={"image": he_png}, headers=headers)
        assert taken.status_code == 200
        assert "idempotency-replayed" not in taken.headers
        database.close()
