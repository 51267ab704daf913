"""Every shell and Python block of the pages that a newcomer follows, run against a real server."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/quickstart.md", "docs/client.md", "docs/api.md")
PUBLISHED_ADDRESS = "http://127.0.0.1:8000"
LANGUAGES = ("sh", "python")
# What the fixture, or the environment that runs the tests, has done already; the web app is driven
# in tests/browser, and all of the README by `make newcomer`.
DONE_ALREADY = frozenset(
    {"make serve", "make app", ". .venv-serve-cpu/bin/activate", "pip install '.[client]'"}
)
# Nothing is installed by a test: on the package index, `karyon` is somebody else's.
INSTALLS = re.compile(r"\bpip3? install\b|^\s*(uv|npm|apt(-get)?|conda)\b", re.MULTILINE)
# An HTTP error is a broken page, though curl alone would end with 0.
PRELUDE = (
    'set -euo pipefail\ncurl() { command curl --silent --show-error --fail-with-body "$@"; }\n'
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, the line it begins on, its language and its text."""

    page: str
    line: int
    language: str
    text: str


def read_blocks(page: str) -> list[Block]:
    text = (REPOSITORY / page).read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


BLOCKS = [block for page in PAGES for block in read_blocks(page) if block.language]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of the blocks: this Python first, the checkout importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KARYON_")}
    search = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    data = str(tmp_path_factory.mktemp("karyon-data"))
    return {**kept, "PATH": search, "PYTHONPATH": str(REPOSITORY), "KARYON_DATA_DIR": data}


@pytest.fixture(scope="module")
def address(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the embedded model, as `make serve` starts it, on a free port."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--port", "0"],
            env=environment,
            cwd=log.parent,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        until_s = time.monotonic() + 120
        while not (found := re.search(r"is ready on (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until_s, log.read_text()
            time.sleep(0.1)
        yield found[1]
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the blocks run: the test images are there, and what they write stays out of git."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(REPOSITORY / "tests" / "data", folder / "tests" / "data")
    # docs/api.md speaks of the reader's own file.
    shutil.copy(folder / "tests" / "data" / "images" / "nucls_test_1.png", folder / "tile.png")
    return folder


def run(
    block: Block, address: str, environment: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    lines = [line.partition(" #")[0].strip() for line in block.text.splitlines()]
    kept = [
        "" if bare in DONE_ALREADY else line
        for bare, line in zip(lines, block.text.splitlines(), strict=True)
    ]
    text = "\n".join(kept).replace(PUBLISHED_ADDRESS, address)
    assert not INSTALLS.search(text), f"{block.page}:{block.line} would install something"
    command = ["bash", "-c", PRELUDE + text]
    if block.language == "python":
        command = [sys.executable, "-c", text]
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_a_block_runs(
    block: Block, address: str, environment: dict[str, str], folder: Path
) -> None:
    assert block.language in LANGUAGES, f"{block.page}:{block.line}: nobody runs {block.language}"
    if re.search(r"^docker\b", block.text, re.MULTILINE):
        # No Docker where the tests run; tests/deploy holds the compose file to its schema.
        parsed = subprocess.run(
            ["bash", "-n", "-c", block.text], capture_output=True, text=True, check=False
        )
        assert parsed.returncode == 0, parsed.stderr
        return
    done = run(block, address, environment, folder)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_nothing_is_installed(address: str, environment: dict[str, str], folder: Path) -> None:
    block = Block("made up", 1, "sh", "pip install 'absent[client]'")
    with pytest.raises(AssertionError, match="would install"):
        run(block, address, environment, folder)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_blocks(page: str) -> None:
    assert [block for block in BLOCKS if block.page == page]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("sh", "curl -F image=@absent.png http://127.0.0.1:8000/segment"),
        ("sh", "curl http://127.0.0.1:8000/results/absent"),
        ("sh", "false\ntrue"),
        ("python", "from service.client import Absent"),
    ],
)
def test_a_broken_block_is_seen(
    language: str, text: str, address: str, environment: dict[str, str], folder: Path
) -> None:
    block = Block("made up", 1, language, text)
    assert run(block, address, environment, folder).returncode != 0
