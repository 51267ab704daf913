"""The client against a running service: every call, every format, and what goes wrong between."""

import asyncio
import datetime as dt
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import cv2
import httpx2 as httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.api.parameters import SegmentParameters
from service.api.results import ResultQuery
from service.client import AsyncClient, Client, ProblemError, UnreachableError
from service.client.calls import Format, ResultFilter, SegmentOptions
from service.settings import Settings


def test_an_image_is_segmented_from_a_path_bytes_and_pixels(
    running: Any, test_data: Path, he_pixels: NDArray[np.uint8]
) -> None:
    path = test_data / "images" / "tnbc_p08_2.png"
    with Client(running.address) as client:
        answers = [
            client.segment(image, mpp=0.25, include=["nuclei"], accession="S26-1")
            for image in (path, str(path), path.read_bytes(), he_pixels)
        ]
        grey = client.segment(cv2.cvtColor(he_pixels, cv2.COLOR_RGB2GRAY))
    assert len({answer.count for answer in answers}) == 1
    assert len({answer.image.pixel_sha256 for answer in answers}) == 1
    first = answers[0]
    assert first.nuclei is not None
    assert first.count == len(first.nuclei) > 20
    assert first.identity.accession == "S26-1"
    assert first.density_per_mm2 is not None
    assert (grey.image.width, grey.image.height) == (512, 512)


def test_every_format_comes_as_a_file(running: Any, he_pixels: NDArray[np.uint8]) -> None:
    with Client(running.address) as client:
        count = client.segment(he_pixels).count
        files = {kind: client.segment_as(he_pixels, kind) for kind in get_args(Format)}
        labels = client.segment_as(he_pixels, "png", mask="labels")
    assert {kind: file.count for kind, file in files.items()} == dict.fromkeys(files, count)
    assert len({file.id for file in files.values()}) == len(files)
    assert len(json.loads(files["geojson"].body)["features"]) == count
    assert files["fhir"].media_type == "application/fhir+json"
    assert files["hl7"].body.startswith(b"MSH|")
    decoded = cv2.imdecode(np.frombuffer(labels.body, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert decoded.max() == count


def test_results_are_found_read_and_reviewed(
    running: Any, he_pixels: NDArray[np.uint8], he_labels: NDArray[np.int32]
) -> None:
    begun = dt.datetime.now(dt.UTC)
    with Client(running.address) as client:
        made = [client.segment(he_pixels, accession="S26-77") for _ in range(3)]
        page = client.results(accession="S26-77", limit=2)
        assert [item.id for item in page.results] == [made[2].id, made[1].id]
        found = list(client.all_results(accession="S26-77", since=begun - dt.timedelta(minutes=1)))
        assert [item.id for item in found] == [item.id for item in reversed(made)]
        assert not client.results(accession="S26-77", until=begun - dt.timedelta(days=1)).results

        seen = client.result(made[0].id)
        assert (seen.current.version, seen.current.status) == (1, "preliminary")
        edited = client.review(
            seen.id,
            "edit",
            reviewer="pathologist-7",
            version=seen.current.version,
            reason="drawn by hand",
            labels=he_labels,
        )
        assert edited.current.count == len(np.unique(he_labels)) - 1
        with pytest.raises(ProblemError) as stale:
            client.review(seen.id, "accept", reviewer="pathologist-8", version=1)
        assert (stale.value.status, stale.value.name) == (412, "stale-version")
        versions = client.history(seen.id).versions
    assert [version.status for version in versions] == ["preliminary", "corrected"]


def test_the_asynchronous_client_does_the_same(running: Any, he_pixels: NDArray[np.uint8]) -> None:
    async def scenario() -> None:
        async with AsyncClient(running.address) as client:
            first, second = await asyncio.gather(
                client.segment(he_pixels, accession="S26-88"),
                client.segment_as(he_pixels, "csv", accession="S26-88"),
            )
            assert first.count == second.count
            found = [item.id async for item in client.all_results(accession="S26-88")]
            assert sorted(found) == sorted([first.id, second.id])
            assert len((await client.results(limit=1)).results) == 1
            await client.review(first.id, "accept", reviewer="pathologist-7", version=1)
            assert (await client.result(first.id)).current.status == "final"
            assert len((await client.history(first.id)).versions) == 2
            with pytest.raises(ProblemError, match="absent"):
                await client.segment(he_pixels, model="absent")

    asyncio.run(scenario())


def test_a_refusal_says_what_was_wrong(running: Any, he_pixels: NDArray[np.uint8]) -> None:
    with Client(running.address) as client:
        with pytest.raises(ProblemError, match="threshold") as refused:
            client.segment(he_pixels, threshold=2.0)
        assert refused.value.errors[0]["location"] == ["query", "threshold"]
        assert refused.value.instance
        with pytest.raises(ProblemError) as unread:
            client.segment(b"no image")
        assert (unread.value.status, unread.value.name) == (415, "unreadable-image")
        with pytest.raises(ValueError, match="uint8"):
            client.segment(he_pixels.astype(np.float32))  # type: ignore[arg-type]  # the mistake
        with pytest.raises(ValueError, match="drop alpha"):
            client.segment(np.zeros((64, 64, 4), np.uint8))


def test_a_key_is_asked_for_and_sent(
    serve: Any, settings: Settings, he_pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    closed = settings.model_copy(update={"auth": "api_key", "data_dir": tmp_path})
    with serve(closed) as running:
        with Client(running.address) as client, pytest.raises(ProblemError) as missing:
            client.segment(he_pixels)
        assert (missing.value.status, missing.value.name) == (401, "missing-credential")
        with (
            Client(running.address, api_key="nonsense") as client,
            pytest.raises(ProblemError) as wrong,
        ):
            client.segment(he_pixels)
        assert wrong.value.name == "invalid-credential"
        assert "Ask the operator" in wrong.value.remedy


def test_a_service_without_records_is_asked_without_a_key(
    serve: Any, settings: Settings, he_pixels: NDArray[np.uint8]
) -> None:
    with serve(settings.model_copy(update={"records": False})) as running:
        with (
            Client(running.address) as client,
            pytest.raises(ProblemError, match=r"Idempotency-Key; leave it out"),
        ):
            client.segment(he_pixels)
        with Client(running.address, keeps_records=False) as client:
            assert client.segment(he_pixels).count > 0


class Watched(httpx.HTTPTransport):
    """A real transport that shows each answer before the client sees it."""

    def __init__(self, look: Callable[[httpx.Response], None]) -> None:
        super().__init__()
        self._look = look

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        response.read()
        self._look(response)
        return response


def test_an_answer_lost_on_the_way_is_answered_again_and_filed_once(
    running: Any, he_pixels: NDArray[np.uint8]
) -> None:
    answers: list[httpx.Response] = []

    def lose_the_first(response: httpx.Response) -> None:
        answers.append(response)
        if len(answers) == 1:
            raise httpx.ReadError("the connection was reset")

    with Client(running.address, transport=Watched(lose_the_first)) as client:
        answer = client.segment(he_pixels, accession="S26-LOST-1")
        filed = list(client.all_results(accession="S26-LOST-1"))
    assert answers[0].json()["id"] == answer.id
    assert answers[1].headers["Idempotency-Replayed"] == "true"
    assert [item.id for item in filed] == [answer.id]


def test_overload_is_waited_out(
    serve: Any,
    settings: Settings,
    he_pixels: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One image is held in the model and one waits; the third is refused, then carried out."""
    gate = threading.Event()
    statuses: list[int] = []

    def see(response: httpx.Response) -> None:
        statuses.append(response.status_code)
        if response.status_code == 503:
            assert int(response.headers["Retry-After"]) >= 1
            gate.set()

    with serve(settings.model_copy(update={"max_waiting": 1, "data_dir": tmp_path})) as running:
        session = running.state.repository.get(None)
        run = session.run

        def held(tiles: Any) -> Any:
            assert gate.wait(60)
            return run(tiles)

        monkeypatch.setattr(session, "run", held)
        with ThreadPoolExecutor(2) as others, Client(running.address) as crowd:
            waiting = []
            for threshold in (0.4, 0.6):
                waiting.append(others.submit(crowd.segment, he_pixels, threshold=threshold))
                _until_inside(running.address, len(waiting))
            with Client(running.address, transport=Watched(see)) as client:
                assert client.segment(he_pixels).count > 0
            assert all(answer.result().count > 0 for answer in waiting)
    assert statuses[0] == 503
    assert statuses[-1] == 200


def _until_inside(address: str, requests: int) -> None:
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        metrics = httpx.get(f"{address}/metrics").text
        inside = sum(
            float(line.rpartition(" ")[2])
            for line in metrics.splitlines()
            if line.startswith(("karyon_queue_waiting ", "karyon_queue_working "))
        )
        if inside == requests:
            return
        time.sleep(0.02)
    raise AssertionError(metrics)


def test_a_service_that_is_not_there_is_given_up() -> None:
    with (
        Client("http://127.0.0.1:9", attempts=2, deadline_s=5.0) as client,
        pytest.raises(UnreachableError, match=r"after 2 attempts.*GET /health/ready"),
    ):
        client.result("0" * 32)


def test_options_are_those_of_the_service() -> None:
    assert set(SegmentOptions.__annotations__) == set(SegmentParameters.model_fields) - {"format"}
    assert set(ResultFilter.__annotations__) == set(ResultQuery.model_fields) - {"limit", "cursor"}


def test_the_client_imports_no_model_runtime(repository: Path) -> None:
    code = (
        "import sys, service.client\n"
        "print({'onnxruntime', 'cv2', 'fastapi', 'uvicorn', 'sqlalchemy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("set()", 0), done.stderr
