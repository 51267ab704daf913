"""Make docs/images/app*.png in Chromium, and time an image from drop to outlines.

    python -m benchmarks.app_pictures [--rounds 5] [--no-pictures]

The service with the embedded model and the app run on free ports of this machine; the tiles are
committed ones, of patients whom the model never trained on. The time is what a user waits: from the
moment the browser has the file until the first outline is on the page.
"""

import argparse
import io
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
TILES = [ROOT / "tests" / "data" / "images" / f"tnbc_{name}.png" for name in ("p08_2", "p07_1")]
PICTURES = ROOT / "docs" / "images"
DESKTOP, TABLET = (1280, 800), (820, 1180)
PATIENCE_MS = 90_000


@contextmanager
def running_app() -> Iterator[str]:
    """Run the service and the app, and yield the app's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "KARYON_DATA_DIR": folder}
        service = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--port", "0", "--log-level", "warning"],
            env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        address = re.search(r"http://\S+:\d+", service.stdout.readline() if service.stdout else "")
        app = subprocess.Popen(
            [sys.executable, "-m", "service.ui", "--server.port", str(port)],
            env={**os.environ, "KARYON_URL": address.group() if address else ""},
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/_stcore/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            for process in (app, service):
                process.terminate()
                process.communicate(timeout=60)


def wait_for(url: str) -> None:
    """Wait until something answers.

    Raises:
        TimeoutError: Nothing does.
    """
    end_s = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < end_s:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310  our own address
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"nothing at {url}")


def shoot(page: Any, name: str) -> None:
    """Write what the window shows, once it stands, in 256 colours."""
    running = page.locator("[data-test-script-state=running], [data-stale=true]")
    expect(running).to_have_count(0)
    page.wait_for_timeout(1500)  # the chart draws itself last, and says nothing of it
    shot = Image.open(io.BytesIO(page.screenshot()))
    path = PICTURES / name
    shot.quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def drop(page: Any, tile: Path) -> float:
    """Drop an image, and return the seconds until the first outline."""
    start_s = time.perf_counter()
    page.locator("input[type=file]").first.set_input_files(tile)
    page.locator("polygon.nucleus").first.wait_for()
    return time.perf_counter() - start_s


def measure(page: Any, rounds: int) -> None:
    """Print how long drops take; the file changes each time, so that nothing is remembered."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            changed = Path(folder) / f"{number}.png"
            with Image.open(TILES[number % 2]) as tile:
                tile.putpixel((0, 0), (number, 0, 0))
                tile.save(changed)
            seconds.append(drop(page, changed))
            page.get_by_role("button", name=re.compile("^Remove")).first.click()
            expect(page.locator("polygon.nucleus")).to_have_count(0)
    first, *later = seconds
    print(
        f"drop to outlines, 512 x 512: first {first:.2f} s, then {statistics.median(later):.2f} s"
    )


def draw(page: Any) -> None:
    """Delete a red blood cell that the model takes for a nucleus, and draw a nucleus it misses."""
    box = page.locator(".frame svg").bounding_box()

    def place(x_px: int, y_px: int) -> tuple[float, float]:
        return box["x"] + x_px / 512 * box["width"], box["y"] + y_px / 512 * box["height"]

    page.get_by_role("button", name="Delete", exact=True).click()
    page.mouse.click(*place(30, 383))
    page.get_by_text("1 deleted").wait_for()
    page.get_by_role("button", name="Draw", exact=True).click()
    # As the annotation has it.
    outline = (
        (380, 391), (376, 389), (371, 389), (357, 402), (356, 408), (366, 413), (372, 412),
        (378, 406), (382, 399),
    )  # fmt: skip
    for number, corner in enumerate((*outline, outline[0])):
        page.mouse.move(*place(*corner), steps=4)
        if not number:
            page.mouse.down()
    page.mouse.up()
    page.get_by_text("1 drawn").wait_for()


def picture_all(page: Any) -> None:
    """Make the pictures of the docs."""
    drop(page, TILES[0])
    resolution = page.get_by_role("spinbutton", name="Resolution (µm per pixel)")
    resolution.fill("0.25")
    resolution.press("Enter")
    page.get_by_text("/mm²").wait_for()
    page.locator("polygon.nucleus").nth(30).click()
    page.locator("polygon.marked").wait_for()
    shoot(page, "app.png")
    draw(page)
    page.get_by_role("tab", name="Review").click()
    shoot(page, "app-review.png")
    page.get_by_role("button", name="Discard all").click()
    page.locator("label").filter(has_text=re.compile("^Distance$")).click()
    page.get_by_text("black is the edge").wait_for()
    page.get_by_role("tab", name="Quality").click()
    shoot(page, "app-distance.png")
    page.get_by_role("radio", name="Batch").click()
    page.get_by_text("for all files").wait_for()
    tiles = sorted((ROOT / "tests" / "data" / "images").glob("*.png"))
    page.locator("input[type=file]").first.set_input_files(tiles)
    page.get_by_role("button", name="Segment all").click()
    page.get_by_text(f"{len(tiles)} of {len(tiles)} images segmented.").wait_for()
    shoot(page, "app-batch.png")


def main() -> int:
    """Measure, then make the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-pictures", action="store_true")
    arguments = parser.parse_args()
    with running_app() as url, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox"]
        )

        def open_page(size: tuple[int, int]) -> Any:
            width, height = size
            page = chromium.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(PATIENCE_MS)
            page.goto(url)
            page.get_by_text("drop it into the side bar").wait_for()
            return page

        expect.set_options(timeout=PATIENCE_MS)
        measure(open_page(DESKTOP), arguments.rounds)
        if not arguments.no_pictures:
            picture_all(open_page(DESKTOP))
            tablet = open_page(TABLET)
            drop(tablet, TILES[1])
            shoot(tablet, "app-tablet.png")
        chromium.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
