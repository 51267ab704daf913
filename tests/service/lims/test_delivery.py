"""Results and reviews reach real receivers, once by key, through failures and kills."""

import base64
import contextlib
import http.client
import json
import os
import random
import signal
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.app import create_app
from service.records.database import Database
from service.records.outbox import delivery_id, list_deliveries
from service.records.schema import ResultRow
from service.records.verification import verify
from service.settings import Settings

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
KILLS = int(os.environ.get("DELIVERY_KILLS", "2"))
Serve = Callable[[Any], int]


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def destinations(http_port: int, mllp_port: int) -> list[dict[str, Any]]:
    url = f"http://127.0.0.1:{http_port}"
    return [
        {
            "name": "hook",
            "kind": "webhook",
            "url": f"{url}/webhook",
            "secrets": [SECRET],
            "allow_private": True,
        },
        {"name": "fhir", "kind": "fhir", "url": f"{url}/fhir", "allow_private": True},
        {
            "name": "hl7",
            "kind": "mllp",
            "host": "127.0.0.1",
            "port": mllp_port,
            "allow_private": True,
        },
    ]


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


def test_a_result_and_its_review_reach_all_three(
    api_settings: Settings, receiver: ModuleType, serve: Serve, tmp_path: Path, he_png: bytes
) -> None:
    inbox = receiver.Inbox()
    http_port = serve(receiver.http_server(0, inbox, SECRET))
    mllp_port = serve(receiver.mllp_server(0, inbox))
    app = delivering(api_settings, tmp_path, destinations(http_port, mllp_port))
    with TestClient(app) as client:
        params = {"accession": "S26-1234"}
        made = client.post("/segment", files={"image": he_png}, params=params).json()
        review = {"decision": "edit", "count": 5, "reviewer": "r-1", "reason": "counted"}
        client.post(f"/results/{made['id']}/review", json=review, headers={"If-Match": '"1"'})
        eventually(lambda: not pending(client), "all deliveries end")
        assert {item["status"] for item in listed(client)} == {"delivered"}
        actions = [line["action"] for line in audited(client)]
    assert len(inbox.filed) == len(inbox.arrivals) == 6
    assert actions.count("delivery.queued") == actions.count("delivery.acknowledged") == 6
    hooks = [f"webhook:{delivery_id(made['id'], version, 'hook')}" for version in (1, 2)]
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


def test_refusals_failures_and_resends(
    api_settings: Settings, receiver: ModuleType, serve: Serve, tmp_path: Path, he_png: bytes
) -> None:
    class Moody(receiver.Inbox):  # type: ignore[misc, name-defined]  # loaded from examples/ at run time
        answers: list[int] = [503, 422, 410]  # noqa: RUF012  one test alone

        def take(self, kind: str, key: str, body: bytes) -> int:
            status: int = self.answers.pop(0) if self.answers else super().take(kind, key, body)
            return status

    inbox = Moody()
    http_port = serve(receiver.http_server(0, inbox, SECRET))
    app = delivering(api_settings, tmp_path, destinations(http_port, 1)[:1])
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


def acknowledged(database: Database) -> int:
    with database.reading() as connection:
        return len(list_deliveries(connection, status="delivered", most=100_000))


def test_receivers_that_hang_up_hang_or_are_nobody(
    api_settings: Settings, serve: Serve, tmp_path: Path, he_png: bytes
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


class Service:
    """The real service in a process of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--port", "0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Karyon is ready"), line
        self.url = line.split()[4]

    def segment(self, image: bytes) -> str:
        """Return the id of a new result."""
        request = urllib.request.Request(  # noqa: S310  loopback
            f"{self.url}/segment", image, {"Content-Type": "image/png"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  loopback
            made: str = json.load(answer)["id"]
            return made

    def segment_or_die(self, image: bytes) -> None:
        """Ask for a result of a process that is about to be killed."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.segment(image)

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_kills_lose_nothing_and_double_nothing(
    tiny_models_dir: Path,
    receiver: ModuleType,
    serve: Serve,
    tmp_path: Path,
    he_png: bytes,
    repository: Path,
) -> None:
    class Slow(receiver.Inbox):  # type: ignore[misc, name-defined]  # loaded from examples/ at run time
        """Files at once and answers late: a kill in between leaves it filed, unacknowledged."""

        def take(self, kind: str, key: str, body: bytes) -> int:
            status: int = super().take(kind, key, body)
            assert self.filed[f"{kind}:{key}"] == body, "one key, one content"
            time.sleep(0.3)
            return status

    inbox = Slow()
    targets = destinations(
        serve(receiver.http_server(0, inbox, SECRET)), serve(receiver.mllp_server(0, inbox))
    )
    environment = {name: value for name, value in os.environ.items() if "KARYON" not in name} | {
        "PYTHONPATH": str(repository),
        "KARYON_MODELS_DIR": str(tiny_models_dir),
        "KARYON_DEFAULT_MODEL": "tiny",
        "KARYON_PROVIDER": "cpu",
        "KARYON_LOAD_VERSIONS": "active",
        "KARYON_DATA_DIR": str(tmp_path),
        "KARYON_DELIVERIES": json.dumps(targets),
        "KARYON_DELIVERY_TIMEOUT_S": "1",
        "KARYON_DELIVERY_FIRST_RETRY_S": "0.1",
    }
    answered: list[str] = []
    for kill in range(KILLS):
        service = Service(environment)
        before = len(inbox.arrivals)
        answered += [service.segment(he_png) for _ in range(3)]
        # The first kill comes when something was filed and not yet acknowledged.
        eventually(lambda before=before: len(inbox.arrivals) > before, "deliveries begin")  # type: ignore[misc]  # the default binds the loop's value
        time.sleep(random.Random(kill).uniform(0.0, 1.0) if kill else 0.05)
        caller = threading.Thread(target=service.segment_or_die, args=(he_png,))
        caller.start()
        time.sleep(random.Random(kill).uniform(0.0, 0.05))
        service.end(signal.SIGKILL)
        caller.join()
    last = Service(environment)
    database = Database.open(None, tmp_path)
    with database.reading() as connection:
        recorded = set(connection.scalars(select(ResultRow.id)))
    # What was answered is on record; what the kill cut off may be, and is delivered then too.
    assert set(answered) <= recorded
    hooks = {f"webhook:{delivery_id(result_id, 1, 'hook')}" for result_id in recorded}
    eventually(lambda: len(inbox.filed) >= 3 * len(recorded), "every result reaches all three")
    assert {key for key in inbox.filed if key.startswith("webhook:")} == hooks
    eventually(lambda: acknowledged(database) == 3 * len(recorded), "all is acknowledged")
    last.end(signal.SIGTERM)
    assert len(inbox.filed) == 3 * len(recorded), "nothing is there twice under two keys"
    assert len(inbox.arrivals) > len(inbox.filed), "no kill came between filing and answering"
    with database.reading() as connection:
        verdict = verify(connection)
    database.close()
    assert (verdict.problem, verdict.results) == (None, len(recorded))
    print(f"{KILLS} kills: {len(recorded)} results, {len(inbox.arrivals)} arrivals,", end=" ")
    print(f"{len(inbox.filed)} filed at 3 destinations, 0 lost, chain verifies")
