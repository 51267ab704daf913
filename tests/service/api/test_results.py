"""Recorded results over HTTP: reading, searching, reviewing, the trail, the way to training."""

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.api.record_answers import (
    AuditLine,
    RecordedResultAnswer,
    ResultHistory,
    ResultList,
)
from service.app import create_app
from service.images.decode import ImageLimits
from service.outputs.digests import digest_pixels
from service.outputs.png import encode_labels
from service.outputs.rle import encode_label_rles
from service.records.database import Database
from service.records.verification import verify, verify_export
from service.reviewed import export_reviewed
from service.settings import Settings
from training.datasets import read_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def app(api_settings: Settings, folder: Path) -> FastAPI:
    return create_app(api_settings.model_copy(update={"data_dir": folder, "keep_images": True}))


@pytest.fixture(scope="module")
def recording(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def made(recording: TestClient, he_png: bytes) -> dict[str, Any]:
    """A fresh answer of POST /segment."""
    response = recording.post("/segment", files={"image": he_png}, params={"include": "nuclei"})
    answer: dict[str, Any] = response.json()
    return answer


def review(client: TestClient, result_id: str, version: Any = 1, **body: Any) -> Any:
    headers = {} if version is None else {"If-Match": f'"{version}"'}
    document = {"reviewer": "r-1", "reason": "because", **body}
    return client.post(f"/results/{result_id}/review", json=document, headers=headers)


def test_an_answer_is_on_record_when_it_arrives(
    recording: TestClient, made: dict[str, Any], he_png: bytes
) -> None:
    response = recording.get(f"/results/{made['id']}")
    assert response.headers["etag"] == '"1"'
    assert response.headers["cache-control"] == "no-store"
    record = RecordedResultAnswer.model_validate_json(response.content)
    assert record.document["image"] == made["image"]
    assert record.document["model"] == made["model"]
    assert record.document["quality"] == made["quality"]
    assert record.document["parameters"] == made["parameters"]
    assert record.document["provider"] == made["provider"]
    assert "nuclei" not in record.document
    # The very document that was sent, with the very statement about it.
    assert record.document["provenance"] == made["provenance"]
    assert set(made["timings_ms"]) <= set(record.document["timings_ms"])
    pixels = cv2.imdecode(np.frombuffer(he_png, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    rgb = np.ascontiguousarray(pixels[..., ::-1])
    assert record.pixel_sha256 == made["image"]["pixel_sha256"] == digest_pixels(rgb)
    assert {"karyon", "onnxruntime", "opencv", "numpy", "python"} <= set(record.software)
    assert (record.caller, record.current.count) == ("anonymous", made["count"])
    assert record.current.status == "preliminary"


def test_a_png_answer_is_on_record_too(recording: TestClient, he_png: bytes) -> None:
    response = recording.post("/segment", files={"image": he_png}, headers={"Accept": "image/png"})
    record = recording.get(f"/results/{response.headers['x-karyon-id']}").json()
    assert str(record["current"]["count"]) == response.headers["x-karyon-count"]
    assert record["document"]["parameters"]["mask"] == "binary"


def test_listing_pages_and_filters(recording: TestClient, he_png: bytes) -> None:
    ids = [recording.post("/segment", files={"image": he_png}).json()["id"] for _ in range(3)][::-1]
    first = recording.get("/results", params={"limit": 2})
    ResultList.model_validate_json(first.content)
    second = recording.get("/results", params={"limit": 2, "cursor": first.json()["next_cursor"]})
    shown = [item["id"] for page in (first, second) for item in page.json()["results"]]
    assert shown[:3] == ids
    assert recording.get("/results", params={"accession": "A"}).json()["results"] == []
    case = {"accession": "S26-7", "specimen_id": "S26-7-A1", "order_id": "ORD-1"}
    filed = recording.post("/segment", files={"image": he_png}, params=case).json()
    (found,) = recording.get("/results", params=case).json()["results"]
    assert found["id"] == filed["id"]
    assert {name: found[name] for name in case} == case
    assert recording.get("/results", params={"since": "2099-01-01"}).json()["results"] == []
    assert recording.get("/results", params={"until": "2099-01-01T00:00+02:00"}).json()["results"]
    for wrong in ({"since": "0001-01-01T00:00:00+23:00"}, {"since": "12"}, {"cursor": "x"},
                  {"limit": 0}, {"colour": "red"}, {"accession": "\0"}):  # fmt: skip
        response = recording.get("/results", params=wrong)
        assert response.status_code == 422, wrong


@pytest.mark.parametrize("path", ["/results/" + "0" * 32, "/results/" + "0" * 32 + "/history"])
def test_an_unknown_result_is_a_404(recording: TestClient, path: str) -> None:
    response = recording.get(path)
    assert (response.status_code, response.json()["type"]) == (404, "/problems/unknown-result")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"decision": "accept"}, "final"),
        ({"decision": "edit", "count": 3}, "corrected"),
        ({"decision": "reject"}, "cancelled"),
    ],
)
def test_a_review_changes_status_and_keeps_history(
    recording: TestClient, made: dict[str, Any], body: dict[str, Any], status: str
) -> None:
    response = review(recording, made["id"], **body)
    assert response.status_code == 200, response.text
    assert response.headers["etag"] == '"2"'
    now = RecordedResultAnswer.model_validate_json(response.content).current
    assert (now.status, now.version) == (status, 2)
    assert now.count == body.get("count", made["count"])
    history = recording.get(f"/results/{made['id']}/history")
    first, second = ResultHistory.model_validate_json(history.content).versions
    assert (first.status, first.count, first.review) == ("preliminary", made["count"], None)
    assert second.review is not None
    assert (second.review.reviewer, second.review.reason) == ("r-1", "because")
    listed = recording.get("/results", params={"status": status}).json()["results"]
    assert made["id"] in [item["id"] for item in listed]


def test_decisions_that_do_not_fit_the_status_are_refused(
    recording: TestClient, made: dict[str, Any]
) -> None:
    assert review(recording, made["id"], decision="accept").status_code == 200
    again = review(recording, made["id"], 2, decision="accept")
    assert (again.status_code, again.json()["type"]) == (409, "/problems/review-conflict")
    assert review(recording, made["id"], 2, decision="reject").status_code == 200
    assert review(recording, made["id"], 3, decision="edit", count=1).status_code == 409


def test_no_review_overwrites_another_unseen(recording: TestClient, made: dict[str, Any]) -> None:
    assert review(recording, made["id"], None, decision="accept").status_code == 428
    assert review(recording, made["id"], 1, decision="edit", count=5).status_code == 200
    stale = review(recording, made["id"], 1, decision="edit", count=6)
    assert (stale.status_code, stale.json()["type"]) == (412, "/problems/stale-version")
    assert review(recording, made["id"], "x", decision="edit", count=6).status_code == 412
    assert recording.get(f"/results/{made['id']}").json()["current"]["count"] == 5


def test_a_repeated_review_under_one_key_happens_once(
    recording: TestClient, made: dict[str, Any]
) -> None:
    headers = {"If-Match": '"1"', "Idempotency-Key": f"review-{made['id']}"}
    body = {"decision": "accept", "reviewer": "r-1"}
    answers = [
        recording.post(f"/results/{made['id']}/review", json=body, headers=headers)
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    assert answers[0].headers["etag"] == answers[1].headers["etag"] == '"2"'


def drawn(height: int = 256, width: int = 256) -> np.ndarray[Any, Any]:
    """Two squares, numbered 5 and 9."""
    labels = np.zeros((height, width), np.int32)
    labels[10:20, 10:20], labels[30:50, 40:50] = 5, 9
    return labels


@pytest.mark.parametrize("encoding", ["png", "rle"])
def test_drawn_labels_give_the_count(
    recording: TestClient, made: dict[str, Any], encoding: str, folder: Path
) -> None:
    labels: dict[str, Any] = {"encoding": encoding}
    if encoding == "png":
        labels["data"] = base64.b64encode(encode_labels(drawn())).decode()
    else:
        runs = encode_label_rles(drawn())
        labels["nuclei"] = [item for item in runs if len(item["counts"]) > 1]
    response = review(recording, made["id"], decision="edit", labels=labels)
    assert response.status_code == 200, response.text
    current = response.json()["current"]
    assert current["count"] == 2
    database = Database.open(None, folder)
    with database.reading() as connection:
        kept = connection.exec_driver_sql(
            "SELECT labels_png FROM result_versions WHERE result_id = ? AND version = 2",
            (made["id"],),
        ).scalar_one()
    database.close()
    assert current["review"]["labels_sha256"] == hashlib.sha256(kept).hexdigest()
    image = cv2.imdecode(np.frombuffer(kept, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image.dtype == np.uint16
    assert (image == np.searchsorted([0, 5, 9], drawn())).all()


PNG_64 = base64.b64encode(encode_labels(drawn(64, 64))).decode()
COLOURED = base64.b64encode(
    cv2.imencode(".png", np.zeros((256, 256, 3), np.uint8))[1].tobytes()
).decode()
WHOLE = {"size": [256, 256], "counts": [0, 256 * 256]}


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"decision": "maybe"}, "decision"),
        ({"decision": "edit"}, "count"),
        ({"decision": "edit", "count": -1}, "count"),
        ({"decision": "accept", "count": 3}, "decision"),
        ({"decision": "reject", "reason": None}, "reason"),
        ({"decision": "accept", "reviewer": "a\0b"}, "reviewer"),
        ({"decision": "accept", "reviewer": "  "}, "reviewer"),
        ({"decision": "reject", "reason": " \n\t"}, "reason"),
        ({"decision": "accept", "colour": "red"}, "colour"),
        ({"decision": "edit", "labels": {"encoding": "png", "data": "\u00e4AAA"}}, "labels"),
        ({"decision": "edit", "labels": {"encoding": "png", "data": "?"}}, "labels"),
        ({"decision": "edit", "labels": {"encoding": "png", "data": "AAAA"}}, "labels"),
        ({"decision": "edit", "labels": {"encoding": "png", "data": PNG_64}}, "labels"),
        ({"decision": "edit", "labels": {"encoding": "png", "data": COLOURED}}, "labels"),
        ({"decision": "edit", "labels": {"encoding": "rle", "nuclei": [WHOLE] * 2}}, "labels"),
        (
            {"decision": "edit", "labels": {"encoding": "rle", "nuclei": [
                {"size": [256, 256], "counts": [1, 2]}]}}, "labels",
        ),
        (
            {"decision": "edit", "labels": {"encoding": "rle", "nuclei": [
                {"size": [256, 256], "counts": [2**40, 5, 256 * 256 - 5 - 2**40]}]}}, "labels",
        ),
        (
            {"decision": "edit", "labels": {"encoding": "rle", "nuclei": [
                {"size": [256, 256], "counts": [256 * 256]}]}}, "labels",
        ),
        (
            {"decision": "edit", "count": 2, "labels": {"encoding": "rle", "nuclei": [WHOLE]}},
            "count",
        ),
    ],
)  # fmt: skip
def test_a_review_that_makes_no_sense_is_refused(
    recording: TestClient, made: dict[str, Any], body: dict[str, Any], parameter: str
) -> None:
    response = review(recording, made["id"], **body)
    assert response.status_code == 422, response.text
    assert parameter in response.json()["errors"][0]["location"]
    assert recording.get(f"/results/{made['id']}").json()["current"]["version"] == 1


def test_a_body_that_is_no_json_is_told_so(recording: TestClient, made: dict[str, Any]) -> None:
    headers = {"If-Match": '"1"', "Content-Type": "application/json"}
    path = f"/results/{made['id']}/review"
    answer = recording.post(path, content="{", headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("Invalid JSON")
    assert answer.json()["errors"][0]["location"] == ["body"]


def test_a_foreign_form_is_no_review(recording: TestClient, made: dict[str, Any]) -> None:
    response = recording.post(
        f"/results/{made['id']}/review",
        content='{"decision": "accept", "reviewer": "x"}',
        headers={"Content-Type": "text/plain", "If-Match": "*"},
    )
    assert response.status_code == 415
    assert response.headers["accept-post"] == "application/json"


def test_the_trail_tells_what_happened_and_verifies(
    recording: TestClient, made: dict[str, Any], folder: Path
) -> None:
    recording.get(f"/results/{made['id']}")
    review(recording, made["id"], decision="accept")
    response = recording.get("/audit")
    assert response.headers["content-type"] == "application/jsonl"
    lines = response.content.splitlines()
    trail = [AuditLine.model_validate_json(line) for line in lines]
    assert trail[0].action == "model.activated"
    assert trail[-1].action == "audit.exported"
    assert [line.action for line in trail if line.subject == made["id"]] == [
        "result.created", "result.viewed", "result.reviewed",
    ]  # fmt: skip
    assert verify_export(lines).problem is None
    rest = recording.get("/audit", params={"after": trail[-2].sequence}).content.splitlines()
    assert json.loads(rest[0])["sequence"] == trail[-1].sequence
    database = Database.open(None, folder)
    with database.reading() as connection:
        assert verify(connection).problem is None
    database.close()


def test_reviewed_images_become_training_data(
    api_settings: Settings, he_png: bytes, tmp_path: Path
) -> None:
    settings = api_settings.model_copy(update={"data_dir": tmp_path, "keep_images": True})
    with TestClient(create_app(settings)) as client:
        ids = [client.post("/segment", files={"image": he_png}).json()["id"] for _ in range(5)]
        count = client.get(f"/results/{ids[0]}").json()["current"]["count"]
        png = {"encoding": "png", "data": base64.b64encode(encode_labels(drawn())).decode()}
        bodies: list[dict[str, Any]] = [
            {"decision": "accept"}, {"decision": "edit", "labels": png},
            {"decision": "edit", "count": 1}, {"decision": "reject"},
        ]  # fmt: skip
        for result_id, body in zip(ids, bodies, strict=False):
            assert review(client, result_id, **body).status_code == 200
    database = Database.open(None, tmp_path)
    target = tmp_path / "export"
    with database.reading() as connection:
        assert verify(connection).problem is None
        done = export_reviewed(connection, target, ImageLimits())
        with pytest.raises(FileExistsError):
            export_reviewed(connection, target, ImageLimits())
    database.close()
    assert (done.written, done.without_image, done.without_labels) == (ids[:2], 0, 1)
    samples = read_dataset(target)
    assert [sample.stem for sample in samples] == ["case0001_1", "case0002_1"]
    assert len({sample.group for sample in samples}) == 2
    counts = [len(np.unique(sample.read()[1])) - 1 for sample in samples]
    assert counts == [count, 2]
    original = cv2.imdecode(np.frombuffer(he_png, np.uint8), cv2.IMREAD_COLOR)
    assert original is not None
    assert (samples[0].read()[0] == original[..., ::-1]).all()
    assert all(itertools.starmap(np.array_equal, [(samples[1].read()[1] > 0, drawn() > 0)]))
