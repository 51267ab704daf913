"""The web app as people use it: Debian's Chromium, the app, the service with the embedded model.

`APP_SCREENSHOT=docs/images/app.png python -m pytest tests/browser` makes the picture of the docs.
"""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("streamlit", reason="needs the extra `ui`")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra `dev`)")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Debian's chromium (apt-get install chromium)"
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the app ended"
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  our own address
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError(f"nothing at {url}")


@pytest.fixture(scope="module")
def app_url(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[str]:
    """The app, over the service with the embedded model."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KARYON_")}
    folder = str(tmp_path_factory.mktemp("browser-data"))
    environment = {**kept, "PYTHONPATH": str(repository), "KARYON_DATA_DIR": folder}
    service = subprocess.Popen(
        [sys.executable, "-m", "service", "serve", "--port", "0", "--threads", "1"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert service.stdout is not None
    match = re.search(r"http://127\.0\.0\.1:\d+", service.stdout.readline())
    assert match is not None, "the service did not start"
    port = free_port()
    app = subprocess.Popen(
        [sys.executable, "-m", "service.ui", "--server.port", str(port)],
        env={**environment, "KARYON_URL": match.group()},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/_stcore/health", app)
        yield f"http://127.0.0.1:{port}"
    finally:
        for process in (app, service):
            process.terminate()
            process.communicate(timeout=20)


def count(page: Any) -> int:
    return int(page.get_by_test_id("stMetricValue").first.inner_text().replace(",", ""))


def test_a_tile_is_dropped_outlined_counted_and_looked_at(app_url: str, test_data: Path) -> None:
    complaints: list[str] = []
    abroad: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: None if _at_home(r.url, app_url) else abroad.append(r.url))
        page.goto(app_url)
        page.get_by_role("note").get_by_text("Research use only").wait_for()
        tile = test_data / "images" / "tnbc_p08_2.png"
        page.locator("input[type=file]").first.set_input_files(tile)
        outlines = page.locator("svg polygon")
        outlines.first.wait_for(timeout=60_000)
        assert outlines.count() == count(page)
        assert 80 < count(page) < 170, "123 nuclei are annotated"

        # Zoom and pan, by button and by keys.
        page.get_by_role("button", name="Zoom in").click()
        zoomed = page.locator(".frame svg")
        assert zoomed.get_attribute("viewBox") != "0 0 512 512"
        page.get_by_role("group", name=re.compile("^Picture")).press("0")
        assert zoomed.get_attribute("viewBox") == "0 0 512 512"
        page.get_by_role("group", name=re.compile("^Picture")).press("+")
        page.get_by_role("group", name=re.compile("^Picture")).press("ArrowRight")
        assert not str(zoomed.get_attribute("viewBox")).startswith("0 ")
        page.get_by_role("button", name="Fit").click()

        # A click in the picture marks the nucleus and fills its number in.
        clicked = outlines.nth(30).get_attribute("data-id")
        outlines.nth(30).click()
        page.locator("svg polygon.marked").wait_for()
        assert page.get_by_label("Mark nucleus number").input_value() == clicked
        # A row of the table marks another; the table is a canvas, so by place: the first row's box.
        table = page.get_by_test_id("stDataFrame").bounding_box()
        page.mouse.click(table["x"] + 18, table["y"] + 52)
        page.wait_for_function(
            "before => document.querySelector('input[aria-label=\"Mark nucleus number\"]').value"
            " !== before",
            arg=clicked,
        )

        # A density once the resolution is given.
        page.get_by_role("spinbutton", name="Resolution (µm per pixel)").fill("0.25")
        page.get_by_role("spinbutton", name="Resolution (µm per pixel)").press("Enter")
        page.get_by_text("/mm²").wait_for()
        if picture := os.environ.get("APP_SCREENSHOT"):
            page.wait_for_timeout(1500)  # the chart draws itself last
            page.mouse.move(1000, 20)
            shot = Image.open(io.BytesIO(page.screenshot()))
            shot.quantize(256).save(picture, optimize=True)

        # The threshold slider by the keyboard; the new count comes by itself.
        before = count(page)
        slider = page.get_by_role("slider", name="Threshold")
        for _ in range(25):
            slider.press("ArrowRight")
        page.wait_for_function(
            "before => Number(document.querySelector('[data-testid=stMetricValue]').innerText)"
            " !== before",
            arg=before,
        )
        browser.close()
    assert complaints == []
    assert abroad == [], "the app must work without the internet"


def _at_home(url: str, app_url: str) -> bool:
    return url.startswith((app_url, "data:", "blob:"))
