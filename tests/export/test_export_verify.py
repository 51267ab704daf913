from collections.abc import Callable

import cv2
import keras
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from export.convert import convert
from export.errors import ExportRefusedError
from export.verify import check_not_blank, check_parity
from service.inference.session import ModelSession
from training.matching import PixelCounts, count_pixels


def test_a_faithful_file_passes(
    tiny_model: keras.Model, tiny_session: ModelSession, images: list[NDArray[np.uint8]]
) -> None:
    parity = check_parity(tiny_model, tiny_session, images)
    assert parity.max_difference <= 1
    assert parity.differing_share < 0.001
    assert parity.tiles >= 8
    assert parity.against == f"keras {keras.version()} (tensorflow backend)"


@pytest.mark.parametrize(("right_px", "down_px"), [(0, 3), (15, 0)])
def test_a_shifted_graph_is_refused_and_the_shift_is_named(
    tiny_model: keras.Model,
    open_session: Callable[[onnx.ModelProto], ModelSession],
    images: list[NDArray[np.uint8]],
    right_px: int,
    down_px: int,
) -> None:
    """As tensorflow-onnx#2366, an exported U-Net that came out 15 px beside the truth."""
    image = keras.Input((None, None, 3), name="image")
    x = keras.layers.ZeroPadding2D(((down_px, 0), (right_px, 0)))(image)
    if down_px:
        x = keras.layers.Cropping2D(((0, down_px), (0, 0)))(x)
    if right_px:
        x = keras.layers.Cropping2D(((0, 0), (0, right_px)))(x)
    shifted = keras.Model(image, tiny_model(x))
    session = open_session(convert(shifted))
    words = rf"shifted by \+{right_px}\.\d px right and [+-]{down_px}\.\d px down"
    with pytest.raises(ExportRefusedError, match=words):
        check_parity(tiny_model, session, images)


def test_another_models_file_is_refused(
    tiny_model: keras.Model,
    open_session: Callable[[onnx.ModelProto], ModelSession],
    images: list[NDArray[np.uint8]],
) -> None:
    other = keras.models.clone_model(tiny_model)
    weights = [weight.copy() for weight in tiny_model.get_weights()]
    weights[-1] = weights[-1] + 0.05
    other.set_weights(weights)
    session = open_session(convert(other))
    with pytest.raises(ExportRefusedError, match="differs from Keras by"):
        check_parity(tiny_model, session, images)


def test_differences_of_one_step_are_refused_where_they_are_many(
    tiny_model: keras.Model,
    tiny_proto: onnx.ModelProto,
    open_session: Callable[[onnx.ModelProto], ModelSession],
    images: list[NDArray[np.uint8]],
) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(tiny_proto)
    (rounding,) = [node for node in proto.graph.node if node.op_type == "Round"]
    rounding.op_type = "Floor"
    session = open_session(proto)
    with pytest.raises(ExportRefusedError, match=r"on \d+\.\d% of the pixels"):
        check_parity(tiny_model, session, images)


def test_parity_without_images_or_on_specks_is_refused(
    tiny_model: keras.Model, tiny_session: ModelSession
) -> None:
    with pytest.raises(ExportRefusedError, match="needs real images"):
        check_parity(tiny_model, tiny_session, [])
    with pytest.raises(ExportRefusedError, match="20x40 px is smaller than a multiple of 32"):
        check_parity(tiny_model, tiny_session, [np.zeros((20, 40, 3), dtype=np.uint8)])


def test_an_object_off_centre_is_found_where_it_is_and_moves_as_it_moves(
    tiny_session: ModelSession,
) -> None:
    def centroid(x: int, y: int) -> tuple[float, float]:
        tile = np.full((160, 224, 3), 235, dtype=np.uint8)
        cv2.circle(tile, (x, y), 12, (92, 60, 140), thickness=-1)
        weights = tiny_session.run(tile[None])[0, ..., 0].astype(np.float64)
        rows, columns = np.indices(weights.shape)
        return (
            float((columns * weights).sum() / weights.sum()),
            float((rows * weights).sum() / weights.sum()),
        )

    for x, y in [(40, 40), (168, 40), (40, 104), (168, 104), (72, 72)]:
        assert centroid(x, y) == pytest.approx((x, y), abs=0.5)


def counts(truth_px: int, predicted_px: int) -> PixelCounts:
    truth, predicted = np.zeros((2, 100, 100), dtype=np.uint8)
    truth.ravel()[:truth_px] = 1
    predicted.ravel()[:predicted_px] = 1
    return count_pixels(truth, predicted)


def lively_map() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (32, 32, 1)).astype(np.uint8)


def test_a_model_that_varies_and_finds_the_right_amount_passes() -> None:
    check_not_blank([lively_map(), lively_map()], [counts(900, 1000), counts(0, 10)], ["a", "b"])


@pytest.mark.parametrize("level", [0, 32, 255])
def test_a_constant_model_is_refused(level: int) -> None:
    constant = np.full((32, 32, 2), level, dtype=np.uint8)
    constant[0, 0, 0] ^= 1
    # The distance map must not make up for a nucleus map that says nothing.
    constant[..., 1] = lively_map()[..., 0]
    with pytest.raises(ExportRefusedError, match="the model is constant"):
        check_not_blank([constant], [counts(900, 1000)], ["a"])


@pytest.mark.parametrize(("predicted_px", "ratio"), [(449, "0.45"), (2100, "2.10")])
def test_far_too_little_and_far_too_much_foreground_are_refused(
    predicted_px: int, ratio: str
) -> None:
    with pytest.raises(ExportRefusedError, match=f"{ratio} times the annotated one"):
        check_not_blank([lively_map()], [counts(1000, predicted_px)], ["a"])


def test_one_blank_image_among_good_ones_is_refused_by_name() -> None:
    with pytest.raises(ExportRefusedError, match="no nucleus is found on b"):
        check_not_blank(
            [lively_map(), lively_map()], [counts(900, 1000), counts(50, 0)], ["a", "b"]
        )


def test_validation_without_nuclei_is_refused() -> None:
    with pytest.raises(ExportRefusedError, match="no annotated nucleus"):
        check_not_blank([lively_map()], [counts(0, 5)], ["a"])
