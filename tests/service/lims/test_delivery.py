"""Results and reviews reach real receivers, once by key, through failures and kills."""

import base64
import json
import socketserver
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.outputs.png import encode_labels
from service.records.database import Database
from service.records.outbox import delivery_id
from service.records.verification import verify
from service.settings import Settings

Serve = Callable[[Any], int]
Destinations = Callable[..., list[dict[str, Any]]]
Eventually = Callable[[Callable[[], bool], str], None]


def delivering(settings: Settings, folder: Path, targets: list[dict[str, Any]]) -> FastAPI:
    return create_app(
        Settings.model_validate(
            {
                **settings.model_dump(),
                "data_dir": folder,
                "deliveries": targets,
                "delivery_first_retry_s": 0.05,
            }
        )
    )


def listed(client: TestClient, **wanted: Any) -> list[dict[str, Any]]:
    answer = client.get("/deliveries", params={"limit": 100, **wanted})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["deliveries"]
    return found


def pending(client: TestClient) -> bool:
    return bool(listed(client, status="pending"))


def audited(client: TestClient) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.get("/audit").text.splitlines()]


def test_a_result_and_its_review_reach_all_four(
    api_settings: Settings,
    receiver: ModuleType,
    senaite: ModuleType,
    serve: Serve,
    destinations: Destinations,
    webhook_secret: str,
    eventually: Eventually,
    tmp_path: Path,
    he_png: bytes,
) -> None:
    inbox = receiver.Inbox()
    http_port = serve(receiver.http_server(0, inbox, webhook_secret))
    mllp_port = serve(receiver.mllp_server(0, inbox))
    laboratory = senaite.Laboratory()
    laboratory.register("S26-1234", "NUC")
    senaite_port = serve(senaite.senaite_server(0, laboratory, "karyon", "secret"))
    targets = destinations(http_port, mllp_port, senaite_port)
    app = delivering(api_settings, tmp_path, targets)
    with TestClient(app) as client:
        params = {"accession": "S26-1234"}
        made = client.post("/segment", files={"image": he_png}, params=params).json()
        review = {"decision": "edit", "count": 5, "reviewer": "r-1", "reason": "counted"}
        client.post(f"/results/{made['id']}/review", json=review, headers={"If-Match": '"1"'})
        eventually(lambda: not pending(client), "all deliveries end")
        assert {item["status"] for item in listed(client)} == {"delivered"}
        actions = [line["action"] for line in audited(client)]
    assert len(inbox.filed) == len(inbox.arrivals) == 6
    assert actions.count("delivery.queued") == actions.count("delivery.acknowledged") == 8
    assert [
        (item["review_state"], item["Result"]) for item in laboratory.analyses("S26-1234", "NUC")
    ] == [("retracted", str(made["count"])), ("to_be_verified", "5")]
    hooks = [f"webhook:{delivery_id(made['id'], version, 'webhook')}" for version in (1, 2)]
    # In order: the corrected count must not be overwritten by the one before it.
    assert [key for key in inbox.arrivals if key.startswith("webhook:")] == hooks
    first, second = (json.loads(inbox.filed[key]) for key in hooks)
    assert (first["type"], first["data"]["count"]) == ("result.created", made["count"])
    assert (second["type"], second["data"]["count"]) == ("result.reviewed", 5)
    bundles = [json.loads(body) for key, body in inbox.filed.items() if key.startswith("fhir:")]
    assert {bundle["type"] for bundle in bundles} == {"transaction"}
    counts = [b["entry"][1]["resource"]["valueQuantity"]["value"] for b in bundles]
    assert counts == [made["count"], 5]
    messages = [body for key, body in inbox.filed.items() if key.startswith("mllp:")]
    assert [b"|F|" in m or b"|C" in m for m in messages] == [False, True]
    database = Database.open(None, tmp_path)
    with database.reading() as connection:
        assert verify(connection).problem is None
    database.close()


def test_nuclei_drawn_by_hand_bring_their_own_share_of_the_image(
    api_settings: Settings,
    receiver: ModuleType,
    serve: Serve,
    destinations: Destinations,
    webhook_secret: str,
    eventually: Eventually,
    tmp_path: Path,
    he_png: bytes,
) -> None:
    inbox = receiver.Inbox()
    http_port = serve(receiver.http_server(0, inbox, webhook_secret))
    mllp_port = serve(receiver.mllp_server(0, inbox))
    app = delivering(api_settings, tmp_path, destinations(http_port, mllp_port, 1)[:3])
    labels = np.zeros((256, 256), np.int32)
    labels[:64], labels[64:128, :128] = 1, 2  # 24,576 of 65,536 px
    drawn = {"encoding": "png", "data": base64.b64encode(encode_labels(labels)).decode()}
    with TestClient(app) as client:
        made = client.post("/segment", content=he_png, headers={"Content-Type": "image/png"}).json()
        model_s = round(100 * made["foreground_fraction"], 2)
        # What was drawn holds on when the number alone is changed afterwards.
        for change in ({"labels": drawn}, {"count": 3}):
            review = {"decision": "edit", "reviewer": "r-1", "reason": "drawn", **change}
            path = f"/results/{made['id']}/review"
            assert client.post(path, json=review, headers={"If-Match": "*"}).status_code == 200
        eventually(lambda: not pending(client), "all deliveries end")
    wanted = [model_s, 37.5, 37.5]
    bundles = [json.loads(body) for key, body in inbox.filed.items() if key.startswith("fhir:")]
    shares = [
        entry["resource"]["valueQuantity"]["value"]
        for bundle in bundles
        for entry in bundle["entry"]
        if entry["resource"].get("code", {}).get("text") == "Share of the image that is nucleus"
    ]
    assert shares == wanted
    messages = [body.decode() for key, body in inbox.filed.items() if key.startswith("mllp:")]
    rows = [row for message in messages for row in message.split("\r") if "area-fraction" in row]
    assert [float(row.split("|")[5]) for row in rows] == wanted


def test_refusals_failures_and_resends(
    api_settings: Settings,
    receiver: ModuleType,
    serve: Serve,
    destinations: Destinations,
    webhook_secret: str,
    eventually: Eventually,
    tmp_path: Path,
    he_png: bytes,
) -> None:
    class Moody(receiver.Inbox):  # type: ignore[misc, name-defined]  # loaded from examples/ at run time
        answers: list[int] = [503, 422, 410]  # noqa: RUF012  one test alone

        def take(self, kind: str, key: str, body: bytes) -> int:
            status: int = self.answers.pop(0) if self.answers else super().take(kind, key, body)
            return status

    inbox = Moody()
    http_port = serve(receiver.http_server(0, inbox, webhook_secret))
    app = delivering(api_settings, tmp_path, destinations(http_port, 1, 1)[:1])
    with TestClient(app) as client:
        made = client.post("/segment", content=he_png, headers={"Content-Type": "image/png"}).json()
        # 503 is tried again, 422 is for ever.
        eventually(lambda: not pending(client), "the delivery ends")
        (dead,) = listed(client, status="dead", result_id=made["id"])
        assert (dead["attempts"], dead["outcome"]) == (2, "HTTP 422")
        # 410 disables the destination: what comes after is dead at once, and visible.
        assert client.post(f"/deliveries/{dead['id']}/resend").json()["status"] == "pending"
        eventually(lambda: not pending(client), "the resend ends")
        client.post("/segment", content=he_png, headers={"Content-Type": "image/png"})
        assert [item["outcome"] for item in listed(client)] == [
            "the destination answered 410 before and is disabled",
            "HTTP 410",
        ]
        # A resend enables it again, with the same key.
        for item in listed(client):
            client.post(f"/deliveries/{item['id']}/resend")
        eventually(lambda: len(listed(client, status="delivered")) == 2, "both arrive")
        assert f"webhook:{dead['id']}" in inbox.filed
        # A delivered one can be resent: the receiver knows the key.
        client.post(f"/deliveries/{dead['id']}/resend")
        eventually(lambda: len(inbox.arrivals) == 3, "it arrives again")
        assert len(inbox.filed) == 2
        actions = {line["action"] for line in audited(client)}
        assert {"delivery.failed", "delivery.dead", "delivery.resent", "destination.disabled"} <= (
            actions
        )
        review = {"decision": "accept", "reviewer": "r-1"}
        client.post(f"/results/{made['id']}/review", json=review, headers={"If-Match": '"1"'})
        refused = client.post(f"/deliveries/{dead['id']}/resend")
        assert (refused.status_code, refused.json()["type"]) == (
            409,
            "/problems/delivery-superseded",
        )
        assert client.post(f"/deliveries/{'0' * 32}/resend").status_code == 404


def test_receivers_that_hang_up_hang_or_are_nobody(
    api_settings: Settings, serve: Serve, eventually: Eventually, tmp_path: Path, he_png: bytes
) -> None:
    class HangUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)

    class Hang(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while self.request.recv(65_536):
                pass

    closed, silent = (
        serve(socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler))
        for handler in (HangUp, Hang)
    )
    common = {"allow_private": True, "kind": "fhir"}
    targets: list[dict[str, Any]] = [
        {**common, "name": "closes", "url": f"http://127.0.0.1:{closed}/"},
        {**common, "name": "hangs", "url": f"http://127.0.0.1:{silent}/"},
        {**common, "name": "private", "url": f"http://127.0.0.1:{silent}/", "allow_private": False},
        {**common, "name": "no-name", "url": f"http://{'x' * 64}.invalid/"},
        {
            "allow_private": True,
            "name": "mllp",
            "kind": "mllp",
            "host": "127.0.0.1",
            "port": closed,
        },
    ]
    app = delivering(api_settings.model_copy(update={"delivery_timeout_s": 0.3}), tmp_path, targets)
    with TestClient(app) as client:
        client.post("/segment", content=he_png, headers={"Content-Type": "image/png"})
        eventually(lambda: all(item["outcome"] for item in listed(client)), "all were tried")
        said = {item["destination"]: item["outcome"] for item in listed(client, status="pending")}
    assert said.pop("closes") in {"RemoteProtocolError", "ConnectionResetError"}
    assert said.pop("mllp") in {"IncompleteReadError", "ConnectionResetError"}
    assert said.pop("no-name").startswith("Unicode")
    assert said == {"hangs": "no answer in time", "private": "ForbiddenAddressError"}
