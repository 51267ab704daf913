"""JPEG: markers walked before decoding, pixels by OpenCV (libjpeg-turbo).

Source: ITU-T T.81, annex B; JFIF 1.02; Adobe TN 5116 for CMYK.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import UnreadableImageError, UnsupportedImageError
from service.images.image import Scale, StoredImage
from service.images.opencv import decode_with_opencv
from service.images.orientation import read_exif
from service.images.samples import CMYK_NOTE
from service.images.scale import UM_PER_CM, UM_PER_INCH, scale_from_resolution

SIGNATURE = b"\xff\xd8\xff"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODED_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive; Huffman-coded
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
# Within a scan 0xFF is followed by 0 (a stuffed byte), a restart marker, or another 0xFF (fill).
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Real progressive files have about ten scans; thousands over a large image are a known attack.
_MAX_SCANS = 128
_MAX_SEGMENTS = 16_384
# Bytes that decode to anything but nothing, put where a cut-off file has none; see _is_cut_short.
_PROBE = bytes((37 * value) % 251 + 1 for value in range(256))


@dataclass(frozen=True)
class _Segment:
    marker: int
    start: int  # of the payload after the length field; of the marker itself for end of image
    end: int


@dataclass(frozen=True)
class _Frame:
    marker: int
    precision: int
    width_px: int
    height_px: int
    components: int


def read_dimensions(data: bytes) -> tuple[int, int]:
    """Read width and height in px from the frame header.

    Raises:
        UnreadableImageError: The file ends before a sound frame header.
    """
    for segment in _walk(data):
        if segment.marker in _FRAMES:
            frame = _read_frame(data, segment)
            return frame.width_px, frame.height_px
    raise UnreadableImageError("the JPEG image is truncated: it has no frame header")


def decode(data: bytes) -> StoredImage:
    """Decode a JPEG whose dimensions have been found within bounds.

    Raises:
        UnreadableImageError: It is truncated or damaged.
        UnsupportedImageError: Its coding process is not read here (lossless, 12-bit, arithmetic).
    """
    frame: _Frame | None = None
    applications: list[tuple[int, bytes]] = []
    scans, end = 0, None
    for segment in _walk(data):
        if segment.marker in _FRAMES and frame is None:
            frame = _read_frame(data, segment)
        elif 0xE0 <= segment.marker <= 0xEF:
            applications.append((segment.marker, data[segment.start : segment.end]))
        elif segment.marker == _START_OF_SCAN:
            scans += 1
        elif segment.marker == _END_OF_IMAGE:
            end = segment.start
    if frame is None or end is None or scans == 0:
        raise UnreadableImageError("the JPEG image is truncated")
    _check_process(frame, scans)
    samples = _decode_pixels(data, frame)
    if _looks_unfilled(samples) and _is_cut_short(data, end, frame, samples):
        raise UnreadableImageError("the JPEG image is truncated: part of its pixels is missing")
    orientation, scale, profile = _read_applications(applications)
    return StoredImage(
        samples=samples,
        colour="gray" if frame.components == 1 else "rgb",
        orientation=orientation,
        scale=scale,
        profile=profile,
        notes=(CMYK_NOTE,) if frame.components == 4 else (),
    )


def _walk(data: bytes) -> Iterator[_Segment]:
    """Give all marker segments up to the end of the image, or to where the data ends."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        position = data.find(b"\xff", position)
        while position >= 0 and data[position + 1 : position + 2] == b"\xff":
            position += 1
        if position < 0 or position + 1 >= len(data):
            return
        marker = data[position + 1]
        if marker == _END_OF_IMAGE:
            yield _Segment(marker, position, position)
            return
        position += 2
        if marker == 0 or marker in _STANDALONE:
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        end = position + length
        if length < 2 or end > len(data):
            return
        yield _Segment(marker, position + 2, end)
        position = end
        if marker == _START_OF_SCAN:
            following = _AFTER_SCAN.search(data, position)
            if following is None:
                return
            position = following.start()
    raise UnsupportedImageError(f"the JPEG image has more than {_MAX_SEGMENTS} segments")


def _read_frame(data: bytes, segment: _Segment) -> _Frame:
    if segment.end - segment.start < 6:
        raise UnreadableImageError("the JPEG image is damaged in its frame header")
    precision, height, width, components = struct.unpack_from(">BHHB", data, segment.start)
    return _Frame(segment.marker, precision, width, height, components)


def _check_process(frame: _Frame, scans: int) -> None:
    if frame.marker not in _DECODED_FRAMES or frame.precision != 8:
        raise UnsupportedImageError(
            "only baseline and progressive JPEG of 8 bits is read, not lossless, arithmetic-coded "
            "or 12-bit JPEG; save as PNG or TIFF"
        )
    if frame.components not in {1, 3, 4}:
        raise UnsupportedImageError(f"a JPEG of {frame.components} components is not read")
    if scans > _MAX_SCANS:
        raise UnsupportedImageError(f"the JPEG image has {scans} scans; save it anew")


def _decode_pixels(data: bytes, frame: _Frame) -> NDArray[np.uint8]:
    flags = cv2.IMREAD_GRAYSCALE if frame.components == 1 else cv2.IMREAD_COLOR
    # CMYK comes inverted, as Adobe writes it; OpenCV, like every common reader, takes it so.
    return decode_with_opencv(
        data, width_px=frame.width_px, height_px=frame.height_px, kind="JPEG", flags=flags
    )


def _looks_unfilled(samples: NDArray[np.uint8]) -> bool:
    """Tell whether the last block could be what libjpeg puts where data is missing.

    It leaves missing coefficients zero: mid-gray, 128 in each channel; through inverted CMYK about
    128 * 128 / 255.
    """
    corner = samples[-4:, -4:]
    value = int(corner.flat[0])
    return bool((corner == value).all()) and (126 <= value <= 130 or 62 <= value <= 67)


def _is_cut_short(data: bytes, end: int, frame: _Frame, samples: NDArray[np.uint8]) -> bool:
    """Tell a truncated scan with an end marker put behind it from a gray corner.

    Bytes behind complete data are skipped; behind data that is cut short they are decoded and
    change the pixels.
    """
    probed = _decode_pixels(data[:end] + _PROBE + data[end:], frame)
    return not np.array_equal(probed, samples)


def _read_applications(
    applications: list[tuple[int, bytes]],
) -> tuple[int, Scale, bytes | None]:
    """Read orientation, scale and ICC profile from the application segments."""
    exif: bytes | None = None
    density = Scale()
    profile: dict[int, bytes] = {}
    for marker, payload in applications:
        if marker == 0xE0 and payload.startswith(b"JFIF\0") and len(payload) >= 12:
            unit, x, y = struct.unpack_from(">BHH", payload, 7)
            unit_um = {1: UM_PER_INCH, 2: UM_PER_CM}.get(unit)
            if unit_um is not None:
                density = scale_from_resolution(x, y, unit_um, "jpeg_density")
        elif marker == 0xE1 and payload.startswith(b"Exif\0\0") and exif is None:
            exif = payload
        elif marker == 0xE2 and payload.startswith(b"ICC_PROFILE\0") and len(payload) > 14:
            profile[payload[12]] = payload[14:]
    orientation, exif_scale = read_exif(exif)
    scale = density if density.mpp else exif_scale
    if scale.mpp is None and scale.note is None:
        scale = density
    joined = b"".join(profile[part] for part in sorted(profile))
    return orientation, scale, joined or None
