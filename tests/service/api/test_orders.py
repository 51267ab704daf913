"""Orders over HTTP: both kinds of message in, images bound to them, unknown accessions."""

import copy
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hl7
import httpx2 as httpx
import orjson
import pytest
from fastapi.testclient import TestClient
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.operationoutcome import OperationOutcome
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from service.api.order_answers import BUNDLE_EXAMPLE, OML_EXAMPLE, FiledOrders, OrderList
from service.api.record_answers import RecordedResultAnswer
from service.api.schemas import SegmentationAnswer
from service.app import create_app
from service.records.database import Database
from service.records.verification import verify
from service.settings import Settings

FHIR, ER7, HL7 = "application/fhir+json", "x-application/hl7-v2+er7", "application/hl7-v2"


def opened(settings: Settings, folder: Path, **changes: Any) -> Iterator[TestClient]:
    values = {**settings.model_dump(), "data_dir": folder, **changes}
    with TestClient(
        create_app(Settings.model_validate(values)), raise_server_exceptions=False
    ) as client:
        yield client
    database = Database.open(None, folder)
    with database.reading() as connection:
        assert verify(connection).problem is None
    database.close()


@pytest.fixture(scope="module")
def ordering_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="module")
def ordering(api_settings: Settings, ordering_folder: Path) -> Iterator[TestClient]:
    """The service as it is by default, with a low bound on orders."""
    yield from opened(api_settings, ordering_folder, max_order_bytes=4096)


@pytest.fixture(scope="module")
def refusing(
    api_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("refusing")
    yield from opened(api_settings, folder, unknown_accession="refuse")


@pytest.fixture(scope="module")
def holding(
    api_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("holding")
    target = {
        "name": "lims", "kind": "mllp", "host": "127.0.0.1", "port": 1, "allow_private": True,
    }  # fmt: skip
    yield from opened(api_settings, folder, unknown_accession="hold", deliveries=[target])


def oml(number: int, control: str = "NW") -> str:
    """An OML^O21 of order ORD-<number> for the accession S26-<number>."""
    text = OML_EXAMPLE.replace("ORD-778812", f"ORD-{number}").replace("NW", control)
    text = text.replace("LAB-26-0991", f"LAB-{number}").replace("S26-1234", f"S26-{number}")
    return text.replace("\rORC", "\rPID|1||9||Mustermann^Erika||19700101\rORC")


def send(client: TestClient, body: Any, kind: str = ER7, **headers: str) -> httpx.Response:
    content = body if isinstance(body, (str, bytes)) else orjson.dumps(body)
    given = {
        "Content-Type": kind,
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    return client.post("/orders", content=content, headers=given)


def placed(client: TestClient, number: int) -> dict[str, Any]:
    response = send(client, oml(number))
    assert response.status_code == 200, response.text
    order: dict[str, Any] = response.json()["orders"][0]
    return order


def segment(client: TestClient, image: bytes, **params: str) -> httpx.Response:
    return client.post("/segment", files={"image": image}, params=params)


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix("/problems/")


def test_hl7_and_fhir_place_the_same_order(ordering: TestClient) -> None:
    first = send(ordering, OML_EXAMPLE)
    (order,) = FiledOrders.model_validate_json(first.content).orders
    assert (order.status, order.accession, order.results) == ("open", "S26-1234", [])
    second = send(ordering, BUNDLE_EXAMPLE, FHIR)
    assert second.json() == first.json()
    outcome = send(ordering, BUNDLE_EXAMPLE, FHIR, Accept=FHIR)
    assert outcome.headers["content-type"] == FHIR
    OperationOutcome.model_validate_json(outcome.content)
    assert ordering.get(f"/orders/{order.id}").json() == first.json()["orders"][0]
    listed = ordering.get("/orders", params={"accession": "S26-1234", "status": "open"})
    assert [item.id for item in OrderList.model_validate_json(listed.content).orders] == [order.id]


def test_fhir_is_refused_in_fhir_where_accept_asks_for_it(ordering: TestClient) -> None:
    def refused(body: bytes | dict[str, Any]) -> tuple[int, str, list[str] | None]:
        response = send(ordering, body, FHIR, Accept=FHIR)
        assert response.headers["content-type"] == FHIR
        assert response.headers["vary"] == "Accept"
        OperationOutcome.model_validate_json(response.content)
        (issue,) = response.json()["issue"]
        assert issue["severity"] == "error"
        return response.status_code, issue["code"], issue.get("expression")

    draft = copy.deepcopy(BUNDLE_EXAMPLE)
    draft["entry"][0]["resource"]["status"] = "draft"
    assert refused(draft) == (422, "value", ["Bundle.entry[0].resource.status"])
    nameless = copy.deepcopy(BUNDLE_EXAMPLE)
    del nameless["entry"][0]["resource"]["identifier"][0]
    assert refused(nameless) == (422, "required", ["Bundle.entry[0].resource.identifier"])
    assert send(ordering, BUNDLE_EXAMPLE, FHIR).status_code == 200
    other = copy.deepcopy(BUNDLE_EXAMPLE)
    other["entry"][1]["resource"]["identifier"][0]["value"] = "S26-1234-B1"
    assert refused(other) == (409, "conflict", ["Bundle.entry[0].resource"])
    assert refused(b"{")[:2] == (400, "structure")


def test_hl7_is_acknowledged_where_accept_asks_for_it(ordering: TestClient) -> None:
    def answered(body: str, kind: str = ER7) -> tuple[int, str, str]:
        response = send(ordering, body, Accept=kind)
        assert response.headers["content-type"].startswith(kind)
        message = parse_message(response.text, validation_level=VALIDATION_LEVEL.STRICT)
        assert message.validate()
        parsed = hl7.parse(response.text)
        error = str(parsed.segment("ERR")[3][0][0]) if "ERR" in response.text else ""
        return response.status_code, str(parsed.segment("MSA")[1]), error

    assert answered(oml(10)) == (200, "AA", "")
    assert answered(oml(10, "CA"), HL7) == (200, "AA", "")
    assert answered(oml(10).replace("LAB-10", "LAB-11")) == (409, "AE", "205")
    assert answered(oml(11, "CA")) == (422, "AE", "204")
    assert answered(oml(11, "XO")) == (422, "AE", "103")
    assert answered(oml(11).replace("OML^O21", "ADT^A01")) == (400, "AR", "200")
    assert answered("?") == (400, "AR", "100")


def test_what_is_wrong_is_a_problem_otherwise(ordering: TestClient) -> None:
    assert problem(send(ordering, oml(12, "XO"))) == (422, "unusable-order")
    where = send(ordering, oml(12, "XO")).json()["errors"][0]["location"]
    assert where == ["body", "ORC^1^1"]
    assert problem(send(ordering, oml(12, "CA"))) == (422, "unusable-order")
    assert problem(send(ordering, "?")) == (400, "malformed-request")
    assert problem(send(ordering, b"{", FHIR)) == (400, "malformed-request")
    assert problem(send(ordering, oml(12), Accept="image/png")) == (406, "not-acceptable")
    assert problem(send(ordering, BUNDLE_EXAMPLE, FHIR, Accept=ER7)) == (406, "not-acceptable")
    assert problem(send(ordering, oml(12), "text/plain")) == (415, "unsupported-body")
    assert problem(send(ordering, oml(12), Content_Encoding="gzip")) == (415, "unsupported-body")
    assert problem(send(ordering, oml(12) + "NTE|" * 1024)) == (413, "body-too-large")
    assert problem(ordering.get(f"/orders/{'0' * 32}")) == (404, "unknown-order")
    assert ordering.get("/orders", params={"accession": "S26-12"}).json()["orders"] == []


def test_nothing_of_a_patient_is_kept(
    ordering: TestClient, ordering_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = copy.deepcopy(BUNDLE_EXAMPLE)
    patient = {"resourceType": "Patient", "name": [{"family": "Mustermann"}]}
    bundle["entry"].append({"resource": patient, "request": {"method": "POST", "url": "Patient"}})
    Bundle.model_validate(bundle)
    answers = [
        send(ordering, bundle, FHIR, Idempotency_Key="p-1"),
        send(ordering, oml(13), Idempotency_Key="p-2"),
        send(ordering, oml(14).replace("ORD-14", "Mustermann")),
        ordering.get("/audit"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 422, 200]
    assert "Mustermann" not in "".join(answer.text for answer in answers)
    written = capsys.readouterr()
    assert "Mustermann" not in written.out + written.err
    files = [file for file in ordering_folder.rglob("*") if file.is_file()]
    assert files
    assert not any(b"Mustermann" in file.read_bytes() for file in files)


def test_a_key_makes_a_repetition_safe(ordering: TestClient) -> None:
    first = send(ordering, oml(15), Idempotency_Key="o-1")
    again = send(ordering, oml(15), Idempotency_Key="o-1")
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    other = send(ordering, oml(16), Idempotency_Key="o-1")
    assert problem(other) == (422, "idempotency-key-reused")


def test_an_image_takes_the_numbers_of_its_order(ordering: TestClient, he_png: bytes) -> None:
    order = placed(ordering, 20)
    response = segment(ordering, he_png, accession="S26-20")
    answer = SegmentationAnswer.model_validate_json(response.content)
    assert answer.order is not None
    assert (answer.order.id, answer.order.filler_number) == (order["id"], "LAB-20")
    assert response.json()["identity"] == {
        "accession": "S26-20", "specimen_id": "S26-20-A1", "order_id": "ORD-20",
    }  # fmt: skip
    record = ordering.get(f"/results/{answer.id}")
    recorded = RecordedResultAnswer.model_validate_json(record.content)
    assert recorded.order is not None
    assert (recorded.order.id, recorded.held) == (order["id"], False)
    listed = ordering.get("/results", params={"order_id": "ORD-20"}).json()["results"]
    assert [item["id"] for item in listed] == [answer.id]
    now = ordering.get(f"/orders/{order['id']}").json()
    assert (now["status"], now["results"]) == ("in-progress", [answer.id])
    message = hl7.parse(segment(ordering, he_png, accession="S26-20", format="hl7").text)
    assert [str(message.segment("OBR")[field]) for field in (2, 18, 20)] == [
        "ORD-20", "S26-20", "LAB-20",
    ]  # fmt: skip
    assert str(message.segment("ORC")[2]) == "ORD-20"
    bundle = segment(ordering, he_png, accession="S26-20", format="fhir").content
    Bundle.model_validate_json(bundle)
    based_on = orjson.loads(bundle)["entry"][0]["resource"]["basedOn"]
    assert [item["identifier"]["value"] for item in based_on] == ["ORD-20", "LAB-20"]
    body = {"decision": "accept", "reviewer": "r-1"}
    for result_id in ordering.get(f"/orders/{order['id']}").json()["results"]:
        headers = {"If-Match": "*"}
        ordering.post(f"/results/{result_id}/review", json=body, headers=headers)
    assert ordering.get(f"/orders/{order['id']}").json()["status"] == "completed"
    assert problem(send(ordering, oml(20, "CA"))) == (409, "order-conflict")


def test_by_default_an_unknown_accession_is_answered_as_ever(
    ordering: TestClient, he_png: bytes
) -> None:
    answer = segment(ordering, he_png, accession="S26-404").json()
    assert answer.keys().isdisjoint({"order"})
    placed(ordering, 404)
    recorded = ordering.get(f"/results/{answer['id']}").json()
    assert (recorded["order"], recorded["held"], recorded["order_id"]) == (None, False, None)


def test_an_unknown_accession_is_refused_where_that_is_set(
    refusing: TestClient, he_png: bytes
) -> None:
    assert problem(segment(refusing, he_png, accession="S26-30")) == (422, "unknown-accession")
    placed(refusing, 30)
    assert segment(refusing, he_png, accession="S26-30").status_code == 200
    other = segment(refusing, he_png, accession="S26-30", order_id="ORD-31")
    assert problem(other) == (422, "unknown-accession")
    send(refusing, oml(30, "CA"))
    assert problem(segment(refusing, he_png, accession="S26-30")) == (422, "unknown-accession")
    placed(refusing, 32)
    send(refusing, oml(33).replace("S26-33", "S26-32"))
    assert problem(segment(refusing, he_png, accession="S26-32")) == (422, "unknown-accession")
    named = segment(refusing, he_png, accession="S26-32", order_id="ORD-33")
    assert named.json()["order"]["placer_number"] == "ORD-33"
    assert segment(refusing, he_png).status_code == 200, "without an accession there is no order"


def test_a_result_is_held_until_its_order_comes(holding: TestClient, he_png: bytes) -> None:
    answer = segment(holding, he_png, accession="S26-40").json()
    recorded = holding.get(f"/results/{answer['id']}").json()
    assert (recorded["held"], recorded["order"]) == (True, None)
    (delivery,) = holding.get("/deliveries", params={"status": "held"}).json()["deliveries"]
    assert (delivery["result_id"], delivery["attempts"]) == (answer["id"], 0)
    assert problem(holding.post(f"/deliveries/{delivery['id']}/resend")) == (409, "delivery-held")
    order = placed(holding, 40)
    assert order["results"] == [answer["id"]]
    assert holding.get("/results", params={"held": "true"}).json()["results"] == []
    released = holding.get("/deliveries", params={"result_id": answer["id"]}).json()["deliveries"]
    assert [item["status"] for item in released] == ["pending"]
    recorded = holding.get(f"/results/{answer['id']}").json()
    assert (recorded["held"], recorded["order_id"]) == (False, "ORD-40")
    # The signed answer is as it was sent; what is delivered names the order.
    assert recorded["document"]["identity"]["order_id"] is None
    trail = [json.loads(line) for line in holding.get("/audit").text.splitlines()]
    told = [line["action"] for line in trail if line["subject"] == answer["id"]]
    assert [action for action in told if action in ("result.held", "result.released")] == [
        "result.held",
        "result.released",
    ]


def test_order_and_image_at_once_are_bound_once(holding: TestClient, he_png: bytes) -> None:
    numbers = range(50, 56)

    def images() -> None:
        for number in numbers:
            segment(holding, he_png, accession=f"S26-{number}")

    def orders() -> None:
        for number in numbers:
            send(holding, oml(number))

    threads = [threading.Thread(target=work) for work in (images, orders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in numbers:
        (order,) = holding.get("/orders", params={"accession": f"S26-{number}"}).json()["orders"]
        (result_id,) = order["results"]
        recorded = holding.get(f"/results/{result_id}").json()
        assert (recorded["held"], recorded["order"]["id"]) == (False, order["id"])
        sent = holding.get("/deliveries", params={"result_id": result_id}).json()["deliveries"]
        assert [item["status"] for item in sent] == ["pending"]


def test_without_records_there_are_no_orders(api_settings: Settings) -> None:
    settings = api_settings.model_copy(update={"records": False})
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        assert problem(send(client, OML_EXAMPLE)) == (404, "records-off")
