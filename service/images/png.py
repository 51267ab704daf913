"""PNG: structure checked chunk by chunk, pixels by OpenCV from the chunks that carry pixels.

Source: PNG (W3C, third edition). Only IHDR, PLTE, tRNS, IDAT and IEND reach libpng: compressed text
and profiles (the format's other decompression bombs), gamma and animation do not.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from service.errors import UnreadableImageError, UnsupportedImageError
from service.images.image import Scale, StoredImage
from service.images.opencv import decode_with_opencv
from service.images.orientation import read_exif
from service.images.scale import UM_PER_M, scale_from_resolution

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_KEPT_ONCE = {b"pHYs", b"iCCP", b"eXIf", b"acTL"}
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
_MAX_CHUNKS = 65_536
_MAX_PROFILE_BYTES = 4_194_304


@dataclass(frozen=True)
class _Chunks:
    pixels: bytes  # a PNG of the chunks that carry pixels
    colour_type: int
    metadata: dict[bytes, bytes]
    has_transparent_colour: bool


def read_dimensions(data: bytes) -> tuple[int, int]:
    """Read width and height in px from IHDR.

    Raises:
        UnreadableImageError: No sound IHDR follows the signature.
    """
    if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
        raise UnreadableImageError("the PNG image is truncated or damaged in its header")
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        raise UnreadableImageError("the PNG image is damaged: its header fails its checksum")
    width, height, depth, colour_type, *rest = struct.unpack_from(">IIBBBBB", data, 16)
    valid = depth in _DEPTHS.get(colour_type, set()) and rest[:2] == [0, 0] and rest[2] in {0, 1}
    if not valid:
        raise UnreadableImageError("the PNG header asks for a kind of image that PNG does not have")
    return width, height


def decode(data: bytes) -> StoredImage:
    """Decode a PNG whose dimensions have been found within bounds.

    Raises:
        UnreadableImageError: It is truncated, or a checksum or its pixel data is wrong.
        UnsupportedImageError: It consists of absurdly many chunks.
    """
    width, height = read_dimensions(data)
    chunks = _read_chunks(data)
    samples = decode_with_opencv(chunks.pixels, width_px=width, height_px=height, kind="PNG")
    notes: list[str] = []
    gray = chunks.colour_type in {0, 4}
    if gray and samples.ndim == 3:  # OpenCV hands gray with alpha out as four channels
        samples = np.ascontiguousarray(samples[..., (0, 3)])
    if chunks.colour_type == 3:
        notes.append("palette expanded to RGB")
    if chunks.colour_type == 0 and chunks.has_transparent_colour:
        notes.append("transparent gray value ignored")
    if b"acTL" in chunks.metadata:
        notes.append("animated PNG: still image used")
    orientation, exif_scale = read_exif(chunks.metadata.get(b"eXIf"))
    scale = _physical_scale(chunks.metadata.get(b"pHYs"))
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    return StoredImage(
        samples=samples,
        colour="gray" if gray else "rgb",
        alpha="straight" if channels in {2, 4} else "none",
        orientation=orientation,
        scale=scale if scale.mpp or (scale.note and not exif_scale.mpp) else exif_scale,
        profile=_profile(chunks.metadata.get(b"iCCP")),
        notes=tuple(notes),
    )


def _read_chunks(data: bytes) -> _Chunks:
    """Walk all chunks; refuse what is cut off or fails its checksum."""
    position, count = 8, 0
    kept: list[bytes] = [SIGNATURE]
    metadata: dict[bytes, bytes] = {}
    transparent = False
    while True:
        count += 1
        if count > _MAX_CHUNKS:
            raise UnsupportedImageError(f"the PNG image has more than {_MAX_CHUNKS} chunks")
        length = int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        end = position + 12 + length
        if len(name) < 4 or end > len(data):
            raise UnreadableImageError("the PNG image is truncated")
        if name in _PIXEL_CHUNKS:
            chunk = data[position:end]
            if zlib.crc32(memoryview(chunk)[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                raise UnreadableImageError("the PNG image is damaged: a checksum is wrong")
            kept.append(chunk)
            transparent |= name == b"tRNS"
        elif name in _KEPT_ONCE:
            metadata.setdefault(name, data[position + 8 : end - 4])
        position = end
        if name == b"IEND":
            return _Chunks(b"".join(kept), data[25], metadata, transparent)


def _physical_scale(chunk: bytes | None) -> Scale:
    if chunk is None or len(chunk) != 9 or chunk[8] != 1:
        return Scale()  # unit 0: an aspect ratio, no length
    x, y = struct.unpack_from(">II", chunk)
    return scale_from_resolution(x, y, UM_PER_M, "png_physical_size")


def _profile(chunk: bytes | None) -> bytes | None:
    if chunk is None:
        return None
    _, _, compressed = chunk.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(compressed[1:], _MAX_PROFILE_BYTES)
    except zlib.error:
        return None
