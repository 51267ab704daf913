"""`python -m export golden`: the tile that the service tests itself against."""

import shutil
from pathlib import Path

from typer.testing import CliRunner

from export.__main__ import app
from service.inference.golden import GOLDEN_FILE
from service.inference.session import ModelSession


def test_a_golden_tile_is_written_beside_the_model(
    tiny_session: ModelSession, test_data: Path, tmp_path: Path
) -> None:
    model = shutil.copy(tiny_session.path, tmp_path / "model.onnx")
    image = str(test_data / "images" / "nucls_test_1.png")
    # What lies there from other weights must not stand in the way of its own renewal.
    (tmp_path / GOLDEN_FILE).write_bytes(b"of another model")
    done = CliRunner().invoke(app, ["golden", str(model), image])
    assert done.exit_code == 0, done.output
    golden = ModelSession.load(model, provider="cpu").golden
    assert golden is not None
    assert (golden.source, golden.max_difference) == ("file", 0)


def test_a_file_that_is_no_image_is_refused(tiny_session: ModelSession, tmp_path: Path) -> None:
    model = shutil.copy(tiny_session.path, tmp_path / "model.onnx")
    text = tmp_path / "image.png"
    text.write_text("no image")
    done = CliRunner().invoke(app, ["golden", str(model), str(text)])
    assert done.exit_code == 1
    assert not (tmp_path / GOLDEN_FILE).exists()
