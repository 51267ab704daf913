"""Bytes -> RGB, 8 bits, upright, with microns per pixel where the file truly knows them.

    bytes -> sniff -> header -> bounds -> structure whole? -> samples -> 8-bit RGB -> upright

Bounds come before work: nothing is decoded, and nothing the size of the image is allocated, until
its header has been held against `ImageLimits`. Whatever the bytes are, only errors of
`service.errors` come out. Every decision on odd input is listed in docs/images.md. All functions
are pure and may run in many threads at once.
"""

import struct
import zlib

import cv2

from service.errors import ImageTooLargeError, ImageTooSmallError, UnreadableImageError
from service.images import bmp, jpeg, png, tiff_pixels, webp
from service.images.colour_profile import profile_note
from service.images.header import read_header
from service.images.image import DecodedImage, ImageHeader, ImageLimits, StoredImage
from service.images.orientation import turn_upright
from service.images.samples import to_rgb

__all__ = [
    "DecodedImage",
    "ImageHeader",
    "ImageLimits",
    "check_bounds",
    "decode_image",
    "read_header",
]

# libpng writes no longer row, so no mask of such an image could be sent; OpenCV reads hardly more.
_GREATEST_SIDE_PX = 1_000_000
_DECODERS = {"png": png.decode, "jpeg": jpeg.decode, "webp": webp.decode, "bmp": bmp.decode}


def decode_image(data: bytes, limits: ImageLimits) -> DecodedImage:
    """Decode an uploaded image.

    Args:
        data: The file's bytes: PNG, JPEG, TIFF, WebP or BMP, told by content.
        limits: Bounds on the size that the header tells.

    Returns:
        Upright RGB pixels, the scale by the file's own tags, and notes on decisions taken.

    Raises:
        UnreadableImageError: Empty, no image, truncated or damaged.
        UnsupportedImageError: An image of a kind that is refused; the message names the remedy.
        ImageTooLargeError: More pixels than the bound.
        ImageTooSmallError: A side shorter than the bound.
    """
    header = read_header(data)
    check_bounds(header, limits)
    try:
        stored = _decode_stored(data, header, limits)
        pixels, sample_notes = to_rgb(stored)
    except (cv2.error, struct.error, zlib.error, ValueError, LookupError, OverflowError) as error:
        # The parsers check what they read; should one meet bytes it did not expect, the bytes are
        # at fault all the same, and the caller learns so rather than that the service broke.
        raise UnreadableImageError(f"the {header.format.upper()} image is damaged") from error
    orientation_notes = (
        [f"orientation tag {stored.orientation} applied"] if stored.orientation != 1 else []
    )
    notes = [
        *stored.notes,
        *sample_notes,
        *orientation_notes,
        profile_note(stored.profile),
        stored.scale.note,
    ]
    return DecodedImage(
        pixels=turn_upright(pixels, stored.orientation),
        format=header.format,
        mpp=stored.scale.mpp,
        mpp_source=stored.scale.source,
        notes=tuple(note for note in notes if note),
    )


def check_bounds(header: ImageHeader, limits: ImageLimits) -> None:
    """Hold an image's size against the bounds before anything of it is decoded.

    Raises:
        ImageTooLargeError: More pixels than the bound.
        ImageTooSmallError: A side shorter than the bound.
    """
    size = f"{header.width_px} x {header.height_px} px"
    if header.width_px * header.height_px > limits.max_pixels:
        raise ImageTooLargeError(f"the image has {size}, the bound is {limits.max_pixels} pixels")
    if max(header.width_px, header.height_px) > _GREATEST_SIDE_PX:
        raise ImageTooLargeError(
            f"the image has {size}, no side may have more than {_GREATEST_SIDE_PX} px"
        )
    if min(header.width_px, header.height_px) < limits.min_side_px:
        raise ImageTooSmallError(
            f"the image has {size}, each side must have at least {limits.min_side_px} px"
        )


def _decode_stored(data: bytes, header: ImageHeader, limits: ImageLimits) -> StoredImage:
    if header.format == "tiff":
        return tiff_pixels.decode(data, limits)
    return _DECODERS[header.format](data)
