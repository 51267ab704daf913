"""WebP: container checked, pixels by OpenCV (libwebp).

Source: RFC 9649.
"""

from dataclasses import dataclass

from service.errors import UnreadableImageError, UnsupportedImageError
from service.images.image import StoredImage
from service.images.opencv import decode_with_opencv
from service.images.orientation import read_exif

_MAX_CHUNKS = 1_024
_ANIMATED = 0x02


@dataclass(frozen=True)
class _Container:
    width_px: int
    height_px: int
    animated: bool
    exif: bytes | None
    profile: bytes | None
    end: int


def is_webp(data: bytes) -> bool:
    """Tell a WebP file by its first 12 bytes."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_dimensions(data: bytes) -> tuple[int, int]:
    """Read width and height in px.

    Raises:
        UnreadableImageError: The container is truncated or holds no image.
        UnsupportedImageError: It is an animation.
    """
    container = _read_container(data)
    if container.animated:
        raise UnsupportedImageError("animated WebP is not read; save one frame as a still image")
    return container.width_px, container.height_px


def decode(data: bytes) -> StoredImage:
    """Decode a WebP whose dimensions have been found within bounds.

    Raises:
        UnreadableImageError: It is truncated or damaged.
    """
    container = _read_container(data)
    samples = decode_with_opencv(
        data[: container.end],
        width_px=container.width_px,
        height_px=container.height_px,
        kind="WebP",
    )
    orientation, scale = read_exif(container.exif)
    return StoredImage(
        samples=samples,
        colour="rgb",
        alpha="straight" if samples.shape[2] == 4 else "none",
        orientation=orientation,
        scale=scale,
        profile=container.profile,
    )


def _read_container(data: bytes) -> _Container:
    end = int.from_bytes(data[4:8], "little") + 8
    if len(data) < 20 or end > len(data):
        raise UnreadableImageError("the WebP image is truncated")
    sizes: list[tuple[int, int]] = []
    animated = False
    metadata: dict[bytes, bytes] = {}
    position = 12
    for _ in range(_MAX_CHUNKS):
        if position + 8 > end:
            break
        name = data[position : position + 4]
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if position + 8 + length > end:
            raise UnreadableImageError("the WebP image is truncated")
        body = data[position + 8 : position + 8 + length]
        if name in {b"VP8X", b"VP8 ", b"VP8L"}:
            sizes.append(_size(name, body))
            animated |= name == b"VP8X" and bool(body[0] & _ANIMATED)
        elif name in {b"EXIF", b"ICCP"}:
            metadata.setdefault(name, body)
        position += 8 + length + (length & 1)
    # The canvas of an extended file and its still image must agree, or the bound checked on one
    # would not hold for the other.
    if not sizes or (len(set(sizes)) > 1 and not animated):
        raise UnreadableImageError("the WebP image is damaged: it holds no image of one size")
    width, height = sizes[0]
    return _Container(
        width, height, animated, metadata.get(b"EXIF"), metadata.get(b"ICCP"), min(end, len(data))
    )


def _size(name: bytes, body: bytes) -> tuple[int, int]:
    """Read the size from one of the three kinds of chunk that tell it."""
    if len(body) < 10 and not (name == b"VP8L" and len(body) >= 5):
        raise UnreadableImageError("the WebP image is truncated")
    if name == b"VP8X":
        width = 1 + int.from_bytes(body[4:7], "little")
        return width, 1 + int.from_bytes(body[7:10], "little")
    if name == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width = int.from_bytes(body[6:8], "little") & 0x3FFF
    return width, int.from_bytes(body[8:10], "little") & 0x3FFF
