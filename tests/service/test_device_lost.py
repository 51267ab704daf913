"""A GPU that is lost for good: the process answers 503, says why and ends."""

import re
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx

# The device fails after start-up, with the words of onnxruntime's CUDA provider.
SERVER = """
import sys
from pathlib import Path
import service.roster
from service.app import create_app
from service.server import run_server
from service.settings import Settings

class LostDevice:
    def run(self, tiles):
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0")

def sing_then_lose(segmenter, sing=service.roster.sing):
    canary = sing(segmenter)
    segmenter.session._bound = LostDevice()
    return canary

service.roster.sing = sing_then_lose
settings = Settings(models_dir=Path(sys.argv[1]), provider="cpu", threads=1, port=0)
sys.exit(run_server(create_app(settings), settings))
"""


def test_a_lost_device_ends_the_process(
    tiny_models_dir: Path, test_data: Path, repository: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tiny_models_dir)],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    # Logs share standard output here: nobody configured them.
    found = (re.search(r"http://127\.0\.0\.1:\d+", line) for line in process.stdout)
    url = next(filter(None, found), None)
    assert url is not None, process.communicate(timeout=10)
    image = (test_data / "images" / "nucls_test_1.png").read_bytes()
    answer = httpx.post(f"{url.group()}/segment", files={"image": image}, timeout=30)
    assert answer.status_code == 503
    assert answer.json()["type"] == "/problems/not-ready"
    assert int(answer.headers["retry-after"]) >= 1
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 4, stderr
    assert "Karyon ends: CPUExecutionProvider has failed for good" in stderr
