"""A newcomer's path: a fresh clone, the README's commands, an image in the browser; how long?

    make newcomer [NEWCOMER="--screenshot out/newcomer.png"]

It clones what is committed, installs (told apart: that is downloads), runs the two commands of the
README's first block and its curl, drops an image into the web app by Debian's Chromium, waits for
the outlines and takes a picture. Bar: under 180 seconds from the clone to the outlines.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import sync_playwright

REPOSITORY = Path(__file__).resolve().parents[1]
BAR_S = 180.0
PATIENCE_S = 600.0
SERVICE, APP = "http://127.0.0.1:8000", "http://127.0.0.1:8501"
TILE = "tests/data/images/tnbc_p07_1.png"


def readme_commands(clone: Path) -> tuple[list[str], str]:
    """Return the commands of the README's first block, without comments, and its curl."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```$", (clone / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    commands = [line.partition(" #")[0].strip() for line in blocks[0].splitlines()]
    return commands, blocks[1]


def refuse_taken_ports() -> None:
    """End where something listens already: it would be that which is looked at."""
    for address in (SERVICE, APP):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0:
                raise SystemExit(f"something listens at {address} already; end it first")


@contextlib.contextmanager
def running(command: str, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a command of the README in a terminal of its own until the newcomer is done."""
    log = folder.parent / f"{command.replace(' ', '_')}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            shlex.split(command), cwd=folder, env=environment, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield
    except BaseException:
        print(f"--- {command}\n{log.read_text()[-2000:]}", file=sys.stderr)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def wait_for(url: str) -> None:
    """Wait until an address answers with success."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310  our own address
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit(f"nothing answers at {url}")


def look(clone: Path, screenshot: Path) -> int:
    """Drop the tile into the app, wait for its outlines, take a picture; return their number."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(APP, timeout=PATIENCE_S * 1000)
        page.locator("input[type=file]").first.set_input_files(clone / TILE)
        outlines = page.locator("svg polygon")
        outlines.first.wait_for(timeout=PATIENCE_S * 1000)
        found = outlines.count()
        screenshot.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=screenshot)
        browser.close()
    return found


def walk(folder: Path, screenshot: Path) -> float:
    """Walk the path in an empty folder; return its seconds without downloads."""
    kept = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("KARYON_", "PYTHON", "VIRTUAL_ENV", "MAKE", "MFLAGS"))
    }  # fmt: skip
    clone = folder / "karyon"
    clock = time.monotonic()
    subprocess.run(["git", "clone", "-q", "--no-local", str(REPOSITORY), str(clone)], check=True)
    cloned_s = time.monotonic() - clock
    commands, curl = readme_commands(clone)
    if commands != ["make serve", "make app"]:
        raise SystemExit(f"the README begins with {commands}: teach this program what they are")

    clock = time.monotonic()
    for target in ("install-serve", "install-app"):
        subprocess.run(["make", "--silent", target], cwd=clone, env=kept, check=True)
    installed_s = time.monotonic() - clock

    clock = time.monotonic()
    with running(commands[0], clone, kept), running(commands[1], clone, kept):
        wait_for(f"{SERVICE}/health/ready")
        ready_s = time.monotonic() - clock
        answer = subprocess.run(
            ["bash", "-ec", curl], cwd=clone, env=kept, check=True, capture_output=True, text=True
        )
        counted_s = time.monotonic() - clock
        wait_for(f"{APP}/_stcore/health")
        outlines = look(clone, screenshot)
        seen_s = time.monotonic() - clock
    print(f"clone                    {cloned_s:6.1f} s")
    print(f"install (downloads)      {installed_s:6.1f} s   not counted")
    print(f"make serve: ready        {ready_s:6.1f} s")
    print(f"curl: {json.loads(answer.stdout)['count']:4d} nuclei        {counted_s:6.1f} s")
    print(f"make app: {outlines:4d} outlines  {seen_s:6.1f} s   picture in {screenshot}")
    return cloned_s + seen_s


def main() -> None:
    """Read the command line and walk."""
    parser = argparse.ArgumentParser(description="Walk the newcomer's path in a fresh clone.")
    parser.add_argument("--screenshot", type=Path, default=Path("out/newcomer.png"))
    screenshot: Path = parser.parse_args().screenshot
    refuse_taken_ports()
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        took_s = walk(Path(folder), screenshot.resolve())
    print(f"from clone to outlines   {took_s:6.1f} s   bar {BAR_S:.0f} s")
    sys.exit(took_s > BAR_S)


if __name__ == "__main__":
    main()
