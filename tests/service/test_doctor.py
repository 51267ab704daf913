"""`python -m service doctor`: what it tells, and how it ends."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from rich.console import Console
from typer.testing import CliRunner

from service.__main__ import app
from service.app import open_repository
from service.doctor import examine, print_report
from service.inference.golden import write_golden
from service.inference.machine import describe_machine, usable_memory_bytes
from service.inference.providers import CPU_PROVIDER
from service.inference.session import ModelSession
from service.settings import Settings


def settings_for(models_dir: Path, **changes: object) -> Settings:
    return Settings.model_validate(
        {"models_dir": models_dir, "provider": "cpu", "threads": 1, **changes}
    )


def test_a_sound_machine_is_healthy(
    tiny_models_dir: Path, tmp_path: Path, he_pixels: NDArray[np.uint8]
) -> None:
    root = shutil.copytree(tiny_models_dir, tmp_path / "models")
    folder = root / "tiny" / "1.1.0"
    session = ModelSession.load(folder / "model.onnx", provider="cpu", threads=1)
    write_golden(folder, he_pixels, session.run, 32)
    report = examine(settings_for(root), open_repository)
    assert report.healthy
    assert report.verdict == f"Healthy: tiny 1.1.0 runs on {CPU_PROVIDER} in fp32."
    by_name = {model.model: model for model in report.models}
    tiny = by_name["tiny:1.1.0"]
    assert tiny.digest == session.digest
    assert tiny.active
    assert not by_name["tiny:1.0.0"].active
    assert tiny.golden is not None
    assert (tiny.golden.source, tiny.golden.dice) == ("file", 1.0)
    assert tiny.canary is not None
    assert tiny.canary.duration_ms > 0
    running = {provider.name: provider for provider in report.providers}
    assert running[CPU_PROVIDER].runs
    assert set(running) <= set(onnxruntime.get_available_providers())
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as captured:
        print_report(report, console)
    assert "golden tile (file)" in captured.get()
    assert "Healthy" in captured.get()


def test_what_would_stop_the_service_is_told_and_ends_with_1(
    tiny_models_dir: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(tiny_models_dir, tmp_path / "models")
    (root / "tiny" / "1.0.0" / "model.onnx").write_bytes(b"broken")
    options = ["doctor", "--models-dir", str(root), "--provider", "cpu", "--threads", "1"]
    done = CliRunner().invoke(app, [*options, "--json"])
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert "tiny/1.0.0/model.onnx" in report["problems"][0]
    assert report["verdict"] == "The service does not start with these settings."
    readable = CliRunner().invoke(app, options)
    assert readable.exit_code == 1
    assert "PROBLEM" in readable.stdout


def test_a_healthy_machine_ends_with_0(tiny_models_dir: Path) -> None:
    done = CliRunner().invoke(
        app, ["doctor", "--models-dir", str(tiny_models_dir), "--provider", "cpu", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["machine"]["processors"] >= 1


def test_a_precision_that_cannot_be_had_is_told(tiny_models_dir: Path) -> None:
    report = examine(settings_for(tiny_models_dir, precision="int8"), open_repository)
    assert not report.healthy
    assert "cannot be run in int8" in report.problems[0]


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine.processors >= 1
    assert machine.processor


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("memory.max", "1000000\n", 1_000_000),
        ("memory/memory.limit_in_bytes", "2000000", 2_000_000),
    ],
)
def test_the_container_s_memory_counts(
    tmp_path: Path, name: str, content: str, expected: int
) -> None:
    unlimited = usable_memory_bytes(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    assert usable_memory_bytes(tmp_path) == expected
    (tmp_path / name).write_text("max")
    assert usable_memory_bytes(tmp_path) == unlimited


def test_what_else_keeps_it_from_starting_is_told(tiny_models_dir: Path, tmp_path: Path) -> None:
    corrupt, occupied, key = tmp_path / "corrupt", tmp_path / "occupied", tmp_path / "key.pem"
    corrupt.mkdir()
    (corrupt / "karyon.sqlite3").write_bytes(b"no database" * 100)
    occupied.touch()
    key.write_text("no key", encoding="ascii")
    key.chmod(0o600)
    wrong: dict[str, dict[str, object]] = {
        "nobody would have to log in": {"host": "0.0.0.0"},  # noqa: S104
        "no model 'nope:1.0.0'": {"shadow_model": "nope:1.0.0"},
        "no unencrypted PEM": {"signing_key": key},
        "no folder that this process may write": {"data_dir": occupied},
        "the database cannot be opened": {"data_dir": corrupt},
    }
    for problem, changes in wrong.items():
        new = tmp_path / "new"
        settings = settings_for(tiny_models_dir, **{"data_dir": new, **changes})
        report = examine(settings, open_repository)
        assert [problem in told for told in report.problems] == [True]
        assert report.verdict.endswith("the service does not start with these settings.")
        assert not new.exists(), "the doctor makes nothing"


def test_records_that_the_next_start_migrates_are_no_problem(
    tiny_models_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "karyon.sqlite3").touch()
    assert examine(settings_for(tiny_models_dir, data_dir=tmp_path), open_repository).healthy
    kept = settings_for(tiny_models_dir, data_dir=tmp_path, migrate=False)
    assert "KARYON_MIGRATE" in examine(kept, open_repository).problems[0]
