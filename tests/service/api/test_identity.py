"""Whose result it is: laboratory identifiers in, echoed everywhere; patient data refused."""

import csv
import io
from typing import Any

import hl7
import httpx2 as httpx
import orjson
import pytest
from fastapi.testclient import TestClient

from service.api.identity import is_patient_field

IDENTITY = {"accession": "S26/1234-A", "specimen_id": "BLK:1.2", "order_id": "ORD_778812"}


def post(client: TestClient, image: bytes, **options: Any) -> httpx.Response:
    return client.post("/segment", files={"image": ("x.png", image)}, **options)


def test_json_echoes_the_query_and_the_form(client: TestClient, he_png: bytes) -> None:
    assert post(client, he_png, params=IDENTITY).json()["identity"] == IDENTITY
    assert post(client, he_png, data=IDENTITY).json()["identity"] == IDENTITY
    mixed = post(client, he_png, params={"accession": "S26-1"}, data={"order_id": "O-2"}).json()[
        "identity"
    ]
    assert mixed == {"accession": "S26-1", "specimen_id": None, "order_id": "O-2"}
    assert set(post(client, he_png).json()["identity"].values()) == {None}


def test_every_representation_echoes_it(client: TestClient, he_png: bytes) -> None:
    def body(name: str) -> httpx.Response:
        response = post(client, he_png, params={**IDENTITY, "format": name})
        assert response.status_code == 200, response.text
        assert response.headers["x-karyon-accession"] == IDENTITY["accession"]
        assert response.headers["x-karyon-specimen-id"] == IDENTITY["specimen_id"]
        assert response.headers["x-karyon-order-id"] == IDENTITY["order_id"]
        return response

    body("png")
    assert orjson.loads(body("geojson").content)["karyon"]["identity"] == IDENTITY
    row = next(csv.DictReader(io.StringIO(body("csv").text, newline="")))
    assert {name: row[name] for name in IDENTITY} == IDENTITY
    information = orjson.loads(body("coco").content)["info"]
    assert {name: information[name] for name in IDENTITY} == IDENTITY
    fhir = body("fhir").text
    assert all(value in fhir for value in IDENTITY.values())
    message = hl7.parse(body("hl7").text)
    assert str(message.segment("OBR")[2]) == IDENTITY["order_id"]
    assert str(message.segment("SPM")[2]) == IDENTITY["specimen_id"]


@pytest.mark.parametrize(
    "value",
    ["", "Smith", "S26 1234", "S26^1", "S26|1", "-26", "=1+1", "S26\r\nX: 1", "Ü26", "9" * 65],
)
@pytest.mark.parametrize("place", ["params", "data"])
def test_other_characters_and_bare_names_are_refused(
    client: TestClient, he_png: bytes, value: str, place: str
) -> None:
    response = post(client, he_png, **{place: {"accession": value}})
    assert response.status_code == 422, response.text
    problem = response.json()
    assert problem["type"] == "/problems/invalid-parameter"
    assert problem["errors"][0]["location"][-1] == "accession"
    if value:
        assert value not in problem["detail"]


@pytest.mark.parametrize(
    "name",
    ["name", "patient_name", "PatientID", "birth_date", "birthDate", "dob", "MRN", "sex", "email",
     "patient_class", "date-of-birth", "nhs_number", "address"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["params", "data"])
def test_patient_data_are_refused_with_a_reason(
    client: TestClient, he_png: bytes, name: str, place: str
) -> None:
    # What else is wrong does not come first.
    params = {"threshold": "7"} if place == "params" else {}
    options = {"params": params} | {place: {name: "Erika Mustermann"} | params}
    response = post(client, he_png, **options)
    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "/problems/patient-data-refused"
    assert "accession" in problem["detail"]
    assert problem["errors"][0]["location"] == [{"params": "query", "data": "body"}[place], name]
    assert "Mustermann" not in response.text


def test_options_and_identifiers_are_no_patient_fields() -> None:
    for name in ("accession", "specimen_id", "order_id", "image", "mask", "model", "mpp", "format"):
        assert not is_patient_field(name)


def test_given_twice_is_refused(client: TestClient, he_png: bytes) -> None:
    both = post(client, he_png, params={"accession": "A1"}, data={"accession": "A1"})
    assert both.status_code == 422
    assert "give it once" in both.json()["detail"]
    parts = [("image", ("x.png", he_png)), ("accession", (None, "A1")), ("accession", (None, "A2"))]
    doubled = client.post("/segment", files=parts)
    assert doubled.status_code == 422
    assert doubled.json()["errors"][0]["location"] == ["body", "accession"]


def test_neither_logs_nor_metrics_hold_it(
    client: TestClient, he_png: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ({"params": {"accession": "SECRET-77"}}, {"data": {"accession": "SECRET-77"}}):
        assert post(client, he_png, **options).status_code == 200
    assert post(client, he_png, params={"accession": "SECRET 77"}).status_code == 422
    written = capsys.readouterr()
    assert "/segment" in written.out + written.err
    assert "SECRET" not in written.out + written.err
    assert "SECRET" not in client.get("/metrics").text
