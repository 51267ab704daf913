"""The middleware alone, around a few-line ASGI application."""

import asyncio
from typing import Any

import pytest
import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLargeError
from service.middleware import (
    AccessLogMiddleware,
    BodyBoundMiddleware,
    ErrorBoundaryMiddleware,
    RequestIdMiddleware,
)


def respond(_: Request, error: Exception) -> Response:
    return PlainTextResponse(type(error).__name__, 413 if "Body" in type(error).__name__ else 500)


async def echo_length(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


class Observer:
    def __init__(self) -> None:
        self.finished: list[tuple[str, str, int]] = []
        self.in_flight = 0

    def request_started(self) -> None:
        self.in_flight += 1

    def request_finished(self, method: str, route: str, status: int, duration_s: float) -> None:
        assert duration_s >= 0
        self.in_flight -= 1
        self.finished.append((method, route, status))


@pytest.mark.parametrize("offered", ["order-17", "a", "A.b_c-9", "x" * 128])
def test_a_request_id_is_echoed(offered: str) -> None:
    client = TestClient(RequestIdMiddleware(echo_length))
    assert client.get("/", headers={"X-Request-ID": offered}).headers["x-request-id"] == offered


@pytest.mark.parametrize("offered", ["", "x" * 129, "a b", "a\tb", "<script>", "é", "-"])
def test_an_unfit_request_id_is_replaced(offered: str) -> None:
    client = TestClient(RequestIdMiddleware(echo_length))
    response = client.get("/", headers=[(b"X-Request-ID", offered.encode("latin-1"))])
    made = response.headers["x-request-id"]
    assert made != offered
    assert len(made) == 32
    assert client.get("/").headers["x-request-id"] != made


def bounded(app: ASGIApp = echo_length) -> TestClient:
    # As in the application: the boundary answers what the bound raises while the body is read.
    return TestClient(ErrorBoundaryMiddleware(BodyBoundMiddleware(app, 10, respond), respond))


def test_bodies_up_to_the_bound_pass() -> None:
    assert bounded().post("/", content=b"0123456789").text == "10"
    assert bounded().post("/", content=iter([b"01234", b"56789"])).text == "10"


def test_a_declared_body_over_the_bound_is_not_read() -> None:
    async def unreachable(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise AssertionError

    response = bounded(unreachable).post("/", content=b"0123456789x")
    assert (response.status_code, response.text) == (413, "BodyTooLargeError")
    huge = {"Content-Length": "9" * 400}
    assert bounded(unreachable).post("/", headers=huge).status_code == 413


def test_a_streamed_body_stops_at_the_bound() -> None:
    pulled: list[int] = []

    async def scenario() -> None:
        async def receive() -> Message:
            pulled.append(1)
            return {"type": "http.request", "body": b"01234", "more_body": True}

        async def send(_: Message) -> None:
            raise AssertionError

        scope: dict[str, Any] = {"type": "http", "headers": [], "method": "POST"}
        with pytest.raises(BodyTooLargeError, match="10 bytes"):
            await BodyBoundMiddleware(echo_length, 10, respond)(scope, receive, send)

    asyncio.run(scenario())
    assert len(pulled) == 3


def test_the_boundary_answers_and_logs() -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("boom")

    with structlog.testing.capture_logs() as logs:
        response = TestClient(ErrorBoundaryMiddleware(broken, respond)).get("/")
    assert (response.status_code, response.text) == (500, "RuntimeError")
    assert [entry["event"] for entry in logs] == ["unhandled"]


def test_an_answer_half_sent_is_broken_off() -> None:
    async def half(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("boom")

    with (
        structlog.testing.capture_logs(),
        pytest.raises(RuntimeError, match="boom"),
    ):
        TestClient(ErrorBoundaryMiddleware(half, respond)).get("/")


def test_the_access_log_names_route_and_sizes_but_nothing_else() -> None:
    observer = Observer()

    async def routed(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = type("Route", (), {"path": "/models/{name}"})()
        await echo_length(scope, receive, send)

    client = TestClient(AccessLogMiddleware(routed, observer))
    with structlog.testing.capture_logs() as logs:
        client.post("/models/Jane-Doe?patient=42", content=b"123")
    assert observer.finished == [("POST", "/models/{name}", 200)]
    assert observer.in_flight == 0
    assert len(logs) == 1
    entry = logs[0]
    assert (entry["event"], entry["log_level"], entry["status"]) == ("request", "info", 200)
    assert (entry["received_bytes"], entry["sent_bytes"]) == (3, 1)
    assert "Jane" not in str(entry)
    assert "42" not in str(entry)


def test_a_request_that_ends_without_an_answer_is_counted() -> None:
    observer = Observer()

    async def cancelled(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise asyncio.CancelledError

    async def scenario() -> None:
        scope: dict[str, Any] = {"type": "http", "headers": [], "method": "GET"}
        with structlog.testing.capture_logs(), pytest.raises(asyncio.CancelledError):
            await AccessLogMiddleware(cancelled, observer)(scope, None, None)  # type: ignore[arg-type]

    asyncio.run(scenario())
    assert observer.finished == [("GET", "unmatched", 499)]
