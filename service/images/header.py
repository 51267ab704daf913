"""What an upload is, by its first bytes: format and size, before any pixel is decoded."""

from typing import Final

from service.errors import UnreadableImageError, UnsupportedImageError
from service.images import bmp, jpeg, png, tiff, webp
from service.images.image import ImageFormat, ImageHeader

READ_FORMATS: Final = "PNG, JPEG, TIFF, WebP or BMP"

_DIMENSIONS = {
    "png": png.read_dimensions,
    "jpeg": jpeg.read_dimensions,
    "tiff": tiff.read_dimensions,
    "webp": webp.read_dimensions,
    "bmp": bmp.read_dimensions,
}
# Known by sight so that the refusal can name them: (position, mark, name).
_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "GIF"),
    (0, b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyp", "HEIF or video"),
    (128, b"DICM", "DICOM"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"ZISRAWFILE", "Zeiss CZI"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"PK\x03\x04", "zip archive"),
    (0, b"\x1f\x8b", "gzip"),
)


def sniff_format(data: bytes) -> ImageFormat:
    """Tell the format by content; names and declared media types are never looked at.

    Raises:
        UnreadableImageError: Empty, or nothing known.
        UnsupportedImageError: A known format that is not read.
    """
    if not data:
        raise UnreadableImageError("the image is empty (0 bytes)")
    if data.startswith(png.SIGNATURE):
        return "png"
    if data.startswith(jpeg.SIGNATURE):
        return "jpeg"
    if data.startswith(tiff.SIGNATURES):
        return "tiff"
    if webp.is_webp(data):
        return "webp"
    if data.startswith(bmp.SIGNATURE):
        return "bmp"
    for position, mark, name in _OTHERS:
        if data[position : position + len(mark)] == mark:
            raise UnsupportedImageError(f"{name} is not read; send {READ_FORMATS}")
    raise UnreadableImageError(f"the bytes are no image that is read here ({READ_FORMATS})")


def read_header(data: bytes) -> ImageHeader:
    """Read format and stored size; constant work but for the markers before a JPEG's frame.

    Raises:
        UnreadableImageError: Empty, unknown, or cut off within the header.
        UnsupportedImageError: A known kind of image that is not read.
    """
    kind = sniff_format(data)
    width, height = _DIMENSIONS[kind](data)
    if width < 1 or height < 1:
        raise UnreadableImageError(f"the {kind.upper()} header tells a size of {width} x {height}")
    return ImageHeader(kind, width, height)
