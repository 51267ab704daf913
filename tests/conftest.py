"""Fixtures shared by the tests of all rooms."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[1]
TEST_DATA = REPOSITORY / "tests" / "data"
SHARED = REPOSITORY.parent / "shared"


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read an image file as RGB, shape (H, W, 3), uint8."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert bgr is not None, path
    return np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8)


def read_labels(path: Path) -> NDArray[np.int32]:
    """Read an instance label image, shape (H, W), int32."""
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert labels is not None, path
    return labels.astype(np.int32)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Committed fixtures: `images/` and `labels/`."""
    return TEST_DATA


@pytest.fixture(scope="session")
def shared() -> Path:
    """The team's data beside the checkout; a user's clone has none."""
    if not SHARED.is_dir():
        pytest.skip("needs the project's data in ../shared, which a plain clone does not have")
    return SHARED


@pytest.fixture(scope="session")
def he_pixels() -> NDArray[np.uint8]:
    """A real 512x512 H&E tile with 123 annotated nuclei (TNBC patient 08, CC BY 4.0)."""
    return read_rgb(TEST_DATA / "images" / "tnbc_p08_2.png")


@pytest.fixture(scope="session")
def he_labels() -> NDArray[np.int32]:
    """The annotated nuclei of `he_pixels`, 0 background."""
    return read_labels(TEST_DATA / "labels" / "tnbc_p08_2.png")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slow files first, or two workers end with one of them idle.

    Of no effect under xdist without `--no-loadscope-reorder`, which `make test` gives.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
