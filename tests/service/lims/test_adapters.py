"""Adapters one by one: signatures, guard, statuses, acknowledgements."""

import asyncio
import base64
import datetime as dt
import ipaddress
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import hl7
import pytest
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server
from pydantic import TypeAdapter, ValidationError

from service.lims.adapters import MllpAdapter, open_adapter, sign_webhook
from service.lims.connection import ForbiddenAddressError, is_public, open_guarded
from service.lims.destinations import Destination, MllpDestination
from service.lims.http_exchange import HttpReply, parse_retry_after, post
from service.lims.messages import Message
from service.lims.mllp import read_acknowledgement
from service.lims.outcome import Outcome
from service.outputs.codes import LOCAL_REPORTING
from service.outputs.hl7 import build_oru_r01, control_id
from service.outputs.report import reported_result
from service.settings import Settings

OLD, NEW = b"a" * 24, b"b" * 24


def secret(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


def destination(**members: Any) -> Any:
    return TypeAdapter(Destination).validate_python({"name": "d", **members})


@pytest.fixture(scope="module")
def oru(repository: Path) -> Message:
    """A real ORU^R01."""
    document = json.loads((repository / "docs" / "lims" / "result.json").read_bytes())
    report = reported_result(document)
    return Message("k", control_id(report), build_oru_r01(report))


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of the Standard Webhooks reference libraries.
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign_webhook(
        [key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_during_rotation_both_secrets_sign(
    receiver: ModuleType, serve: Callable[[Any], int]
) -> None:
    inbox = receiver.Inbox()
    for accepted in (OLD, NEW):
        port = serve(receiver.http_server(0, inbox, secret(accepted)))
        hook = destination(
            kind="webhook",
            url=f"http://127.0.0.1:{port}/webhook",
            secrets=[secret(OLD), secret(NEW)],
            allow_private=True,
        )
        adapter = open_adapter(hook, LOCAL_REPORTING)
        outcome = asyncio.run(adapter.send(Message(accepted.hex(), "", b"{}")))
        assert outcome == Outcome("accepted", "HTTP 200")
    stranger = serve(receiver.http_server(0, inbox, secret(b"c" * 24)))
    other = hook.model_copy(update={"url": f"http://127.0.0.1:{stranger}/webhook"})
    outcome = asyncio.run(open_adapter(other, LOCAL_REPORTING).send(Message("k", "", b"{}")))
    assert outcome == Outcome("refused", "HTTP 401")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),  # noqa: S104  not bound
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::1", False),
    ],
)
def test_what_is_public(address: str, *, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_connection_inside_unless_allowed(
    receiver: ModuleType, serve: Callable[[Any], int], host: str
) -> None:
    inbox = receiver.Inbox()
    port = serve(receiver.http_server(0, inbox, None))
    url = f"http://{host}:{port}/webhook"
    with pytest.raises(ForbiddenAddressError):
        asyncio.run(post(url, {"webhook-id": "k"}, b"{}", allow_private=False))
    with pytest.raises(ForbiddenAddressError):
        asyncio.run(open_guarded(host, port, tls=False, allow_private=False))
    assert inbox.arrivals == []
    assert asyncio.run(post(url, {"webhook-id": "k"}, b"{}", allow_private=True)).status == 200


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, "accepted"), (201, "accepted"), (302, "retry"), (400, "refused"), (404, "refused"),
        (408, "retry"), (409, "retry"), (410, "gone"), (422, "refused"), (425, "retry"),
        (429, "retry"), (500, "retry"), (503, "retry"),
    ],
)  # fmt: skip
def test_what_statuses_mean(status: int, kind: str) -> None:
    assert HttpReply(status, None).outcome().kind == kind


def test_retry_after_in_seconds_or_as_a_date() -> None:
    now = dt.datetime(2026, 11, 22, 12, 0, 0, tzinfo=dt.UTC)
    assert parse_retry_after("120", now) == 120.0
    assert parse_retry_after("Sun, 22 Nov 2026 12:01:00 GMT", now) == 60.0
    assert parse_retry_after("Sun, 22 Nov 2026 11:00:00 GMT", now) == 0.0
    assert parse_retry_after("soon", now) is None
    for beyond in ("Fri, 13 Nov 99999999999999999999 00:00:00 GMT",
                   "Fri, 13 Nov 2026 00:00:00 +99999999999999"):  # fmt: skip
        assert parse_retry_after(beyond, now) is None


async def _with_hl7_server(
    code: str, then: Callable[[MllpAdapter], Awaitable[Outcome]]
) -> tuple[Outcome, list[hl7.Message]]:
    received: list[hl7.Message] = []

    async def handle(reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        message = await reader.readmessage()
        received.append(message)
        writer.writemessage(message.create_ack(ack_code=code))
        await writer.drain()
        writer.close()

    async with await start_hl7_server(handle, "127.0.0.1", 0, encoding="utf-8") as server:
        port = server.sockets[0].getsockname()[1]
        listener = MllpDestination(
            name="d", kind="mllp", host="127.0.0.1", port=port, allow_private=True
        )
        return await then(MllpAdapter(listener, LOCAL_REPORTING)), received


@pytest.mark.parametrize(("code", "kind"), [("AA", "accepted"), ("AE", "retry"), ("AR", "refused")])
def test_mllp_against_the_hl7_package(oru: Message, code: str, kind: str) -> None:
    outcome, (message,) = asyncio.run(_with_hl7_server(code, lambda adapter: adapter.send(oru)))
    assert outcome == Outcome(kind, f"ACK {code}")  # type: ignore[arg-type]  # parametrised
    assert str(message["MSH"][0][10]) == oru.control_id


def test_an_acknowledgement_of_something_else_proves_nothing() -> None:
    assert read_acknowledgement(b"MSH|^~\\&\rMSA|AA|other\r", "mine").kind == "retry"
    assert read_acknowledgement(b"MSH|^~\\&\rMSA|AA|mine\r", "mine").kind == "accepted"
    assert read_acknowledgement(b"nonsense", "mine").kind == "retry"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"kind": "webhook", "url": "http://h/", "secrets": []}, "secrets"),
        ({"kind": "webhook", "url": "http://h/", "secrets": ["whsec_c2hvcnQ="]}, "24 to 64 bytes"),
        ({"kind": "fhir", "url": "ftp://h/"}, "http://"),
        ({"kind": "fhir", "url": "http://user:pw@h/"}, "user name"),
        ({"kind": "fhir", "url": "http://h/", "Name": "x"}, "Extra inputs"),
        ({"kind": "mllp", "host": "h", "port": 0}, "port"),
        ({"kind": "pigeon"}, "kind"),
    ],
)
def test_destinations_that_are_refused(members: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        Settings.model_validate({"deliveries": [{"name": "d", **members}]})
    assert "c2hvcnQ" not in str(caught.value), "a message shows a secret"


def test_settings_hide_secrets_and_refuse_contradictions(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = {"name": "d", "kind": "webhook", "url": "https://h/", "secrets": [secret(OLD)]}
    monkeypatch.setenv("KARYON_DELIVERIES", json.dumps([hook]))
    assert secret(OLD) not in repr(Settings())
    with pytest.raises(ValidationError, match="need records"):
        Settings(records=False)
    monkeypatch.setenv("KARYON_DELIVERIES", json.dumps([hook, hook]))
    with pytest.raises(ValidationError, match="same name"):
        Settings()
