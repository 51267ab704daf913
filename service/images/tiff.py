"""TIFF and BigTIFF: what the first page is, by its tags, held to bounds before any pixel.

Source: TIFF 6.0 (Adobe, 1992) and its technical notes; BigTIFF (Aware Systems).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import UnreadableImageError, UnsupportedImageError
from service.images.ifd import Directory, TagError, count_directories, read_first_directory
from service.images.image import Alpha, Colour

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACK_BITS = 1, 5, 7, 8, 32946, 32773
COMPRESSIONS = {NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACK_BITS}
_COMPRESSION_NAMES = {
    2: "CCITT fax",
    3: "CCITT fax",
    4: "CCITT fax",
    6: "old-style JPEG",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS: dict[int, tuple[Colour, int]] = {
    WHITE_IS_ZERO: ("gray", 1),
    BLACK_IS_ZERO: ("gray", 1),
    RGB: ("rgb", 3),
    PALETTE: ("rgb", 1),
    SEPARATED: ("cmyk", 4),
    YCBCR: ("rgb", 3),
}
_ALPHAS: dict[int, Alpha] = {1: "premultiplied", 2: "straight"}
_SAMPLE_TYPES = {(1, 8): "u1", (1, 16): "u2", (3, 16): "f2", (3, 32): "f4", (3, 64): "f8"}
_MAX_SEGMENTS = 131_072
# A tile may be larger than a small image, but is inflated whole: without a bound a few kilobytes
# would become gigabytes. Real ones have 64 to 4,096 px a side, or hold the whole image.
_MAX_TILE_PX = 4_096


@dataclass(frozen=True)
class TiffPage:
    """The first page, checked: every number here is one that decoding can rely on.

    Attributes:
        directory: Its tags.
        width_px: Width as stored.
        height_px: Height as stored.
        samples: Channels a pixel, alpha included.
        stored_type: NumPy type of a sample, byte order included.
        compression: TIFF compression number, one of `COMPRESSIONS`.
        predictor: 1 none, 2 horizontal difference.
        photometric: TIFF photometric interpretation.
        colour: What the channels before alpha mean once palettes are looked up.
        alpha: Kind of the extra channel, if any.
        planar: Whether channels are stored one after the other.
        tiled: Whether segments are tiles rather than strips.
        segment_width_px: Width of a tile; the image's width for strips.
        segment_height_px: Rows of a tile or strip.
        offsets: Position of each segment in the file.
        byte_counts: Stored bytes of each segment.
        pages: Pages in the file.
    """

    directory: Directory
    width_px: int
    height_px: int
    samples: int
    stored_type: np.dtype[np.generic]
    compression: int
    predictor: int
    photometric: int
    colour: Colour
    alpha: Alpha
    planar: bool
    tiled: bool
    segment_width_px: int
    segment_height_px: int
    offsets: NDArray[np.uint64]
    byte_counts: NDArray[np.uint64]
    pages: int


def read_dimensions(data: bytes) -> tuple[int, int]:
    """Read width and height in px of the first page.

    Raises:
        UnreadableImageError: The tags are truncated or malformed.
    """
    try:
        directory, _ = read_first_directory(data)
        return directory.integer(256, 0), directory.integer(257, 0)
    except TagError as error:
        raise UnreadableImageError(f"the TIFF image is truncated or damaged: {error}") from error


def read_page(data: bytes) -> TiffPage:
    """Read and check the tags of the first page.

    Raises:
        UnreadableImageError: Tags are malformed, or segments lie outside the file.
        UnsupportedImageError: The page is of a kind that is not read; the message names a remedy.
    """
    try:
        directory, big = read_first_directory(data)
        return _check_page(directory, count_directories(directory, big=big), len(data))
    except TagError as error:
        raise UnreadableImageError(f"the TIFF image is truncated or damaged: {error}") from error


def _check_page(directory: Directory, pages: int, file_bytes: int) -> TiffPage:
    width, height = directory.integer(256, 0), directory.integer(257, 0)
    compression = directory.integer(259, NONE)
    if compression not in COMPRESSIONS:
        name = _COMPRESSION_NAMES.get(compression, f"number {compression}")
        raise UnsupportedImageError(
            f"TIFF compression {name} is not read; save uncompressed or with Deflate, LZW, "
            "PackBits or JPEG"
        )
    photometric, colour, alpha, samples = _check_colour(directory, compression)
    stored_type = _check_sample_type(directory, photometric)
    planar = directory.integer(284, 1) == 2 and samples > 1
    predictor = directory.integer(317, 1) if compression in {LZW, DEFLATE, OLD_DEFLATE} else 1
    if predictor not in {1, 2} or (predictor == 2 and stored_type.kind == "f"):
        raise UnsupportedImageError("TIFF with a floating-point predictor is not read; save plain")
    if directory.integer(266, 1) != 1:
        raise UnsupportedImageError("TIFF with reversed bits (FillOrder 2) is not read; save anew")
    tiled = 322 in directory.tags
    segment_width = directory.integer(322, 0) if tiled else width
    segment_height = (
        directory.integer(323, 0) if tiled else min(directory.integer(278, height), height)
    )
    if tiled and (
        segment_width % 16
        or segment_height % 16
        or segment_width > max(_MAX_TILE_PX, width + 15)
        or segment_height > max(_MAX_TILE_PX, height + 15)
    ):
        raise UnreadableImageError("the TIFF image has tiles of an impossible size")
    if segment_width < 1 or segment_height < 1:
        raise UnreadableImageError("the TIFF image has segments of no size")
    planes = samples if planar else 1
    needed = planes * -(-width // segment_width) * -(-height // segment_height)
    segment_bytes = segment_width * segment_height * (samples // planes) * stored_type.itemsize
    offsets, byte_counts = _check_segments(
        directory,
        needed,
        file_bytes,
        tiled=tiled,
        plain_bytes=segment_bytes if compression == NONE else None,
    )
    return TiffPage(
        directory,
        width,
        height,
        samples,
        stored_type,
        compression,
        predictor,
        photometric,
        colour,
        alpha,
        planar,
        tiled,
        segment_width,
        segment_height,
        offsets,
        byte_counts,
        pages,
    )


def _check_colour(directory: Directory, compression: int) -> tuple[int, Colour, Alpha, int]:
    photometric = directory.integer(262, BLACK_IS_ZERO)
    if photometric not in _COLOURS or (photometric == YCBCR and compression != JPEG):
        raise UnsupportedImageError(
            f"TIFF of photometric interpretation {photometric} is not read; save as RGB"
        )
    colour, base = _COLOURS[photometric]
    samples = directory.integer(277, 1)
    extra = samples - base
    if extra not in {0, 1} or (extra and photometric in {PALETTE, SEPARATED, YCBCR}):
        raise UnsupportedImageError(
            f"TIFF of {samples} channels is not read here; save the image as RGB"
        )
    alpha: Alpha = "none"
    if extra:
        alpha = _ALPHAS.get(directory.integer(338, 0), "meaningless")
    return photometric, colour, alpha, samples


def _check_sample_type(directory: Directory, photometric: int) -> np.dtype[np.generic]:
    bits = directory.integers(258)
    formats = directory.integers(339)
    depths = {int(value) for value in bits} if bits is not None else {1}
    kinds = {int(value) for value in formats} if formats is not None else {1}
    if len(depths) != 1 or len(kinds) != 1:
        raise UnsupportedImageError("TIFF whose channels differ in depth is not read")
    depth, kind = depths.pop(), kinds.pop()
    code = _SAMPLE_TYPES.get((1 if kind == 4 else kind, depth))  # 4: undefined, by custom unsigned
    if code is None or (photometric == PALETTE and depth != 8):
        name = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(kind, "other")
        raise UnsupportedImageError(
            f"TIFF of {name} {depth}-bit samples is not read; save with 8 or 16 unsigned bits or "
            "as floating point 0..1"
        )
    return np.dtype(directory.byte_order + code)


def _check_segments(
    directory: Directory, needed: int, file_bytes: int, *, tiled: bool, plain_bytes: int | None
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Check that each segment the image needs lies within the file."""
    if needed > _MAX_SEGMENTS:
        raise UnsupportedImageError(
            f"TIFF of {needed} strips or tiles is not read, at most {_MAX_SEGMENTS}; save anew"
        )
    offsets = directory.integers(324 if tiled else 273)
    byte_counts = directory.integers(325 if tiled else 279)
    if offsets is None or offsets.size < needed:
        raise UnreadableImageError("the TIFF image does not say where all its pixels are")
    offsets = offsets[:needed]
    if byte_counts is None or byte_counts.size < needed:
        if plain_bytes is None:
            raise UnreadableImageError("the TIFF image does not say how long its strips are")
        byte_counts = np.zeros(needed, np.uint64)  # implied by the size where nothing is compressed
    byte_counts = byte_counts[:needed]
    limit = np.uint64(file_bytes)
    # Subtracted rather than added, for hostile offsets near 2^64 wrap around.
    inside = (offsets <= limit) & (byte_counts <= limit - np.minimum(offsets, limit))
    if not inside.all() or (plain_bytes is None and not byte_counts.all()):
        raise UnreadableImageError("the TIFF image is truncated: pixels lie past the end of it")
    return offsets, byte_counts
