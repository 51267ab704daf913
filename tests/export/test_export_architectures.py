"""Every architecture goes the same way to ONNX and comes out the same to within a rounding."""

from collections import Counter
from collections.abc import Callable

import keras
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from export.convert import convert
from export.verify import MAX_DIFFERENCE, keras_maps
from service.inference.session import ModelSession
from training.architectures import ARCHITECTURES


def liven(model: keras.Model, image: NDArray[np.uint8]) -> None:
    """Spread the maps of random weights over 0..1, or the comparison would be of one grey."""
    head = model.get_layer("maps")
    features = keras.Model(model.inputs[0], head.input)
    values = keras.ops.convert_to_numpy(features(image[None].astype(np.float32), training=False))
    kernel, bias = head.get_weights()
    logits = values @ kernel[0, 0]
    spread = logits.std(axis=(0, 1, 2)) + 1e-6
    centre = logits.mean(axis=(0, 1, 2))
    head.set_weights([kernel * 2 / spread, (-2 * centre / spread).reshape(bias.shape)])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_exported_architecture_equals_keras(
    name: str,
    perturb: Callable[[keras.Model], None],
    open_session: Callable[[onnx.ModelProto], ModelSession],
    images: list[NDArray[np.uint8]],
) -> None:
    keras.utils.set_random_seed(5)
    model = ARCHITECTURES[name](channels=2, encoder_weights=None)
    perturb(model)
    tiles = images[0][:128, :128], images[1][32:96, 64:192]
    liven(model, tiles[0])
    proto = convert(model)
    session = open_session(proto)
    for tile in (tiles[0][:64, :64], tiles[0], tiles[1]):
        batch = np.stack([tile, tile[::-1]])
        expected, found = keras_maps(model, batch), session.run(batch)
        assert expected.std() > 10, "the comparison needs a map that varies"
        difference = np.abs(expected.astype(int) - found)
        assert difference.max() <= MAX_DIFFERENCE
        assert np.count_nonzero(difference) < 0.01 * difference.size
    kinds = Counter(node.op_type for node in proto.graph.node)
    assert kinds["BatchNormalization"] + kinds["Tile"] == 0, "folded and resized, not carried along"
