"""The MLLP listener, over real sockets: frames good and bad, bounds, repetitions, its end."""

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import hl7.mllp
import pytest
from fastapi.testclient import TestClient

from service.api.order_answers import OML_EXAMPLE
from service.app import create_app
from service.errors import ListenerError
from service.lims.mllp import END, START, frame
from service.lims.mllp_listener import Bounds, MllpListener
from service.lims.order_intake import OrderIntake
from service.outputs.codes import Hl7Parties
from service.records.audit import Transaction
from service.records.bindings import file_orders
from service.records.database import Database
from service.records.orders import Order, list_orders
from service.records.recorder import Recorder
from service.server import refuse_open_door
from service.settings import Settings, load_settings

Value = TypeVar("Value")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    opened = Recorder(Database.open(None, tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def converse(recorder: Recorder) -> Callable[..., None]:
    """Runs a coroutine function with streams to a listener: `converse(talk, frame_s=0.1)`."""

    def run(talk: Callable[[int], Coroutine[Any, Any, None]], **bounds: Any) -> None:
        async def inner() -> None:
            intake = OrderIntake(recorder, Hl7Parties(), lifetime_s=60.0)
            listener = MllpListener(intake, Bounds(**bounds))
            port = await listener.open("127.0.0.1", 0)
            try:
                async with asyncio.timeout(60):
                    await talk(port)
            finally:
                await listener.close()

        asyncio.run(inner())

    return run


async def connect(port: int) -> Streams:
    return await asyncio.open_connection("127.0.0.1", port)


async def answer(streams: Streams) -> bytes:
    """The next acknowledgement, without its frame."""
    framed = await streams[0].readuntil(END)
    assert framed.startswith(START)
    return framed[1:].removesuffix(END)


async def exchange(streams: Streams, data: bytes) -> bytes:
    streams[1].write(data)
    return await answer(streams)


def code(acknowledgement: bytes) -> str:
    found = re.search(rb"\rMSA\|(\w\w)\|([^\r]*)", acknowledgement)
    assert found is not None
    return f"{found[1].decode()} {found[2].decode()}"


def filed(recorder: Recorder) -> list[Order]:
    with recorder.database.reading() as connection:
        page, _ = list_orders(
            connection, accession=None, placer_number=None, status=None, cursor=None, most=100
        )
    return page


OML = OML_EXAMPLE.encode()
GOOD = frame(OML)


def test_an_order_is_filed_and_a_repetition_has_the_same_answer(
    recorder: Recorder, converse: Callable[..., None]
) -> None:
    async def talk(port: int) -> None:
        streams = await connect(port)
        first = await exchange(streams, GOOD)
        assert code(first) == "AA MSG-1001"
        assert await exchange(streams, GOOD) == first
        other = await connect(port)
        assert await exchange(other, GOOD) == first
        # The same number of another sender is another message, and so is another content.
        theirs = OML.replace(b"|LIS|", b"|EHR|").replace(b"ORD-778812", b"ORD-2")
        assert code(await exchange(other, frame(theirs))) == "AA MSG-1001"
        anew = OML.replace(b"ORD-778812", b"ORD-3")
        assert code(await exchange(other, frame(anew))) == "AA MSG-1001"
        cancelled = OML.replace(b"NW", b"CA").replace(b"MSG-1001", b"MSG-1002")
        assert code(await exchange(other, frame(cancelled))) == "AA MSG-1002"
        for _, writer in (streams, other):
            writer.close()

    converse(talk)
    assert [(order.placer_number, order.status, order.caller) for order in filed(recorder)] == [
        ("ORD-3", "open", "mllp"),
        ("ORD-2", "open", "mllp"),
        ("ORD-778812", "cancelled", "mllp"),
    ]


def test_bad_frames_are_rejected_and_the_connection_goes_on(
    recorder: Recorder, converse: Callable[..., None]
) -> None:
    long = frame(OML + b"NTE|1||" + b"x" * 20_000)

    async def talk(port: int) -> None:
        streams = await connect(port)
        assert code(await exchange(streams, OML + END)) == "AR MSG-1001"
        for bad in (START + END, frame(b"?"), frame(b"\xff\xfe\x00"), long):
            assert code(await exchange(streams, bad)) == "AR UNKNOWN"
        wrong = OML.replace(b"OML^O21^OML_O21", b"ADT^A01^ADT_A01")
        assert code(await exchange(streams, frame(wrong))) == "AR MSG-1001"
        unusable = OML.replace(b"S26-1234\r", b"\r")
        assert code(await exchange(streams, frame(unusable))) == "AE MSG-1001"
        # What was broken off is dropped, line ends between frames are none of ours.
        assert code(await exchange(streams, START + OML[:60] + GOOD + b"\r\n")) == "AA MSG-1001"
        assert code(await exchange(streams, GOOD + GOOD)) == "AA MSG-1001"
        assert code(await answer(streams)) == "AA MSG-1001"
        streams[1].close()

    converse(talk, frame_bytes=4096)
    assert len(filed(recorder)) == 1


def test_time_and_connections_are_bounded(
    recorder: Recorder, converse: Callable[..., None]
) -> None:
    async def talk(port: int) -> None:
        streams = await connect(port)
        assert code(await exchange(streams, START + OML[:60])) == "AR UNKNOWN"
        assert code(await exchange(streams, GOOD)) == "AA MSG-1001"
        refused = await connect(port)
        assert await refused[0].read() == b""
        for _, writer in (streams, refused):
            writer.close()

    async def keep_silent(port: int) -> None:
        streams = await connect(port)
        assert await streams[0].read() == b""
        streams[1].close()

    converse(talk, frame_s=0.2, connections=1)
    converse(keep_silent, idle_s=0.1)
    assert len(filed(recorder)) == 1


def test_what_is_being_carried_out_is_answered_before_the_end(recorder: Recorder) -> None:
    async def talk() -> None:
        intake = OrderIntake(recorder, Hl7Parties(), lifetime_s=60.0)
        listener = MllpListener(intake, Bounds())
        port = await listener.open("127.0.0.1", 0)
        busy, idle = await connect(port), await connect(port)
        # The writer's thread is held up, so that the message is at work when the end comes.
        held_up = threading.Event()
        recorder.submit(lambda _: held_up.wait(30))
        busy[1].write(GOOD)
        async with asyncio.timeout(30):
            while (len(listener._connections), len(listener._waiting)) != (2, 1):  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0.01)
        ending = asyncio.create_task(listener.close())
        await asyncio.sleep(0)
        held_up.set()
        await ending
        assert code(await answer(busy)) == "AA MSG-1001"
        assert await busy[0].read() == b""
        assert await idle[0].read() == b""
        with pytest.raises(OSError, match=str(port)):
            await connect(port)
        for _, writer in (busy, idle):
            writer.close()

    asyncio.run(talk())
    assert len(filed(recorder)) == 1


def test_records_that_do_not_answer_reject_for_now(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = OrderIntake(recorder, Hl7Parties(), lifetime_s=60.0)

    def fail(_transaction: Transaction, *_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr("service.lims.order_intake.file_orders", fail)
        failed = asyncio.run(intake.receive(OML))
    assert code(failed) == "AR MSG-1001"
    assert b"207^" in failed
    assert b"Zero" not in failed
    # Nothing was kept of the failure: the sender's next try is carried out.
    assert code(asyncio.run(intake.receive(OML))) == "AA MSG-1001"
    assert file_orders is not fail


def test_an_address_in_use_stops_the_start(api_settings: Settings, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = api_settings.model_copy(update={"data_dir": tmp_path, "mllp_listen": address})
        app = create_app(settings)
        with pytest.raises(ListenerError, match="KARYON_MLLP_LISTEN"), TestClient(app):
            pass
    assert "cannot listen" in app.state.lifecycle.start_up_error


def test_the_service_takes_orders_over_mllp_and_delivers_what_it_held(
    api_settings: Settings, tmp_path: Path, he_png: bytes
) -> None:
    """A laboratory system's own two ends: `hl7`'s client sends, its server receives."""
    received: list[hl7.Message] = []

    async def receive(reader: Any, writer: Any) -> None:
        message = await reader.readmessage()
        received.append(message)
        writer.writemessage(message.create_ack())
        await writer.drain()
        writer.close()

    async def talk() -> None:
        lims = await hl7.mllp.start_hl7_server(receive, "127.0.0.1", 0)
        target = {
            "name": "lims", "kind": "mllp", "host": "127.0.0.1", "allow_private": True,
            "port": lims.sockets[0].getsockname()[1],
        }  # fmt: skip
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        changes = {
            "data_dir": tmp_path, "unknown_accession": "hold", "deliveries": [target],
            "mllp_listen": f"localhost:{port}",
        }  # fmt: skip
        settings = Settings.model_validate({**api_settings.model_dump(), **changes})
        await asyncio.to_thread(work, settings, port)
        lims.close()
        await lims.wait_closed()

    def work(settings: Settings, port: int) -> None:
        with TestClient(create_app(settings)) as client:
            params = {"accession": "S26-1234"}
            made = client.post("/segment", files={"image": he_png}, params=params).json()
            time.sleep(1.2)
            assert received == [], "held"
            assert code(asyncio.run(send(port))) == "AA MSG-1001"
            until = time.monotonic() + 30
            while not received and time.monotonic() < until:
                time.sleep(0.05)
            (order,) = client.get("/orders").json()["orders"]
            assert (order["status"], order["results"]) == ("in-progress", [made["id"]])
            while not client.get("/deliveries?status=delivered").json()["deliveries"]:
                assert time.monotonic() < until
                time.sleep(0.05)

    async def send(port: int) -> bytes:
        reader, writer = await hl7.mllp.open_hl7_connection("127.0.0.1", port)
        for _ in range(2):
            writer.writemessage(hl7.parse(OML_EXAMPLE))
            acknowledged = await reader.readmessage()
        writer.close()
        await writer.wait_closed()
        return str(acknowledged).encode()

    asyncio.run(talk())
    (message,) = received
    assert [str(message.segment("OBR")[number]) for number in (2, 18, 20)] == [
        "ORD-778812", "S26-1234", "LAB-26-0991",
    ]  # fmt: skip
    assert str(message.segment("SPM")[2]) == "S26-1234-A1"


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"mllp_listen": "127.0.0.1:2575"}, False),
        ({"mllp_listen": "[::1]:2575"}, False),
        ({"mllp_listen": "localhost:2575"}, False),
        ({"mllp_listen": "0.0.0.0:2575"}, True),
        ({"mllp_listen": "0.0.0.0:2575", "auth": "required"}, True),
        ({"mllp_listen": "lis.example:2575", "allow_anonymous": True}, True),
        ({"mllp_listen": "0.0.0.0:2575", "mllp_allow_anonymous": True}, False),
        ({"mllp_allow_anonymous": True, "host": "0.0.0.0"}, True),  # noqa: S104  never bound here
    ],
)
def test_an_open_port_must_be_meant(changes: dict[str, Any], refused: bool) -> None:
    assert (refuse_open_door(Settings.model_validate(changes)) is not None) == refused


@pytest.mark.parametrize(
    "changes",
    [
        {"mllp_listen": "2575"},
        {"mllp_listen": "127.0.0.1:"},
        {"mllp_listen": "127.0.0.1:70000"},
        {"mllp_listen": "127.0.0.1:2575", "records": False},
        {"unknown_accession": "hold", "records": False},
        {"unknown_accession": "maybe"},
    ],
)
def test_settings_that_cannot_be_kept_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"mllp_listen|unknown_accession"):
        load_settings(changes, environment={})
