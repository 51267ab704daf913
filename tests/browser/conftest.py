"""One service with two models, one app, one Chromium, for all browser tests; and a page to act on.

Chromium's own ways to wait are used throughout: nothing here sleeps for a fixed time.
"""

import json
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

import onnx
import pytest
from onnx import helper

pytest.importorskip("streamlit", reason="needs the extra `ui`")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra `dev`)")
axe_playwright = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python (extra `dev`)"
)
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 90_000
"""The machine may be busy; what does not come within this time does not come."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < end_s:
        assert process.poll() is None, f"what should answer at {url} has ended"
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310  our own address
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)  # between two looks, not for them
    raise AssertionError(f"nothing at {url}")


class Stack:
    """A running service and a running app."""

    def __init__(self, folder: Path, models_dir: Path, repository: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("KARYON_")}
        self.port = free_port()
        self.service_url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **kept,
            "PYTHONPATH": str(repository),
            "KARYON_DATA_DIR": str(folder),
            "KARYON_MODELS_DIR": str(models_dir),
            "KARYON_DEFAULT_MODEL": "efficientnetv2b0_unet",
        }
        app_port = free_port()
        self.app_url = f"http://127.0.0.1:{app_port}"
        self.service = self._start("service", "serve", "--port", str(self.port), "--threads", "1")
        self.app = self._start(
            "service.ui", "--server.port", str(app_port), KARYON_URL=self.service_url
        )

    def _start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**self.environment, **environment},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def wait(self) -> None:
        wait_for(f"{self.service_url}/health/ready", self.service)
        wait_for(f"{self.app_url}/_stcore/health", self.app)

    def stop_service(self) -> None:
        end(self.service)

    def start_service(self) -> None:
        self.service = self._start("service", "serve", "--port", str(self.port), "--threads", "1")

    def results(self) -> list[dict[str, Any]]:
        """The recorded results, newest first."""
        with urllib.request.urlopen(f"{self.service_url}/results") as answer:  # noqa: S310  ours
            listed: list[dict[str, Any]] = json.load(answer)["results"]
        return listed


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(timeout=60)


class AppPage:
    """A page of the app, and what people do on it."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.frame = page.locator(".frame")
        self.picture = page.locator(".frame svg")
        self.nuclei = page.locator("polygon.nucleus")
        self.complaints: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        home = (url, url.replace("http", "ws", 1), "data:", "blob:")
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(home) else self.complaints.append(request.url)
            ),
        )
        page.goto(url)
        self.see("Research use only")

    def _hear(self, message: Any) -> None:
        # A rerun takes pictures and downloads of the one before out of Streamlit's store, at times
        # while the browser still asks for them: nothing is missing on the page in the end.
        address = message.location.get("url", "")
        gone = "/media/" in address or "Download Button source error - 404" in message.text
        if message.type == "error" and not gone:
            self.complaints.append(f"{message.text} {address}")

    def see(self, text: str | re.Pattern[str]) -> Any:
        """Wait until a text is there, and return it."""
        found = self.page.get_by_text(text).first
        sync_api.expect(found).to_be_visible()
        return found

    def drop(self, *paths: Path) -> None:
        """Drop files into the first uploader of the page that takes so many."""
        # The uploader of the mode before stays until the next one is drawn.
        several = "[multiple]" if len(paths) > 1 else ""
        self.page.locator(f"input[type=file]{several}").first.set_input_files(paths)

    def segment(self, path: Path) -> None:
        """Drop an image, and wait for its outlines and figures."""
        self.drop(path)
        sync_api.expect(self.nuclei.first).to_be_visible()
        sync_api.expect(self.page.get_by_test_id("stMetricValue")).to_have_count(3)

    def count(self) -> int:
        return int(self.page.get_by_test_id("stMetricValue").first.inner_text().replace(",", ""))

    def wait_for_count_other_than(self, before: int) -> None:
        first = self.page.get_by_test_id("stMetricValue").first
        sync_api.expect(first).not_to_have_text(f"{before:,}")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def mode(self, name: str) -> None:
        """Choose between one image, two models and batch."""
        self.page.get_by_role("radio", name=name).click()

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def choose(self, label: str, option: str) -> None:
        """Choose in a box of options."""
        self.page.get_by_label(label, exact=True).first.click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def slider(self, label: str) -> Any:
        return self.page.locator(f'input[type=range][aria-label="{label}"]')

    def tick(self, label: str) -> None:
        """Choose one of several round buttons, which Streamlit hides under their labels."""
        self.page.locator("label").filter(has_text=re.compile(f"^{label}$")).click()

    def offers_no_longer(self, label: str) -> None:
        """Wait until a choice is gone."""
        label_of = self.page.locator("label").filter(has_text=re.compile(f"^{label}$"))
        sync_api.expect(label_of).to_have_count(0)

    def chosen(self, label: str, is_chosen: bool) -> None:
        """Wait until a round button is chosen, or is not."""
        button = self.page.get_by_role("radio", name=label, exact=True)
        sync_api.expect(button).to_be_checked(checked=is_chosen)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the image of 512 x 512 is on the screen while it is shown whole."""
        box = self.picture.bounding_box()
        return box["x"] + x / 512 * box["width"], box["y"] + y / 512 * box["height"]

    def draw_around(self, x: float, y: float, radius: float = 12) -> None:
        """Drag once around a place in the image."""
        corners = [
            (x + dx * radius, y + dy * radius) for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1))
        ]
        self.page.mouse.move(*self.at(*corners[0]))
        self.page.mouse.down()
        for corner in (*corners[1:], corners[0]):
            self.page.mouse.move(*self.at(*corner), steps=3)
        self.page.mouse.up()

    def view_box(self) -> list[float]:
        return [float(number) for number in self.picture.get_attribute("viewBox").split()]

    def barriers(self) -> list[str]:
        """What axe-core finds serious or critical on the page once it stands."""
        # Streamlit pales what is about to change.
        running = self.page.locator("[data-test-script-state=running], [data-stale=true]")
        sync_api.expect(running).to_have_count(0)
        answer = axe_playwright.Axe().run(self.page).response
        return [
            f"{found['impact']}: {found['id']}, {found['help']}: {found['nodes'][0]['html']}"
            for found in answer["violations"]
            if found["impact"] in ("serious", "critical")
        ]


@pytest.fixture(scope="module")
def two_models_dir(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The embedded model, and the same network as another one that is harder to convince."""
    folder = tmp_path_factory.mktemp("browser-models")
    (version,) = (repository / "models" / "efficientnetv2b0_unet").iterdir()
    shutil.copytree(version, folder / "efficientnetv2b0_unet" / version.name)
    strict = folder / "strict" / version.name
    strict.mkdir(parents=True)
    model = onnx.load(version / "model.onnx")
    metadata = {item.key: item.value for item in model.metadata_props}
    contract = json.loads(metadata["karyon.contract"])
    contract["name"] = "strict"
    contract["separation"]["probability_threshold"] = 0.9
    contract["count_interval"] = None
    helper.set_model_props(model, {**metadata, "karyon.contract": json.dumps(contract)})
    onnx.save(model, strict / "model.onnx")
    shutil.copy(version / "golden.npz", strict)
    return folder


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, two_models_dir: Path, repository: Path
) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("browser-data"), two_models_dir, repository)
    try:
        running.wait()
        yield running
    finally:
        for process in (running.app, running.service):
            end(process)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium (apt-get install chromium)")
    sync_api.expect.set_options(timeout=PATIENCE_MS)
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def desktop(browser: Any) -> Any:
    """A window of 1280 x 800; its pages share what they have fetched."""
    return browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)


@pytest.fixture
def app(desktop: Any, stack: Stack) -> Iterator[AppPage]:
    """The app in a new tab. Nothing may be complained of, and nothing fetched from elsewhere."""
    desktop.set_default_timeout(PATIENCE_MS)
    opened = AppPage(desktop.new_page(), stack.app_url)
    yield opened
    opened.page.close()
    assert opened.complaints == []


@pytest.fixture
def tablet(request: pytest.FixtureRequest, browser: Any, stack: Stack) -> Iterator[AppPage]:
    """The app on a tablet's touch screen, whose width and height are the test's parameter."""
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=True)
    context.set_default_timeout(PATIENCE_MS)
    opened = AppPage(context.new_page(), stack.app_url)
    yield opened
    context.close()
    assert opened.complaints == []


@pytest.fixture(scope="session")
def tile(test_data: Path) -> Path:
    """512 x 512 px with 123 annotated nuclei, of a patient the model never trained on."""
    return test_data / "images" / "tnbc_p08_2.png"
