"""What decoding takes and gives: bounds, header, stored samples, decoded image."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ImageFormat = Literal["png", "jpeg", "tiff", "webp", "bmp"]
Colour = Literal["gray", "rgb", "cmyk"]
Alpha = Literal["none", "straight", "premultiplied", "meaningless"]


@dataclass(frozen=True)
class ImageLimits:
    """Bounds that an image is held to before a pixel of it is decoded.

    Attributes:
        max_pixels: Largest width times height accepted.
        min_side_px: Shortest side accepted; less holds no nucleus.
    """

    max_pixels: int = 64_000_000
    min_side_px: int = 16


@dataclass(frozen=True)
class ImageHeader:
    """What the first bytes say; nothing of it needed decoding.

    Attributes:
        format: What the content is, whatever the file was called.
        width_px: Width as stored, before any orientation tag is applied.
        height_px: Height as stored.
    """

    format: ImageFormat
    width_px: int
    height_px: int


@dataclass(frozen=True)
class Scale:
    """Microns per pixel as the file's own tags tell, or why they do not.

    Attributes:
        mpp: Microns per pixel; None where the tags hold no believable scale.
        source: Which tag it came from, for example `"tiff_resolution"`; None without mpp.
        note: Why a tag that is there was not believed.
    """

    mpp: float | None = None
    source: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class StoredImage:
    """Samples of the first page as the file stores them, and how to read them.

    Attributes:
        samples: (H, W) or (H, W, C); uint8, uint16 or a floating type; colour in the order R, G, B
            or C, M, Y, K; alpha, if any, last.
        colour: What the channels before alpha mean.
        alpha: Whether there is a last alpha channel, and of which kind. A `meaningless` one is an
            extra channel that the file does not call transparency.
        orientation: EXIF/TIFF orientation 1 to 8 still to be applied.
        declared_max: Largest sample value the file declares, where it declares one.
        scale: Microns per pixel by the file's tags.
        profile: Embedded ICC profile.
        notes: Decisions that were taken while reading.
    """

    samples: NDArray[Any]
    colour: Colour
    alpha: Alpha = "none"
    orientation: int = 1
    declared_max: int | None = None
    scale: Scale = field(default_factory=Scale)
    profile: bytes | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DecodedImage:
    """An image as the rest of the service sees it.

    Attributes:
        pixels: RGB, (H, W, 3), uint8, C-contiguous, upright.
        format: What the content was.
        mpp: Microns per pixel by the file's tags; None where they hold no believable scale.
        mpp_source: Which tag the scale came from; None without `mpp`.
        notes: Every decision taken on the way that a reader of the result may want to know.
    """

    pixels: NDArray[np.uint8]
    format: ImageFormat
    mpp: float | None
    mpp_source: str | None
    notes: tuple[str, ...] = ()
