"""The Keras model that is made from an exported file computes what the file does."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.peers.keras_twin import NoTwinError, keras_twin
from service.inference.repository import embedded_models_dir


@pytest.fixture(scope="module")
def embedded() -> Path:
    return next(embedded_models_dir().glob("*/*/model.onnx"))


def test_the_twin_of_the_embedded_model_gives_its_maps(embedded: Path, repository: Path) -> None:
    tile = cv2.imread(str(repository / "tests" / "load" / "images" / "tnbc_p07_1.jpg"))
    assert tile is not None
    image = np.ascontiguousarray(tile[np.newaxis, :128, :160, ::-1])
    session = onnxruntime.InferenceSession(str(embedded), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["maps"], {"image": image})
    probability = np.asarray(keras_twin(embedded)(image.astype(np.float32), training=False))
    found = np.round(probability * 255.0)
    assert np.ptp(expected) > 200
    assert np.abs(found - expected.astype(np.float32)).max() <= 1


def test_a_file_that_names_another_architecture_has_no_twin(embedded: Path, tmp_path: Path) -> None:
    proto = onnx.load(embedded)
    (entry,) = (entry for entry in proto.metadata_props if entry.key == "karyon.contract")
    entry.value = json.dumps({**json.loads(entry.value), "architecture": "mobilenetv2_unet"})
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(NoTwinError, match="has no convolution"):
        keras_twin(tmp_path / "model.onnx")
