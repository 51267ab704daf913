"""What each kind of file decodes to, on small images made here."""

import struct
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import UnreadableImageError, UnsupportedImageError

EXACT = (
    "png",
    "png_16",
    "tiff",
    "tiff_big_endian",
    "tiff_big",
    "tiff_planar",
    "tiff_tiled_deflate",
    "tiff_float",
    "tiff_lzw",
    "tiff_lzw_16",
    "tiff_packbits",
    "webp_lossless",
    "bmp",
)
LOSSY = ("jpeg", "jpeg_progressive", "jpeg_restart", "webp")
GRAY = ("png_gray", "bmp_gray", "tiff_gray", "jpeg_gray")


@pytest.mark.parametrize("kind", EXACT)
def test_lossless_kinds_are_exact(
    kind: str, samples_of_each_kind: dict[str, bytes], rgb: NDArray[np.uint8], encoders: Any
) -> None:
    image = encoders.decode(samples_of_each_kind[kind])
    assert np.array_equal(image.pixels, rgb)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous
    assert image.format == kind.split("_", maxsplit=1)[0]


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_kinds_are_near(
    kind: str, samples_of_each_kind: dict[str, bytes], rgb: NDArray[np.uint8], encoders: Any
) -> None:
    pixels = encoders.decode(samples_of_each_kind[kind]).pixels.astype(np.int16)
    assert np.abs(pixels - rgb).mean() < 4
    # Red and blue exchanged would be far off on H&E, which is violet and pink.
    assert np.abs(pixels - rgb[..., ::-1]).mean() > 6


@pytest.mark.parametrize("kind", GRAY)
def test_grayscale_is_replicated(
    kind: str, samples_of_each_kind: dict[str, bytes], rgb: NDArray[np.uint8], encoders: Any
) -> None:
    image = encoders.decode(samples_of_each_kind[kind])
    expected = 255 - rgb[..., 1] if kind == "tiff_gray" else rgb[..., 1]
    assert np.abs(image.pixels.astype(np.int16) - expected[..., None]).mean() < 3
    assert (image.pixels == image.pixels[..., :1]).all()
    # A gray BMP is a palette of grays; the file does not say that it is gray.
    assert kind == "bmp_gray" or "grayscale replicated to RGB" in image.notes


def test_alpha_is_composited_on_white(
    samples_of_each_kind: dict[str, bytes], rgb: NDArray[np.uint8], encoders: Any
) -> None:
    opacity = rgb[..., 1:2] / 255
    expected = rgb * opacity + 255 * (1 - opacity)
    for kind in ("png_rgba", "webp_alpha"):
        image = encoders.decode(samples_of_each_kind[kind])
        assert np.abs(image.pixels - expected).max() <= 1
        assert "alpha composited on white" in image.notes


def test_gray_with_alpha(
    samples_of_each_kind: dict[str, bytes], rgb: NDArray[np.uint8], encoders: Any
) -> None:
    image = encoders.decode(samples_of_each_kind["png_gray_alpha"])
    opacity = rgb[..., 1] / 255
    expected = rgb[..., 2] * opacity + 255 * (1 - opacity)
    assert np.abs(image.pixels[..., 0] - expected).max() <= 1
    assert {"grayscale replicated to RGB", "alpha composited on white"} <= set(image.notes)


@pytest.mark.parametrize("alpha_kind", ["unassalpha", "assocalpha", "unspecified"])
def test_tiff_alpha_by_its_kind(alpha_kind: str, rgb: NDArray[np.uint8], encoders: Any) -> None:
    opacity = np.full(rgb.shape[:2], 128, np.uint8)
    opacity[:20] = 255
    stored = np.dstack([rgb if alpha_kind != "assocalpha" else rgb // 2, opacity])
    image = encoders.decode(encoders.tiff(stored, extrasamples=[alpha_kind]))
    scale = (opacity / 255)[..., None]
    expected = {
        "unassalpha": rgb * scale + 255 * (1 - scale),
        "assocalpha": rgb // 2 + 255 * (1 - scale),
        "unspecified": rgb.astype(float),
    }[alpha_kind]
    assert np.abs(image.pixels - expected).max() <= 1


def test_opaque_alpha_changes_nothing(rgb: NDArray[np.uint8], encoders: Any) -> None:
    opaque = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    for data in (encoders.png(opaque, colour_type=6), encoders.tiff(opaque, extrasamples=[2])):
        image = encoders.decode(data)
        assert np.array_equal(image.pixels, rgb)
        assert "opaque alpha channel dropped" in image.notes


def test_bmp_reserved_byte_is_no_alpha(rgb: NDArray[np.uint8], encoders: Any) -> None:
    height, width = rgb.shape[:2]
    data = bytearray(encoders.opencv(".bmp", rgb)[:54])
    data[28:30] = (32).to_bytes(2, "little")
    stored = np.dstack([rgb[::-1, :, ::-1], np.zeros((height, width), np.uint8)])
    image = encoders.decode(bytes(data) + stored.tobytes())
    assert np.array_equal(image.pixels, rgb)


def test_bmp_with_alpha_mask(rgb: NDArray[np.uint8], encoders: Any) -> None:
    height, width = rgb.shape[:2]
    alpha = rgb[..., 1:2]
    stored = np.concatenate([rgb[::-1, :, ::-1], alpha[::-1]], axis=2).tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(stored), 0, 0, 0, 0)
    head += struct.pack("<IIII", *masks) + bytes(108 - 56)
    at = 14 + len(head)
    image = encoders.decode(b"BM" + struct.pack("<III", at + len(stored), 0, at) + head + stored)
    opacity = alpha / 255
    assert np.abs(image.pixels - (rgb * opacity + 255 * (1 - opacity))).max() <= 1
    assert "alpha composited on white" in image.notes


def test_bmp_stored_from_the_top(rgb: NDArray[np.uint8], encoders: Any) -> None:
    data = bytearray(encoders.opencv(".bmp", rgb))
    data[22:26] = (-rgb.shape[0]).to_bytes(4, "little", signed=True)
    assert np.array_equal(encoders.decode(bytes(data)).pixels, rgb[::-1])


def test_palettes(rgb: NDArray[np.uint8], encoders: Any) -> None:
    indices = rgb[..., 0]
    palette = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], axis=1)
    expected = palette[indices]
    png = encoders.png(
        indices[..., None], colour_type=3, extra=((b"PLTE", palette.astype(np.uint8).tobytes()),)
    )
    colour_map = (palette.T * 257).astype(np.uint16)
    tiff = encoders.tiff(indices, photometric="palette", colormap=colour_map)
    for data in (png, tiff):
        image = encoders.decode(data)
        assert np.array_equal(image.pixels, expected)
        assert "palette expanded to RGB" in image.notes


@pytest.mark.parametrize("depth", [8, 10, 12, 14])
def test_camera_depths_in_16_bits_are_never_black(
    depth: int, rgb: NDArray[np.uint8], encoders: Any
) -> None:
    bright = rgb.copy()
    bright[0, 0] = 255  # the background of a bright-field image
    stored = bright.astype(np.uint16) << (depth - 8)
    for data in (encoders.tiff(stored), encoders.png(stored, colour_type=2, depth=16)):
        image = encoders.decode(data)
        assert np.array_equal(image.pixels, bright)
        assert any(note.startswith(f"{depth}-bit samples in 16 bits") for note in image.notes)


def test_declared_greatest_value_tells_the_depth(rgb: NDArray[np.uint8], encoders: Any) -> None:
    dim = (rgb // 2).astype(np.uint16)  # at most 127: by itself it would pass for 8 bits
    declared = encoders.tiff(dim * 16, extratags=[(281, "H", 3, (4095, 4095, 4095), True)])
    assert np.array_equal(encoders.decode(declared).pixels, rgb // 2)
    default = encoders.tiff(dim * 16, extratags=[(281, "H", 3, (65535,) * 3, True)])
    assert encoders.decode(default).pixels.max() > 100


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floating_point_within_0_and_1(kind: type, rgb: NDArray[np.uint8], encoders: Any) -> None:
    image = encoders.decode(encoders.tiff((rgb / 255).astype(kind)))
    assert np.array_equal(image.pixels, rgb)


@pytest.mark.parametrize("bad", [255.0, -1.0, np.nan, np.inf])
def test_floating_point_outside_is_refused(
    bad: float, rgb: NDArray[np.uint8], encoders: Any
) -> None:
    stored = rgb.astype(np.float32) / 255
    stored[3, 3, 0] = bad
    with pytest.raises(UnsupportedImageError, match=r"0\.\.1"):
        encoders.decode(encoders.tiff(stored))


def test_cmyk_tiff(rgb: NDArray[np.uint8], encoders: Any) -> None:
    inks = np.dstack([255 - rgb, np.full(rgb.shape[:2], 51, np.uint8)])
    image = encoders.decode(encoders.tiff(inks, photometric="separated"))
    assert np.abs(image.pixels - rgb * 0.8).max() <= 1
    assert "CMYK converted to RGB without colour management" in image.notes


def test_pale_cmyk_of_16_bits_stays_pale(encoders: Any) -> None:
    """Inks of empty glass are few: their greatest value tells nothing of the depth."""
    inks = np.full((32, 48, 4), 3000, np.uint16)
    image = encoders.decode(encoders.tiff(inks, photometric="separated"))
    assert np.all(image.pixels == round(255 * (1 - 3000 / 65535) ** 2))
    assert "16-bit samples divided by 257" in image.notes


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floating_point_with_lzw(kind: type, rgb: NDArray[np.uint8], encoders: Any) -> None:
    stored = (rgb[..., ::-1] / 255).astype(kind)
    done, data = cv2.imencode(
        ".tiff", stored, (cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_PREDICTOR, 1)
    )
    assert done
    assert np.array_equal(encoders.decode(data.tobytes()).pixels, rgb)


def test_half_floats_of_either_order_are_refused_with_lzw(
    rgb: NDArray[np.uint8], encoders: Any
) -> None:
    for order in "<>":
        data = encoders.tiff((rgb / 255).astype(np.float16), byteorder=order)
        layout = f"{order}HHI"
        at = data.index(struct.pack(layout, 259, 3, 1)) + 8
        lzw = data[:at] + struct.pack(f"{order}H", 5) + data[at + 2 :]
        with pytest.raises(UnsupportedImageError, match="Deflate only"):
            encoders.decode(lzw)


def test_a_greatest_value_of_an_odd_type_costs_no_image(
    rgb: NDArray[np.uint8], encoders: Any
) -> None:
    stored = rgb.astype(np.uint16) * 257
    data = encoders.tiff(stored, extratags=[(341, "d", 3, (65535.0,) * 3, True)])
    assert np.array_equal(encoders.decode(data).pixels, rgb)


def test_first_of_two_pages(rgb: NDArray[np.uint8], encoders: Any) -> None:
    single = encoders.tiff(np.stack([rgb, 255 - rgb]))
    image = encoders.decode(single)
    assert np.array_equal(image.pixels, rgb)
    assert "first of 2 pages" in image.notes


@pytest.mark.parametrize("predictor", [False, True])
def test_deflate_with_and_without_differences(
    predictor: bool, rgb: NDArray[np.uint8], encoders: Any
) -> None:
    wide = rgb.astype(np.uint16) * 257
    kind = cv2.IMWRITE_TIFF_PREDICTOR, 2 if predictor else 1
    data = encoders.opencv(".tif", wide, cv2.IMWRITE_TIFF_COMPRESSION, 8, *kind)
    assert np.array_equal(encoders.decode(data).pixels, rgb)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kind": np.int16}, "signed 16-bit"),
        ({"kind": np.uint32}, "32-bit"),
        ({"kind": np.uint8, "channels": 5}, "channels"),
    ],
)
def test_refused_kinds_of_tiff_say_why(
    options: dict[str, Any], match: str, rgb: NDArray[np.uint8], encoders: Any
) -> None:
    channels = options.get("channels", 3)
    stored = np.repeat(rgb[..., :1], channels, axis=2).astype(options["kind"])
    with pytest.raises(UnsupportedImageError, match=match):
        encoders.decode(encoders.tiff(stored))


def test_jpeg_2000_within_tiff_is_named(rgb: NDArray[np.uint8], encoders: Any) -> None:
    data = bytearray(encoders.tiff(rgb))
    at = data.index((259).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    data[at + 8 : at + 10] = (33003).to_bytes(2, "little")
    with pytest.raises(UnsupportedImageError, match="JPEG 2000"):
        encoders.decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"GIF89a" + bytes(40), "GIF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
        (b"\0\0\0\x1cftypavif" + bytes(40), "AVIF"),
        (bytes(128) + b"DICM" + bytes(40), "DICOM"),
        (b"%PDF-1.7" + bytes(40), "PDF"),
    ],
)
def test_other_formats_are_named(data: bytes, name: str, encoders: Any) -> None:
    with pytest.raises(UnsupportedImageError, match=f"^{name} is not read; send PNG, JPEG"):
        encoders.decode(data)


@pytest.mark.parametrize("data", [b"", b"x", b"no image at all\n", b"BM and other text", bytes(99)])
def test_what_is_no_image_is_refused(data: bytes, encoders: Any) -> None:
    with pytest.raises(UnreadableImageError):
        encoders.decode(data)
