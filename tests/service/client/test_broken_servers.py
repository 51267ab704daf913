"""What the clients make of servers that hang, drip, lie and are none of Karyon's; both alike."""

import asyncio
import contextlib
import copy
import pickle
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.client import (
    AsyncClient,
    Client,
    ClientError,
    ProblemError,
    UnreachableError,
    UnreadableAnswerError,
)
from service.client.images import to_image_bytes

ID = "0" * 32
Behaviour = Callable[[socket.socket], None]
Ask = Callable[..., Any]


@contextlib.contextmanager
def pretender(behave: Behaviour) -> Iterator[str]:
    """A server that reads the head of each request, then does as it is told."""

    def attend(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                part = connection.recv(65_536)
                if not part:
                    return
                head += part
            behave(connection)

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=attend, args=(connection,), daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def answers(status: int, body: bytes, *headers: str) -> Behaviour:
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers]
    answer = "\r\n".join([*head, "", ""]).encode() + body
    return lambda connection: connection.sendall(answer)


def ask_plainly(address: str, call: Callable[[Client], Any], **options: Any) -> Any:
    with Client(address, **options) as client:
        return call(client)


def ask_asynchronously(
    address: str, call: Callable[[AsyncClient], Awaitable[Any]], **options: Any
) -> Any:
    async def scenario() -> Any:
        async with AsyncClient(address, **options) as client:
            return await call(client)

    return asyncio.run(scenario())


@pytest.fixture(params=[ask_plainly, ask_asynchronously], ids=["plain", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """A call by either client."""
    asked: Ask = request.param
    return asked


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(60):
        connection.sendall(b" ")
        time.sleep(0.1)


def crawl(connection: socket.socket) -> None:
    """Take an upload in small bites, as a bad line does."""
    for _ in range(60):
        connection.recv(16_384)
        time.sleep(0.1)


@pytest.mark.parametrize("behave", [drip, crawl, lambda _: time.sleep(6)])
def test_the_deadline_holds_for_all_of_a_call(ask: Ask, behave: Behaviour) -> None:
    large = bytes(40_000_000)
    begun_s = time.monotonic()
    with pretender(behave) as address, pytest.raises(UnreachableError, match="no answer"):
        ask(address, lambda client: client.segment(large), deadline_s=0.5)
    assert time.monotonic() - begun_s < 3.0


@pytest.mark.parametrize(
    "behave",
    [
        answers(200, b"<html>Log in", "Content-Type: text/html"),
        answers(200, b'{"a": 1}', "Content-Type: application/json"),
        answers(200, b"no gzip", "Content-Encoding: gzip"),
        answers(200, b"[" * 200_000, "Content-Type: application/json"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [lambda client: client.result(ID), lambda client: client.segment_as(b"image", "csv")],
)
def test_an_answer_that_is_none_of_karyons_is_named(
    ask: Ask, behave: Behaviour, call: Callable[[Any], Any]
) -> None:
    with pretender(behave) as address, pytest.raises(UnreadableAnswerError) as seen:
        ask(address, call)
    assert isinstance(seen.value, ClientError)
    assert seen.value.status == 200
    assert "proxy" in str(seen.value)


@pytest.mark.parametrize(
    "body", [b'{"errors": 5, "title": null, "type": []}', b"[]", b"<html>", b"[" * 200_000]
)
def test_a_refusal_in_another_shape_is_a_problem(ask: Ask, body: bytes) -> None:
    behave = answers(500, body)
    with pretender(behave) as address, pytest.raises(ProblemError) as seen:
        ask(address, lambda client: client.result(ID))
    problem = seen.value
    assert (problem.status, problem.name, problem.errors) == (500, "", [])
    assert problem.title == "The answer is no problem document"


def test_a_redirect_tells_the_address_to_give(ask: Ask) -> None:
    behave = answers(301, b"<html>", "Location: https://lab.example/")
    with pretender(behave) as address, pytest.raises(ProblemError, match=r"https://lab\.example/"):
        ask(address, lambda client: client.result(ID))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "address", ["localhost:8000", "127.0.0.1:8000", "http://", "ftp://lab", "http://lab:port"]
)
def test_an_address_without_a_scheme_is_refused_at_once(
    kind: type[Client | AsyncClient], address: str
) -> None:
    with pytest.raises(ValueError, match=r"must begin with http://|is no address"):
        kind(address)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("end", ["\n", "\r", "é"])
def test_a_key_that_can_be_in_no_header_is_refused_and_not_shown(
    kind: type[Client | AsyncClient], end: str
) -> None:
    with pytest.raises(ValueError, match="API key") as seen:
        kind("http://127.0.0.1:8000", api_key=f"karyon_0123{end}")
    assert "0123" not in str(seen.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "limits", [{"attempts": 0}, {"deadline_s": 0.0}, {"deadline_s": float("nan")}]
)
def test_limits_that_are_none_are_refused(
    kind: type[Client | AsyncClient], limits: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"attempts|deadline_s"):
        kind("http://127.0.0.1:8000", **limits)


def _sent(error: Exception) -> Any:
    return pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes


def test_errors_go_from_one_process_to_another() -> None:
    problem = ProblemError.from_document(
        422, {"type": "/problems/x", "title": "T", "errors": [{"message": "m"}]}, retry_after_s=1.0
    )
    for again in (_sent(problem), copy.copy(problem)):
        assert vars(again) == vars(problem)
        assert str(again) == str(problem)
    unread = _sent(UnreadableAnswerError("a page", status=200))
    assert (str(unread), unread.status) == ("a page", 200)


def test_an_id_stays_an_id(running: Any, ask: Ask) -> None:
    for identifier in ("../models", "a?b=c", "a\n"):
        with pytest.raises(ProblemError) as seen:
            ask(running.address, lambda client, wanted=identifier: client.result(wanted))
        assert seen.value.status in {404, 422}


def test_numbers_of_numpy_are_numbers(
    running: Any, ask: Ask, he_pixels: NDArray[np.uint8], he_labels: NDArray[np.int32]
) -> None:
    answer = ask(running.address, lambda client: client.segment(he_pixels, mpp=np.float32(0.25)))
    assert answer.image.mpp == 0.25
    reviewed = ask(
        running.address,
        lambda client: client.review(
            answer.id, "edit", reviewer="p-7", version=1, reason="x", count=he_labels.max()
        ),
    )
    assert reviewed.current.count == he_labels.max()


def test_what_is_no_image_is_named_with_what_to_do(he_pixels: NDArray[np.uint8]) -> None:
    data = cv2.imencode(".png", he_pixels)[1].tobytes()
    assert to_image_bytes(bytearray(data)) == to_image_bytes(memoryview(data)) == data
    with Path(__file__).open("rb") as file, pytest.raises(TypeError, match=r"file\.read\(\)"):
        to_image_bytes(file)  # type: ignore[arg-type]  # the mistake


def test_a_large_file_is_refused_and_not_sent_again(running: Any, ask: Ask) -> None:
    with pytest.raises(ProblemError) as seen:
        ask(running.address, lambda client: client.segment(bytes(80_000_000)))
    assert seen.value.status == 413


def test_a_cancelled_call_leaves_the_client_usable(running: Any) -> None:
    async def scenario() -> None:
        async with AsyncClient(running.address) as client:
            calls = [asyncio.create_task(client.results()) for _ in range(150)]
            await asyncio.sleep(0.05)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.gather(*(client.results() for _ in range(120)))

    asyncio.run(scenario())
