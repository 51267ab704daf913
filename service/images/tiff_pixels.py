"""Pixels of a TIFF page: plain and Deflate segments put together here, the rest by OpenCV.

OpenCV (libtiff) reads 8 bits through an RGBA interface that fills damaged strips without a word,
knows no planar 16-bit and no half floats; so what needs no codec of its own is read here, exactly.
LZW, PackBits and JPEG are OpenCV's.

    strips   0000000      tiles   000111222      planar   RRRR
             1111111              333444555               GGGG
             22222                (edges padded)          BBBB
"""

import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import ImageTooLargeError, UnreadableImageError, UnsupportedImageError
from service.images.image import ImageLimits, Scale, StoredImage
from service.images.opencv import decode_with_opencv
from service.images.orientation import orientation_of
from service.images.samples import CMYK_NOTE
from service.images.scale import scale_from_description, scale_from_tags
from service.images.tiff import (
    DEFLATE,
    JPEG,
    NONE,
    OLD_DEFLATE,
    PALETTE,
    WHITE_IS_ZERO,
    TiffPage,
    read_page,
)
from service.images.tiff_lengths import check_lengths

# A pixel of the largest allowed image costs at most this: 16-bit RGBA.
_BYTES_PER_PIXEL = 8
_REDUCED_RESOLUTION = 1


def decode(data: bytes, limits: ImageLimits) -> StoredImage:
    """Decode the first page of a TIFF whose dimensions have been found within bounds.

    Raises:
        UnreadableImageError: It is truncated or damaged.
        UnsupportedImageError: It is of a kind that is not read.
        ImageTooLargeError: Its samples, being wide, would take more memory than the bound implies.
    """
    page = read_page(data)
    decoded_bytes = _stored_px(page) * page.samples * page.stored_type.itemsize
    if decoded_bytes > limits.max_pixels * _BYTES_PER_PIXEL:
        raise ImageTooLargeError(
            f"the image decodes to {decoded_bytes} bytes, the bound is "
            f"{limits.max_pixels * _BYTES_PER_PIXEL}; save it with 8 bits a sample"
        )
    notes: tuple[str, ...] = ()
    plain = page.compression in {NONE, DEFLATE, OLD_DEFLATE}
    if plain:
        samples = _assemble(data, page)
        if page.photometric == PALETTE:
            samples = _look_up(page, samples)
    else:
        samples = _decode_with_codec(data, page)
    colour, alpha = page.colour, page.alpha
    through_rgba = not plain and page.stored_type.itemsize == 1
    if through_rgba:
        # libtiff's RGBA interface, which OpenCV uses for 8 bits, has turned inks into light,
        # multiplied colour by alpha, and inverted white-is-zero.
        if colour == "cmyk":
            colour, notes = "rgb", (CMYK_NOTE,)
        if alpha == "straight":
            alpha = "premultiplied"
    elif page.photometric == WHITE_IS_ZERO:
        samples = _invert(samples)
    return StoredImage(
        samples=samples,
        colour=colour,
        alpha=alpha,
        orientation=orientation_of(page.directory),
        declared_max=_declared_max(page),
        scale=_scale(page),
        profile=page.directory.raw(34675),
        notes=(*_page_notes(page), *notes),
    )


def _scale(page: TiffPage) -> Scale:
    """Read the scale from the description, which microscopes write, or else from the tags."""
    described = scale_from_description(page.directory)
    if described.mpp:
        return described
    tagged = scale_from_tags(page.directory, "tiff_resolution")
    return tagged if tagged.mpp or tagged.note else described


def _stored_px(page: TiffPage) -> int:
    """Count the pixels that are inflated: tiles are stored whole, those over the edges too."""
    if not page.tiled:
        return page.width_px * page.height_px
    across = -(-page.width_px // page.segment_width_px)
    down = -(-page.height_px // page.segment_height_px)
    return across * down * page.segment_width_px * page.segment_height_px


def _page_notes(page: TiffPage) -> tuple[str, ...]:
    notes: list[str] = []
    if page.pages > 1:
        notes.append(f"first of {page.pages} pages")
        if page.directory.integer(254, 0) & _REDUCED_RESOLUTION:
            notes.append("the page is marked as a reduced-resolution copy")
    if page.photometric == PALETTE:
        notes.append("palette expanded to RGB")
    if page.photometric == WHITE_IS_ZERO:
        notes.append("white-is-zero grayscale inverted")
    return tuple(notes)


def _declared_max(page: TiffPage) -> int | None:
    """Give the greatest MaxSampleValue or SMaxSampleValue of 16-bit data."""
    if page.stored_type.kind != "u":
        return None
    declared = [page.directory.hints(number) for number in (281, 341)]
    return max((int(values.max()) for values in declared if values.size), default=None)


def _assemble(data: bytes, page: TiffPage) -> NDArray[Any]:
    """Put plain or Deflate segments together; (H, W, samples) in native byte order."""
    planes = page.samples if page.planar else 1
    channels = page.samples // planes
    rows, columns = page.segment_height_px, page.segment_width_px
    image = np.empty(
        (page.height_px, page.width_px, page.samples), page.stored_type.newbyteorder("=")
    )
    index = 0
    for plane in range(planes):
        for y in range(0, page.height_px, rows):
            inside_y = min(rows, page.height_px - y)
            stored_rows = rows if page.tiled else inside_y
            for x in range(0, page.width_px, columns):
                count = stored_rows * columns * channels
                segment = _read_segment(data, page, index, count)
                block = segment.reshape(stored_rows, columns, channels)
                if page.predictor == 2:
                    # Differences wrap around in the sample's own width, by specification.
                    block = np.cumsum(block, axis=1, dtype=image.dtype)
                inside_x = min(columns, page.width_px - x)
                image[y : y + inside_y, x : x + inside_x, plane : plane + channels] = block[
                    :inside_y, :inside_x
                ]
                index += 1
    return image


def _read_segment(data: bytes, page: TiffPage, index: int, count: int) -> NDArray[Any]:
    """Read one strip or tile as a flat array of `count` samples."""
    offset = int(page.offsets[index])
    expected = count * page.stored_type.itemsize
    if page.compression == NONE:
        # A single strip may state less than it has; libtiff overlooks that too.
        stated = int(page.byte_counts[index])
        if offset + expected > len(data) or (page.offsets.size > 1 and 0 < stated < expected):
            raise UnreadableImageError("the TIFF image is truncated")
        return np.frombuffer(data, page.stored_type, count, offset)
    stored = memoryview(data)[offset : offset + int(page.byte_counts[index])]
    try:
        # Bounded: a bomb inflates to the segment's own size and no further.
        plain = zlib.decompressobj().decompress(stored, expected)
    except zlib.error as error:
        raise UnreadableImageError("the TIFF image is damaged: a strip does not inflate") from error
    if len(plain) != expected:
        raise UnreadableImageError("the TIFF image is truncated: a strip is too short")
    return np.frombuffer(plain, page.stored_type, count)


def _look_up(page: TiffPage, indices: NDArray[Any]) -> NDArray[Any]:
    """Replace palette indices (H, W, 1) by colours (H, W, 3)."""
    colour_map = page.directory.integers(320)
    if colour_map is None or colour_map.size != 768:
        raise UnreadableImageError("the TIFF image is damaged: its palette is missing")
    # 16 bits by specification, written as 257 * v or 256 * v; some fill in 0..255 all the same.
    divisor = 256 if colour_map.max() > 255 else 1
    palette = np.ascontiguousarray((colour_map // divisor).astype(np.uint8).reshape(3, 256).T)
    colours: NDArray[Any] = palette[indices[..., 0]]
    return colours


def _invert(samples: NDArray[Any]) -> NDArray[Any]:
    inverted: NDArray[Any] = 1 - samples if samples.dtype.kind == "f" else np.invert(samples)
    return inverted


def _decode_with_codec(data: bytes, page: TiffPage) -> NDArray[Any]:
    """Decode LZW, PackBits or JPEG segments; (H, W) or (H, W, 3 or 4) as OpenCV gives them."""
    depth = page.stored_type.itemsize
    if page.compression == JPEG:
        _check_jpeg_segments(data, page, depth)
    wide = depth > 1
    if wide and (
        page.planar or page.colour == "cmyk" or (page.stored_type.kind, depth) == ("f", 2)
    ):
        raise UnsupportedImageError(
            "TIFF of this layout is read uncompressed or with Deflate only; save it so, or with "
            "8 bits a sample"
        )
    if page.alpha != "none" and page.colour == "gray":
        raise UnsupportedImageError(
            "gray TIFF with alpha is read uncompressed or with Deflate only; save it so"
        )
    if page.compression != JPEG:
        check_lengths(data, page)
    opaque_colour = page.colour != "gray" and page.alpha == "none"
    flags = cv2.IMREAD_COLOR if opaque_colour and not wide else cv2.IMREAD_UNCHANGED
    return decode_with_opencv(
        _without_orientation(data, page),
        width_px=page.width_px,
        height_px=page.height_px,
        kind="TIFF",
        flags=flags,
    )


def _check_jpeg_segments(data: bytes, page: TiffPage, depth: int) -> None:
    if depth != 1:
        raise UnsupportedImageError("only 8-bit JPEG is read within TIFF")
    for offset, count in zip(page.offsets.tolist(), page.byte_counts.tolist(), strict=True):
        # A writer may pad a segment to even length behind its end marker.
        if b"\xff\xd9" not in data[max(offset, offset + count - 4) : offset + count]:
            raise UnreadableImageError("the TIFF image is truncated: a JPEG tile has no end")


def _without_orientation(data: bytes, page: TiffPage) -> bytes:
    """Set the orientation tag to upright: OpenCV applies it to TIFF even when told not to."""
    if orientation_of(page.directory) == 1:
        return data
    tag = page.directory.tags[274]
    upright = np.ones(1, page.directory.byte_order + {1: "u1", 3: "u2"}.get(tag.kind, "u4"))
    return data[: tag.offset] + upright.tobytes() + data[tag.offset + upright.nbytes :]
