"""Image files as a browser can show them, and the samples that come with the app."""

import base64
import io
import warnings
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

GREATEST_SHOWN_PX: Final = 2048
"""Longest side of the picture on the screen; outlines are drawn at full resolution over it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that was chosen.

    Attributes:
        name: File name.
        content: The file's bytes, sent to the service as they are.
        source: Where a sample comes from, and its licence; empty for the user's own.
    """

    name: str
    content: bytes
    source: str = ""


SAMPLES: Final = {
    "Breast, 512 x 512 (TNBC)": (
        "breast_tnbc_naylor.jpg",
        "Naylor et al., IEEE TMI 2019, Zenodo 1175282, CC BY 4.0",
    ),
    "Breast, 256 x 256 (NuCLS)": ("breast_nucls.jpg", "Amgad et al., GigaScience 2022, CC0 1.0"),
}
"""Title to file name and source."""


def sample(title: str) -> Picture:
    """Return a sample by its title."""
    name, source = SAMPLES[title]
    return Picture(name, (files("service.ui") / "samples" / name).read_bytes(), source)


def to_data_url(content: bytes) -> str | None:
    """Return an image as a JPEG within a URL, at most `GREATEST_SHOWN_PX` a side.

    The orientation tag is applied, as the service does. Returns None where the file cannot be
    shown: the service may still read it, so it is not for the app to refuse it.
    """
    try:
        # Pillow warns of very large images; the service judges the size by its own bound.
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as opened:
                upright = ImageOps.exif_transpose(opened)
                picture = _on_white(upright)
                picture.thumbnail((GREATEST_SHOWN_PX, GREATEST_SHOWN_PX))
    except (
        UnidentifiedImageError,
        Image.DecompressionBombWarning,
        Image.DecompressionBombError,
        OSError,
        ValueError,
        SyntaxError,
    ):
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return picture.convert("RGB")
