"""Every row of ../shared/awkward/EXPECTED.csv; the equivalents made in tests are beside this."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import ImageTooSmallError, KaryonError, UnreadableImageError
from service.images.decode import DecodedImage, ImageLimits, decode_image

Judge = Callable[[DecodedImage, NDArray[np.uint8]], bool]


def _exact(image: DecodedImage, reference: NDArray[np.uint8]) -> bool:
    return np.array_equal(image.pixels, reference)


def _near(mean_difference: float) -> Judge:
    def judge(image: DecodedImage, reference: NDArray[np.uint8]) -> bool:
        difference = np.abs(image.pixels.astype(np.int16) - reference)
        return float(difference.mean()) <= mean_difference

    return judge


def _upright(image: DecodedImage, reference: NDArray[np.uint8]) -> bool:
    return image.pixels.shape == (384, 512, 3) and _near(3)(image, reference[:384])


def _gray(image: DecodedImage, reference: NDArray[np.uint8]) -> bool:
    luma = reference @ np.array([0.299, 0.587, 0.114])
    return bool(
        "grayscale replicated to RGB" in image.notes
        and (image.pixels == image.pixels[..., :1]).all()
        and np.abs(image.pixels[..., 0] - luma).mean() < 1
    )


def _white_top(image: DecodedImage, reference: NDArray[np.uint8]) -> bool:
    return bool(
        (image.pixels[:64] == 255).all()
        and np.array_equal(image.pixels[64:], reference[64:])
        and "alpha composited on white" in image.notes
    )


def _shape(*shape: int) -> Judge:
    return lambda image, _: image.pixels.shape == shape and image.pixels.dtype == np.uint8


def _constant(value: int) -> Judge:
    return lambda image, _: bool((image.pixels == value).all())


def _scaled(image: DecodedImage, reference: NDArray[np.uint8]) -> bool:
    return (
        image.mpp == 0.25 and image.mpp_source == "tiff_resolution" and _near(3)(image, reference)
    )


def _no_scale(image: DecodedImage, reference: NDArray[np.uint8]) -> bool:
    return image.mpp is None and image.mpp_source is None and _near(3)(image, reference)


def _first_page(image: DecodedImage, reference: NDArray[np.uint8]) -> bool:
    return "first of 2 pages" in image.notes and _exact(image, reference)


READ: dict[str, Judge] = {
    "reference_rgb8.png": _exact,
    "rgb16_x257.tif": _exact,
    "rgb16_x257.png": _exact,
    "rgb12in16.tif": _exact,
    "float32_01.tif": _exact,
    "planar_rgb8.tif": _exact,
    "bigtiff_tiled_jpeg.tif": _scaled,
    "cmyk.jpg": _near(2),
    "cmyk.tif": _near(2),
    "gray8.png": _gray,
    "palette256.png": _near(3),
    "rgba_top64_transparent.png": _white_top,
    "rgba_opaque.png": _exact,
    "la.png": _gray,
    "exif_orientation_3.jpg": _upright,
    "exif_orientation_6.jpg": _upright,
    "exif_orientation_8.jpg": _upright,
    "progressive_420_q60.jpg": _near(5),
    "jpeg_named_as.png": _near(3),
    "icc_none_72dpi.jpg": _no_scale,
    "srgb_icc.jpg": _near(3),
    "lossless.webp": _exact,
    "two_frames.tif": _first_page,
    "odd_501x413.png": _shape(413, 501, 3),
    "blank_white.png": _constant(255),
    "blank_black.png": _constant(0),
    "half_res_20x.png": _shape(256, 256, 3),
}
REFUSED: dict[str, type[KaryonError]] = {
    "truncated_60pct.jpg": UnreadableImageError,
    "empty.png": UnreadableImageError,
    "text_named_as.png": UnreadableImageError,
    "tiny_7x5.png": ImageTooSmallError,
    "line_512x1.png": ImageTooSmallError,
}


@pytest.fixture(scope="module")
def awkward(shared: Path) -> Path:
    folder = shared / "awkward"
    if not folder.is_dir():
        pytest.skip("needs the project's odd images in ../shared/awkward")
    return folder


@pytest.fixture(scope="module")
def reference(awkward: Path) -> NDArray[np.uint8]:
    return decode_image((awkward / "reference_rgb8.png").read_bytes(), ImageLimits()).pixels


def test_every_row_is_judged(awkward: Path) -> None:
    with (awkward / "EXPECTED.csv").open(newline="") as rows:
        listed = {row["file"] for row in csv.DictReader(rows)}
    assert listed == READ.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", READ)
def test_read_as_expected(name: str, awkward: Path, reference: NDArray[np.uint8]) -> None:
    image = decode_image((awkward / name).read_bytes(), ImageLimits())
    assert READ[name](image, reference), image.notes
    assert image.pixels.flags.c_contiguous


@pytest.mark.parametrize("name", REFUSED)
def test_refused_as_expected(name: str, awkward: Path) -> None:
    with pytest.raises(REFUSED[name]):
        decode_image((awkward / name).read_bytes(), ImageLimits())


def test_first_page_of_a_pyramid_is_full_resolution(shared: Path) -> None:
    data = (shared / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    image = decode_image(data, ImageLimits())
    assert image.pixels.shape == (2967, 2220, 3)
    assert (image.mpp, image.mpp_source) == (0.499, "aperio_description")
    assert "first of 4 pages" in image.notes
