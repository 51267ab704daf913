"""Many images at once, through a real service."""

import csv
import io
import json
import threading
import zipfile
from pathlib import Path
from typing import Any

from service.ui.batch import Batch, BatchItem, summary_csv, to_zip
from service.ui.client import KaryonClient
from service.ui.pictures import Picture


def test_a_bad_file_does_not_stop_the_rest(running_service: Any, test_data: Path) -> None:
    good = (test_data / "images" / "nucls_test_1.png").read_bytes()
    pictures = [Picture("a.png", good), Picture("broken.png", b"nothing"), Picture("a.png", good)]
    client = KaryonClient(running_service.url)
    batch = Batch(client, pictures, {"model": "tiny:1.1.0"}, {"accession": "S26-1"}, made_of=None)
    while batch.waiting:
        batch.segment_next()
    items = batch.items
    with zipfile.ZipFile(io.BytesIO(to_zip(items))) as archive:
        assert archive.namelist() == [
            "summary.csv",
            "001_a.json", "001_a.overlay.png", "003_a.json", "003_a.overlay.png",
        ]  # fmt: skip
        rows = list(csv.DictReader(io.StringIO(archive.read("summary.csv").decode())))
        answer = json.loads(archive.read("001_a.json"))
        assert archive.read("001_a.overlay.png").startswith(b"\x89PNG")
    assert [row["file"] for row in rows] == ["a.png", "broken.png", "a.png"]
    assert rows[0]["count"] == str(answer["count"]) == str(len(answer["nuclei"]))
    assert answer["identity"]["accession"] == "S26-1"
    assert rows[1]["count"] == ""
    assert rows[1]["error"]


def test_a_file_name_is_no_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(summary_csv([BatchItem("=1+1.png", error="x")]))))
    assert rows[0]["file"] == "'=1+1.png"


def test_a_file_name_leaves_no_folder() -> None:
    answer = {
        "id": "0",
        "count": 1,
        "count_interval": None,
        "density_per_mm2": None,
        "quality": {"review_recommended": False},
    }
    item = BatchItem("../../etc/x.png", answer, b"{}", b"p")
    with zipfile.ZipFile(io.BytesIO(to_zip([item]))) as archive:
        assert archive.namelist() == ["summary.csv", "001_x.json", "001_x.overlay.png"]


def test_two_threads_send_each_image_once(running_service: Any, test_data: Path) -> None:
    good = (test_data / "images" / "nucls_test_1.png").read_bytes()
    pictures = [Picture(f"{number}.png", good) for number in range(4)]
    client = KaryonClient(running_service.url)
    batch = Batch(client, pictures, {"model": "tiny:1.1.0"}, {}, made_of=None)

    def go_on() -> None:
        while batch.waiting:
            batch.segment_next()

    threads = [threading.Thread(target=go_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [item.name for item in batch.items] == ["0.png", "1.png", "2.png", "3.png"]
    assert not batch.waiting
