"""Small images of many kinds, made in the test so that a plain clone checks every behaviour."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from service.images.decode import DecodedImage, ImageLimits, decode_image

Encoder = Callable[..., bytes]
JPEG_EXIF_AT = 2  # behind the start-of-image marker


def chunk(name: bytes, body: bytes) -> bytes:
    """Make one PNG chunk with a right checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def encode_png(
    samples: NDArray[Any],
    *,
    colour_type: int,
    depth: int = 8,
    size: tuple[int, int] | None = None,
    extra: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """Encode samples (H, W, C) as PNG with whatever chunks between IHDR and IDAT."""
    height, width = samples.shape[:2]
    stored = samples.astype(">u2" if depth == 16 else "u1").reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    width, height = size or (width, height)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
        + b"".join(chunk(name, body) for name, body in extra)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def encode_with_opencv(suffix: str, pixels: NDArray[Any], *parameters: int) -> bytes:
    """Encode RGB, RGBA or gray samples by OpenCV's own encoders."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(channels)
    ordered = pixels if order is None else cv2.cvtColor(pixels, order)
    done, encoded = cv2.imencode(suffix, ordered, parameters)
    assert done
    return encoded.tobytes()


def encode_tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    """Encode by tifffile; photometric RGB unless told otherwise."""
    buffer = io.BytesIO()
    options.setdefault("photometric", "rgb")
    options.setdefault("metadata", None)
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def exif_block(tags: Mapping[int, tuple[int, int, bytes]], *, order: str = "<") -> bytes:
    """Make a TIFF structure of tags number -> (type, count, value of four bytes or more)."""
    mark = {"<": b"II", ">": b"MM"}[order]
    start = 8 + 2 + 12 * len(tags) + 4
    entries, tail = b"", b""
    for number, (kind, count, value) in sorted(tags.items()):
        stored = value
        if len(value) > 4:
            stored = struct.pack(order + "I", start + len(tail))
            tail += value
        entries += struct.pack(order + "HHI", number, kind, count) + stored.ljust(4, b"\0")
    head = mark + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", len(tags))
    return head + entries + b"\0\0\0\0" + tail


def orientation_block(orientation: int) -> bytes:
    """Make an EXIF block that tells an orientation and nothing else."""
    return exif_block({274: (3, 1, struct.pack("<H", orientation))})


def insert_segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    """Put an application segment into a JPEG."""
    segment = struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
    return jpeg[:JPEG_EXIF_AT] + segment + jpeg[JPEG_EXIF_AT:]


def add_webp_chunks(lossless: bytes, size: tuple[int, int], flags: int, *chunks: bytes) -> bytes:
    """Turn a simple lossless WebP into an extended one with further chunks behind the image."""
    width, height = size
    extended = bytes([flags, 0, 0, 0])
    extended += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + extended + lossless[12:] + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def decode(data: bytes, *, max_pixels: int = 4_000_000) -> DecodedImage:
    """Decode under a bound that small test images keep."""
    return decode_image(data, ImageLimits(max_pixels=max_pixels))


class Encoders:
    """The functions above, for tests, which cannot import a conftest."""

    chunk = staticmethod(chunk)
    png = staticmethod(encode_png)
    opencv = staticmethod(encode_with_opencv)
    tiff = staticmethod(encode_tiff)
    exif = staticmethod(exif_block)
    orientation = staticmethod(orientation_block)
    segment = staticmethod(insert_segment)
    webp_extended = staticmethod(add_webp_chunks)
    decode = staticmethod(decode)


@pytest.fixture(scope="session")
def encoders() -> type[Encoders]:
    """Functions that make image files."""
    return Encoders


@pytest.fixture(scope="session")
def rgb(he_pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A real H&E crop of odd sizes, (45, 67, 3)."""
    return np.ascontiguousarray(he_pixels[100:145, 200:267])


@pytest.fixture(scope="session")
def samples_of_each_kind(rgb: NDArray[np.uint8]) -> dict[str, bytes]:
    """One small file of each kind that is read."""
    wide = rgb.astype(np.uint16) * 257
    gray = rgb[..., 1]
    alpha = np.dstack([rgb, gray])
    lossless = encode_with_opencv(".webp", rgb, cv2.IMWRITE_WEBP_QUALITY, 101)
    size = (rgb.shape[1], rgb.shape[0])
    exif = orientation_block(6)
    exif_chunk = b"EXIF" + struct.pack("<I", len(exif)) + exif
    jpeg = encode_with_opencv(".jpg", rgb)
    return {
        "png": encode_png(rgb, colour_type=2),
        "png_16": encode_png(wide, colour_type=2, depth=16),
        "png_gray": encode_png(gray[..., None], colour_type=0),
        "png_gray_alpha": encode_png(alpha[..., 2:], colour_type=4),
        "png_rgba": encode_png(alpha, colour_type=6),
        "png_exif": encode_png(rgb, colour_type=2, extra=((b"eXIf", exif),)),
        "jpeg": jpeg,
        "jpeg_gray": encode_with_opencv(".jpg", gray),
        "jpeg_progressive": encode_with_opencv(".jpg", rgb, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "jpeg_restart": encode_with_opencv(".jpg", rgb, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "jpeg_exif": insert_segment(jpeg, 0xE1, b"Exif\0\0" + exif),
        "tiff": encode_tiff(rgb),
        "tiff_big_endian": encode_tiff(wide, byteorder=">"),
        "tiff_big": encode_tiff(rgb, bigtiff=True, rowsperstrip=7),
        "tiff_planar": encode_tiff(
            np.ascontiguousarray(rgb.transpose(2, 0, 1)), planarconfig="separate", rowsperstrip=10
        ),
        "tiff_tiled_deflate": encode_tiff(rgb, tile=(32, 16), compression="zlib"),
        "tiff_float": encode_tiff(rgb.astype(np.float32) / 255),
        "tiff_lzw": encode_with_opencv(".tif", rgb, cv2.IMWRITE_TIFF_COMPRESSION, 5),
        "tiff_lzw_16": encode_with_opencv(".tif", wide, cv2.IMWRITE_TIFF_COMPRESSION, 5),
        "tiff_packbits": encode_with_opencv(".tif", rgb, cv2.IMWRITE_TIFF_COMPRESSION, 32773),
        "tiff_gray": encode_tiff(gray, photometric="miniswhite"),
        "tiff_cmyk": encode_tiff(255 - alpha, photometric="separated"),
        "webp": encode_with_opencv(".webp", rgb, cv2.IMWRITE_WEBP_QUALITY, 80),
        "webp_lossless": lossless,
        "webp_alpha": encode_with_opencv(".webp", alpha, cv2.IMWRITE_WEBP_QUALITY, 101),
        "webp_exif": add_webp_chunks(lossless, size, 0x08, exif_chunk),
        "bmp": encode_with_opencv(".bmp", rgb),
        "bmp_gray": encode_with_opencv(".bmp", gray),
        "bmp_rgba": encode_with_opencv(".bmp", alpha),
    }
