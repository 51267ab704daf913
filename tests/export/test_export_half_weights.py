"""Storing weights in half: the file equals the rounded model, and little is rounded."""

import keras
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from export.convert import convert
from export.half_weights import LEAST_ELEMENTS, round_weights, store_in_half
from export.onnx_file import store_in_full
from export.verify import keras_maps


@pytest.fixture
def wide_model() -> keras.Model:
    """Folded, unfolded and depthwise kernels, in a nested encoder too."""
    keras.utils.set_random_seed(3)
    inner_image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(48, 3, strides=2, padding="same", use_bias=False)(inner_image)
    x = keras.layers.BatchNormalization()(x)
    encoder = keras.Model(inner_image, keras.layers.ReLU()(x), name="encoder")
    image = keras.Input((None, None, 3), name="image")
    x = encoder(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    x = keras.layers.Conv2D(32, 1, activation="relu")(x)
    x = keras.layers.UpSampling2D(2)(x)
    maps = keras.layers.Conv2D(2, 1, activation="sigmoid")(x)
    return keras.Model(image, maps, name="wide")


def test_the_file_equals_the_rounded_model_and_large_constants_are_halved(
    wide_model: keras.Model, perturb: object, images: list[NDArray[np.uint8]], open_session: object
) -> None:
    assert callable(perturb)
    assert callable(open_session)
    perturb(wide_model)
    tiles = np.ascontiguousarray(images[0][None, :128, :192])
    before = [value.copy() for value in wide_model.get_weights()]
    round_weights(wide_model)
    changed = [
        not np.array_equal(old, new)
        for old, new in zip(before, wide_model.get_weights(), strict=True)
    ]
    sizes = [value.size for value in before]
    assert changed == [size >= LEAST_ELEMENTS for size in sizes]
    proto = convert(wide_model)
    plain_bytes = len(proto.SerializeToString())
    share = store_in_half(proto)
    assert share > 0.5
    assert len(proto.SerializeToString()) < plain_bytes
    halved = [c for c in proto.graph.initializer if c.data_type == onnx.TensorProto.FLOAT16]
    assert len(halved) == sum(changed)
    found = open_session(proto).run(tiles)
    assert np.abs(found.astype(int) - keras_maps(wide_model, tiles)).max() <= 1


def test_nothing_is_rounded_while_storing(tiny_proto: onnx.ModelProto) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(tiny_proto)
    proto.graph.initializer.append(
        onnx.numpy_helper.from_array(np.full(4096, 1 / 3, dtype=np.float32), "third")
    )
    assert store_in_half(proto) == 0.0


def test_weights_come_back_in_full(wide_model: keras.Model) -> None:
    round_weights(wide_model)
    proto = convert(wide_model)
    plain = {c.name: onnx.numpy_helper.to_array(c) for c in proto.graph.initializer}
    nodes = len(proto.graph.node)
    store_in_half(proto)
    full = store_in_full(proto)
    assert len(full.graph.node) == nodes < len(proto.graph.node)
    assert {c.name for c in full.graph.initializer} == plain.keys()
    for constant in full.graph.initializer:
        np.testing.assert_allclose(
            onnx.numpy_helper.to_array(constant), plain[constant.name], rtol=1e-5
        )
