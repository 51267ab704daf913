"""The walkthrough "Forty images", command by command, in one folder and one order."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`")

# The environment that runs the tests is the one that these make.
DONE_ALREADY = frozenset({"make install-dev", ". .venv/bin/activate"})


@pytest.mark.slow
@pytest.mark.timeout(900)  # three programs that load TensorFlow or a model, one after the other
def test_the_walkthrough_runs_as_it_stands(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "walkthrough.md").read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    shutil.copytree(repository / "tests" / "data", tmp_path / "tests" / "data")
    script = "\n".join(
        line for block in blocks for line in block.splitlines() if line not in DONE_ALREADY
    )
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        cwd=tmp_path,
        env={**os.environ, "PATH": search, "PYTHONPATH": str(repository)},
        capture_output=True, text=True, timeout=880, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "mydata" / "images").iterdir())) == 40
    assert (tmp_path / "models-mine" / "mine" / "0.1.0" / "card.md").is_file()
    assert list((tmp_path / "segmented").glob("*tnbc_p08_2*"))
