"""The self-test at load: what it lets pass, and what it stops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import ModelContractError
from service.inference.golden import (
    GOLDEN_FILE,
    Golden,
    canary_tile,
    check_golden,
    read_golden,
    write_golden,
)
from service.inference.session import ModelSession

MakeModel = Callable[..., Path]
Pixels = NDArray[np.uint8]


@pytest.fixture
def model(tiny_model_factory: MakeModel, tmp_path: Path) -> Path:
    return tiny_model_factory(tmp_path / "tiny" / "1.0.0" / "model.onnx")


def run(path: Path) -> Callable[[Pixels], Pixels]:
    return ModelSession.load(path, provider="cpu", threads=1).run


def test_a_session_is_held_to_the_golden_tile_beside_it(model: Path, he_pixels: Pixels) -> None:
    assert ModelSession.load(model, provider="cpu", threads=1).golden is None
    write_golden(model.parent, he_pixels, run(model), 32)
    golden = ModelSession.load(model, provider="cpu", threads=1).golden
    assert golden is not None
    assert (golden.source, golden.max_difference, golden.dice) == ("file", 0, 1.0)


def test_other_weights_under_the_same_name_are_stopped(model: Path, he_pixels: Pixels) -> None:
    """Also what a provider that computes nonsense looks like."""
    write_golden(model.parent, he_pixels, lambda tiles: 255 - run(model)(tiles), 32)
    with pytest.raises(ModelContractError, match=r"tiny/1\.0\.0/model\.onnx: the self-test fails"):
        ModelSession.load(model, provider="cpu", threads=1)


@pytest.mark.parametrize(
    "arrays",
    [
        {"tile": np.zeros((64, 64, 3), np.uint8)},
        {"tile": np.zeros((64, 64, 3), np.uint8), "maps": np.zeros((64, 64, 1), np.uint8)},
        {"tile": np.zeros((60, 64, 3), np.uint8), "maps": np.zeros((60, 64, 2), np.uint8)},
        {"tile": np.zeros((64, 64, 3)), "maps": np.zeros((64, 64, 2))},
        {"tile": np.array([{}], dtype=object), "maps": np.zeros((64, 64, 2), np.uint8)},
    ],
)
def test_a_golden_file_that_is_none_is_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / GOLDEN_FILE, **arrays)
    with pytest.raises(ModelContractError, match=r"golden\.npz"):
        read_golden(tmp_path, 32, 2)


def test_a_golden_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / GOLDEN_FILE).write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ModelContractError, match="cannot be read"):
        read_golden(tmp_path, 32, 2)
    assert read_golden(tmp_path / "absent", 32, 2) is None


@pytest.mark.parametrize(
    ("precision", "noise", "passes"),
    [("fp32", 0, True), ("fp32", 3, False), ("int8", 3, True), ("int8", 20, False)],
)
def test_the_tolerance_is_that_of_the_precision(precision: Any, noise: int, passes: bool) -> None:
    random = np.random.default_rng(7)
    expected = np.where(random.random((1, 64, 64, 2)) < 0.3, 220, 20).astype(np.uint8)
    golden = Golden(np.zeros((1, 64, 64, 3), np.uint8), expected, "file")

    def noisy(_: Pixels) -> Pixels:
        return (expected + random.integers(-noise, noise + 1, expected.shape)).astype(np.uint8)

    if passes:
        assert check_golden(noisy, golden, precision, 0.5).dice == 1.0
    else:
        with pytest.raises(ModelContractError, match="the self-test fails"):
            check_golden(noisy, golden, precision, 0.5)


def test_a_blank_field_agrees_with_a_blank_field() -> None:
    blank = np.zeros((1, 32, 32, 1), np.uint8)
    golden = Golden(np.zeros((1, 32, 32, 3), np.uint8), blank, "file")
    assert check_golden(lambda _: blank, golden, "fp32", 0.5).dice == 1.0


@pytest.mark.parametrize(
    ("size", "expected"), [((512, 512), (192, 192)), ((100, 300), (96, 192)), ((32, 33), (32, 32))]
)
def test_the_tile_is_cut_from_the_middle(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[size[0] // 2, size[1] // 2] = 255
    write_golden(tmp_path, pixels, lambda tiles: tiles[..., :2], 32)
    golden = read_golden(tmp_path, 32, 2)
    assert golden is not None
    assert golden.tile.shape == (1, *expected, 3)
    assert np.argwhere(golden.maps[0, ..., 0]).tolist() == [[expected[0] // 2, expected[1] // 2]]


def test_an_image_without_room_for_a_tile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelContractError, match="holds no tile of 32 px"):
        write_golden(tmp_path, np.zeros((31, 64, 3), np.uint8), lambda tiles: tiles, 32)


def test_the_canary_has_tissue_and_ground() -> None:
    tile = canary_tile(256)
    assert (tile.shape, tile.dtype) == ((256, 256, 3), np.uint8)
    assert len(np.unique(tile.reshape(-1, 3), axis=0)) == 2
