"""Truncated, damaged and hostile bytes: refused early, with Karyon's errors and nothing else."""

import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import (
    ImageTooLargeError,
    ImageTooSmallError,
    KaryonError,
    UnreadableImageError,
    UnsupportedImageError,
)
from service.images.decode import ImageLimits, decode_image, read_header

KINDS = [
    "png",
    "png_16",
    "png_gray",
    "png_gray_alpha",
    "png_rgba",
    "png_exif",
    "jpeg",
    "jpeg_gray",
    "jpeg_progressive",
    "jpeg_restart",
    "jpeg_exif",
    "tiff",
    "tiff_big_endian",
    "tiff_big",
    "tiff_planar",
    "tiff_tiled_deflate",
    "tiff_float",
    "tiff_lzw",
    "tiff_lzw_16",
    "tiff_packbits",
    "tiff_gray",
    "tiff_cmyk",
    "webp",
    "webp_lossless",
    "webp_alpha",
    "webp_exif",
    "bmp",
    "bmp_gray",
    "bmp_rgba",
]


def test_kinds_are_all_there(samples_of_each_kind: dict[str, bytes]) -> None:
    assert set(KINDS) == samples_of_each_kind.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_anywhere_is_refused_or_whole(
    kind: str, samples_of_each_kind: dict[str, bytes], encoders: Any
) -> None:
    data = samples_of_each_kind[kind]
    whole = encoders.decode(data).pixels
    refused = 0
    lengths = sorted({*range(0, len(data), max(1, len(data) // 60)), len(data) - 1})
    for length in lengths:
        try:
            # What is cut off may have been metadata behind the pixels; half an image never passes.
            assert np.array_equal(encoders.decode(data[:length]).pixels, whole)
        except (UnreadableImageError, UnsupportedImageError):
            refused += 1
    assert refused >= 0.9 * len(lengths)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
def test_jpeg_cut_and_closed_with_an_end_marker_is_refused(
    part: float, options: tuple[int, ...], he_pixels: NDArray[np.uint8], encoders: Any
) -> None:
    data = encoders.opencv(".jpg", he_pixels, *options)
    scan = data.index(b"\xff\xda")
    if options:  # within the first of several scans, the one that gives every pixel a value
        part *= (data.index(b"\xff\xda", scan + 2) - scan) / (len(data) - scan)
    cut = scan + int((len(data) - scan) * part)
    with pytest.raises(UnreadableImageError, match="truncated"):
        encoders.decode(data[:cut] + b"\xff\xd9")


@pytest.mark.parametrize("value", [128, 65, 0, 255])
def test_flat_jpeg_is_not_taken_for_truncated(value: int, encoders: Any) -> None:
    flat = np.full((40, 56, 3), value, np.uint8)
    assert np.abs(encoders.decode(encoders.opencv(".jpg", flat)).pixels - value).max() <= 1


@given(
    kind=st.sampled_from(KINDS),
    cut=st.floats(0.02, 1),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    in_header=st.booleans(),
    tail=st.binary(max_size=40),
)
@settings(max_examples=600, deadline=None, database=None)
def test_mutated_files_raise_nothing_else(
    samples_of_each_kind: dict[str, bytes],
    encoders: Any,
    kind: str,
    cut: float,
    damage: list[tuple[float, int]],
    in_header: bool,
    tail: bytes,
) -> None:
    data = bytearray(samples_of_each_kind[kind])
    span = min(len(data), 300) if in_header else len(data)
    for position, value in damage:
        data[int(position * span)] = value
    mutated = bytes(data[: int(cut * len(data))] if cut < 0.9 else data) + tail
    try:
        image = encoders.decode(mutated)
    except KaryonError:
        return
    assert image.pixels.dtype == np.uint8
    assert image.pixels.ndim == 3
    assert image.pixels.shape[2] == 3
    assert image.mpp is None or 0.1 <= image.mpp <= 2


@given(kind=st.sampled_from(KINDS), position=st.integers(0, 400), bits=st.integers(1, 255))
@settings(max_examples=600, deadline=None, database=None)
def test_header_damage_raises_nothing_else(
    samples_of_each_kind: dict[str, bytes], encoders: Any, kind: str, position: int, bits: int
) -> None:
    data = bytearray(samples_of_each_kind[kind])
    data[position % len(data)] ^= bits
    try:
        encoders.decode(bytes(data))
    except KaryonError:
        return


@given(
    mark=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0+", b"BM"]),
    body=st.binary(max_size=200),
)
@settings(max_examples=300, deadline=None, database=None)
def test_bytes_behind_a_signature_raise_nothing_else(
    encoders: Any, mark: bytes, body: bytes
) -> None:
    try:
        encoders.decode(mark + body)
    except KaryonError:
        return


def _claims(size: int, encoders: Any) -> dict[str, bytes]:
    """Make small files of each format whose headers claim size x size px."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    jpeg = bytearray(encoders.opencv(".jpg", pixels))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", min(size, 65_535), min(size, 65_535))
    bmp = bytearray(encoders.opencv(".bmp", pixels))
    bmp[18:26] = struct.pack("<ii", size, -size)
    tiff = encoders.tiff(pixels)
    for tag in (256, 257):
        at = tiff.index(struct.pack("<HH", tag, 4))
        tiff = tiff[: at + 8] + struct.pack("<I", size) + tiff[at + 12 :]
    side = max(min(size, 1 << 24) - 1, 0)
    extended = bytes(4) + side.to_bytes(3, "little") * 2
    body = b"WEBPVP8X" + struct.pack("<I", 10) + extended
    return {
        "png": encoders.png(pixels, colour_type=2, size=(size, size)),
        "jpeg": bytes(jpeg),
        "tiff": tiff,
        "webp": b"RIFF" + struct.pack("<I", len(body)) + body,
        "bmp": bytes(bmp),
    }


@pytest.mark.parametrize("size", [50_000, 2**31 - 1])
@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp", "bmp"])
def test_claimed_size_is_refused_before_decoding(kind: str, size: int, encoders: Any) -> None:
    data = _claims(size, encoders)[kind]
    assert len(data) < 2_000
    header = read_header(data)
    assert header.width_px * header.height_px >= 50_000**2
    tracemalloc.start()
    with pytest.raises(ImageTooLargeError):
        decode_image(data, ImageLimits())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "bmp"])
def test_claimed_size_within_bounds_is_truncated(kind: str, encoders: Any) -> None:
    with pytest.raises(UnreadableImageError):
        encoders.decode(_claims(1_500, encoders)[kind])


# WebP's extended header stores the size less one, so that it cannot be 0.
@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "bmp"])
def test_size_of_nothing_is_refused(kind: str, encoders: Any) -> None:
    with pytest.raises(UnreadableImageError):
        encoders.decode(_claims(0, encoders)[kind])


@pytest.mark.parametrize("shape", [(5, 7), (1, 512), (512, 1), (15, 16)])
def test_small_sides_are_refused(shape: tuple[int, int], encoders: Any) -> None:
    with pytest.raises(ImageTooSmallError, match="16 px"):
        encoders.decode(encoders.png(np.zeros((*shape, 3), np.uint8), colour_type=2))


def test_a_side_that_no_png_holds_is_refused(encoders: Any) -> None:
    row = np.zeros((1, 1_000_001, 3), np.uint8)
    with pytest.raises(ImageTooLargeError, match="no side may have more than 1000000 px"):
        encoders.decode(encoders.opencv(".bmp", row))


def test_the_bounds_themselves_are_allowed(encoders: Any) -> None:
    data = encoders.png(np.zeros((16, 16, 3), np.uint8), colour_type=2)
    assert decode_image(data, ImageLimits(max_pixels=256)).pixels.shape == (16, 16, 3)
    with pytest.raises(ImageTooLargeError):
        decode_image(data, ImageLimits(max_pixels=255))


def test_wide_samples_count_against_the_bound(encoders: Any) -> None:
    data = encoders.tiff(np.zeros((64, 64, 4), np.float64), extrasamples=[2])
    with pytest.raises(ImageTooLargeError, match="8 bits a sample"):
        encoders.decode(data, max_pixels=64 * 64)


def _peak_bytes(data: bytes, encoders: Any) -> int:
    tracemalloc.start()
    try:
        encoders.decode(data)
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak_bytes


def test_a_deflate_strip_inflates_no_further_than_its_size(encoders: Any) -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    pixels = np.random.default_rng(0).integers(0, 255, (128, 256, 3), np.uint8)
    data = bytearray(encoders.tiff(pixels, compression="zlib", rowsperstrip=128))
    data += bomb
    for tag, value in ((273, len(data) - len(bomb)), (279, len(bomb))):
        at = data.index(struct.pack("<H", tag), 8)
        kind = struct.unpack_from("<H", data, at + 2)[0]
        data[at + 8 : at + 12] = struct.pack("<I", value)
        data[at + 2 : at + 4] = struct.pack("<H", 4 if kind == 3 else kind)
    assert _peak_bytes(bytes(data), encoders) < 3_000_000
    assert (encoders.decode(bytes(data)).pixels == 0).all()


def _set_tag(data: bytearray, tag: int, kind: int, count: int, value: int) -> None:
    """Overwrite an entry of the first directory of a little-endian TIFF."""
    (at,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            struct.pack_into("<HII", data, entry + 2, kind, count, value)
            return
    raise AssertionError(tag)


def test_a_giant_tile_of_a_small_image_is_not_inflated(encoders: Any) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    data = bytearray(encoders.tiff(pixels, compression="zlib", tile=(16, 16)))
    data += zlib.compress(bytes(5_000_000), 9)
    _set_tag(data, 322, 4, 1, 16_384)
    _set_tag(data, 323, 4, 1, 16_384)
    with pytest.raises(UnreadableImageError, match="tiles of an impossible size"):
        encoders.decode(bytes(data))


def test_tiles_count_against_the_bound_as_they_are_stored(encoders: Any) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    data = encoders.tiff(pixels, compression="zlib", tile=(1024, 1024))
    assert encoders.decode(data).pixels.shape == (64, 64, 3)
    with pytest.raises(ImageTooLargeError, match="3145728 bytes"):
        encoders.decode(data, max_pixels=300_000)


def test_a_tag_of_millions_of_values_costs_no_memory(encoders: Any) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    data = bytearray(encoders.tiff(pixels))
    _set_tag(data, 258, 1, 8_000_000, len(data))
    data += bytes([8]) * 8_000_000
    assert _peak_bytes(bytes(data), encoders) < 4_000_000


def test_a_compressed_profile_or_text_is_no_bomb(rgb: NDArray[np.uint8], encoders: Any) -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    extra = ((b"iCCP", b"p\0\0" + bomb), (b"zTXt", b"t\0\0" + bomb))
    data = encoders.png(rgb, colour_type=2, extra=extra)
    assert _peak_bytes(data, encoders) < 20_000_000


def test_jpeg_of_thousands_of_scans_is_refused(he_pixels: Any, encoders: Any) -> None:
    data = encoders.opencv(".jpg", he_pixels, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last = data.rindex(b"\xff\xda")
    data = data[:last] + data[last:-2] * 400 + b"\xff\xd9"
    with pytest.raises(UnsupportedImageError, match="scans"):
        encoders.decode(data)


def test_a_ring_of_pages_ends(rgb: NDArray[np.uint8], encoders: Any) -> None:
    data = bytearray(encoders.tiff(rgb))
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    data[at + 2 + 12 * count : at + 6 + 12 * count] = struct.pack("<I", at)
    assert np.array_equal(encoders.decode(bytes(data)).pixels, rgb)


def test_damage_in_later_pages_is_not_looked_for(rgb: NDArray[np.uint8], encoders: Any) -> None:
    data = bytearray(encoders.tiff(np.stack([rgb, rgb]), photometric="rgb"))
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    (second,) = struct.unpack_from("<I", data, first + 2 + 12 * entries)
    # The second page's first tag points past the end.
    struct.pack_into("<HII", data, second + 4, 4, 1_000_000, len(data))
    decoded = encoders.decode(bytes(data))
    assert np.array_equal(decoded.pixels, rgb)
    assert "first of 2 pages" in decoded.notes


def test_refusals_are_quiet(
    samples_of_each_kind: dict[str, bytes], encoders: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    for data in samples_of_each_kind.values():
        with pytest.raises(KaryonError):
            encoders.decode(data[: len(data) // 2])
    damaged_lzw = bytearray(samples_of_each_kind["tiff_lzw_16"])
    damaged_lzw[200:260] = bytes(60)
    with pytest.raises(KaryonError):
        encoders.decode(bytes(damaged_lzw))
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out == ""


def test_many_threads_decode_the_same(
    samples_of_each_kind: dict[str, bytes], encoders: Any
) -> None:
    expected = {kind: encoders.decode(data) for kind, data in samples_of_each_kind.items()}
    order = list(samples_of_each_kind) * 8
    with ThreadPoolExecutor(8) as pool:
        decoded = pool.map(lambda kind: encoders.decode(samples_of_each_kind[kind]), order)
        for kind, image in zip(order, decoded, strict=True):
            assert np.array_equal(image.pixels, expected[kind].pixels)
            assert image.notes == expected[kind].notes
