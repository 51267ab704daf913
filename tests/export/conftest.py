"""A small model with every trap of the converter in it, which nonetheless finds nuclei.

TensorFlow takes ten seconds to load, so everything made with it is shared by the session.
"""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from export.contract import TrainedRun, build_contract, read_run
from export.convert import convert
from export.onnx_file import write
from service.inference.session import ModelSession
from training.config import DataSource, TrainingConfig
from training.datasets import Sample, read_dataset

LICENCE = "CC0-1.0"
ATTRIBUTION = "Amgad et al., GigaScience 2022"


def build_tiny_model(channels: int = 2) -> keras.Model:
    """Nuclei by colour, with both kinds of upsampling, Normalization and odd BatchNorm statistics.

    ```
    image ─ Normalization ─┬─ mean over 2x2 ─ up bilinear ─────────────────────┬─ 1x1 ─ sigmoid
                           └─ conv /4 ─ BatchNorm ─ ReLU6 ─ depthwise ─ up ─ up ┘
    ```
    """
    keras.utils.set_random_seed(7)
    image = keras.Input((None, None, 3), name="image")
    normalization = keras.layers.Normalization(mean=[190.0, 150.0, 190.0], variance=[1600.0] * 3)
    x = normalization(image)
    smooth = keras.layers.AveragePooling2D(2)(x)
    smooth = keras.layers.UpSampling2D(2, interpolation="bilinear")(smooth)
    coarse = keras.layers.Conv2D(4, 3, strides=4, padding="same", use_bias=False)(x)
    coarse = keras.layers.BatchNormalization()(coarse)
    coarse = keras.layers.ReLU(6.0)(coarse)
    coarse = keras.layers.DepthwiseConv2D(3, padding="same")(coarse)
    coarse = keras.layers.UpSampling2D(2, interpolation="nearest")(coarse)
    coarse = keras.layers.UpSampling2D(2, interpolation="nearest")(coarse)
    joined = keras.layers.Concatenate()([smooth, coarse])
    head = keras.layers.Conv2D(channels, 1, activation="sigmoid", name="maps")
    model = keras.Model(image, head(joined), name="tiny")
    perturb_statistics(model)
    # Red is what haematoxylin absorbs: the less of it, the surer a nucleus.
    kernel = np.zeros((7, channels), dtype=np.float32)
    kernel[0] = -4.0
    kernel[3:] = 0.1
    head.set_weights([kernel.reshape(1, 1, 7, channels), np.array([-2.0, -4.0][:channels])])
    return model


def perturb_statistics(model: keras.Model) -> None:
    """Give BatchNorm statistics that matter; fresh ones are an identity that hides mistakes."""
    random = np.random.default_rng(11)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            perturb_statistics(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [
                    gamma * random.uniform(0.8, 1.2, gamma.shape),
                    beta + random.normal(0, 0.1, beta.shape),
                    mean + random.normal(0, 0.2, mean.shape),
                    variance * random.uniform(0.5, 1.5, variance.shape),
                ]
            )


def write_run(
    folder: Path, model: keras.Model, channels: tuple[str, ...] = ("nucleus", "distance")
) -> TrainedRun:
    """Write what `python -m training fit` leaves behind, as far as the exporter reads it."""
    config = TrainingConfig.model_validate(
        {
            "architecture": "unet",
            "channels": channels,
            "data": [
                DataSource.model_validate(
                    {
                        "name": "nucls",
                        "path": "nucls",
                        "validation_groups": ["other"],
                        "licence": LICENCE,
                        "attribution": ATTRIBUTION,
                        "source": "https://doi.org/10.1093/gigascience/giac037",
                    }
                )
            ],
        }
    )
    splits: dict[str, Any] = {
        "nucls": {
            "sha256": "0" * 64,
            "train": {"nucls_test": ["nucls_test_1", "nucls_test_2", "nucls_test_5"]},
            "validation": {"tnbc_p07": ["tnbc_p07_1"]},
        }
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
    (folder / "data.json").write_text(json.dumps(splits), encoding="utf-8")
    with warnings.catch_warnings():
        # Keras 3.15 hands TensorFlow variables to numpy.array without a copy keyword.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        model.save(folder / "model.keras")
    return read_run(folder)


@pytest.fixture(scope="session")
def tiny_model() -> keras.Model:
    return build_tiny_model()


@pytest.fixture(scope="session")
def tiny_proto(tiny_model: keras.Model) -> onnx.ModelProto:
    return convert(tiny_model)


@pytest.fixture(scope="session")
def tiny_run(tiny_model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_model)


@pytest.fixture(scope="session")
def open_session(
    tiny_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[onnx.ModelProto], ModelSession]:
    """Write a graph with a plain contract, and load it as the service does."""

    def save_and_load(proto: onnx.ModelProto) -> ModelSession:
        path = tmp_path_factory.mktemp("file") / "model.onnx"
        channels = proto.graph.output[0].type.tensor_type.shape.dim[3].dim_value
        contract = build_contract(tiny_run, name="tiny", version="0.1.0")
        output = contract.output.model_copy(
            update={"channels": contract.output.channels[:channels]}
        )
        write(proto, contract.model_copy(update={"output": output}), path)
        return ModelSession.load(path, provider="cpu")

    return save_and_load


@pytest.fixture(scope="session")
def tiny_session(
    tiny_proto: onnx.ModelProto, open_session: Callable[[onnx.ModelProto], ModelSession]
) -> ModelSession:
    return open_session(tiny_proto)


@pytest.fixture(scope="session")
def perturb() -> Callable[[keras.Model], None]:
    return perturb_statistics


@pytest.fixture(scope="session")
def samples(test_data: Path) -> list[Sample]:
    """The committed real tiles: three of 256 px and two of 512 px."""
    return read_dataset(test_data)


@pytest.fixture(scope="session")
def images(samples: list[Sample]) -> list[NDArray[np.uint8]]:
    """Their pixels."""
    return [sample.read()[0] for sample in samples]
