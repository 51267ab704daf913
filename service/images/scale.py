"""Microns per pixel from resolution tags, believed only where a microscope could have written them.

Editors and cameras fill the same tags with print resolutions (72, 96, 150, 300, 600 dpi). 72 dpi is
353 um/px, 600 dpi 42 um/px; a slide scanner writes 12,700 dpi (2 um/px) and finer. The two ranges
lie far apart, so a bound tells them from each other.
"""

import html
import math
import re

from service.images.ifd import Directory
from service.images.image import Scale

LEAST_MPP = 0.1
GREATEST_MPP = 2.0
UM_PER_INCH = 25_400.0
UM_PER_CM = 10_000.0
UM_PER_M = 1_000_000.0
_SQUARE = 0.01
"""Share by which the sides of a pixel may differ."""

_UNIT_UM = {2: UM_PER_INCH, 3: UM_PER_CM}
_APERIO = re.compile(r"\|\s*MPP\s*=\s*([0-9.]+)")
_OME_SIZE = re.compile(r"""PhysicalSizeX=["']([0-9.eE+-]+)["']""")
_OME_UNIT = re.compile(r"""PhysicalSizeXUnit=["']([^"']*)["']""")
_OME_HEIGHT = re.compile(r"""PhysicalSizeY=["']([0-9.eE+-]+)["']""")
_IMAGEJ_UNIT = re.compile(r"^unit=(.*)$", re.MULTILINE)
_MICRON_NAMES = {"um", "\u00b5m", "\u03bcm", "micron", "microns", "\\u00b5m", "\\u00B5m"}


def believe(mpp: float, source: str) -> Scale:
    """Take a scale if a microscope could have written it, else say in a note that it was not."""
    if math.isfinite(mpp) and LEAST_MPP <= mpp <= GREATEST_MPP:
        return Scale(mpp=mpp, source=source)
    return Scale(note=f"{source} of {mpp:.4g} um/px ignored: no microscope's scale")


def scale_from_resolution(x: float | None, y: float | None, unit_um: float, source: str) -> Scale:
    """Make a scale of a resolution in pixels per unit.

    Args:
        x: Pixels per unit along a row; None or 0 where not told.
        y: Pixels per unit along a column.
        unit_um: Length of the unit in um.
        source: Name of the tag.
    """
    if not x or not y or not (math.isfinite(x) and math.isfinite(y)):
        return Scale()
    if abs(x - y) > _SQUARE * max(x, y):
        return Scale(note=f"{source} ignored: pixels are not square")
    return believe(unit_um / x, source)


def scale_from_tags(directory: Directory, source: str) -> Scale:
    """Read XResolution, YResolution and ResolutionUnit of a TIFF page or EXIF block."""
    units = directory.hints(296)
    unit = int(units[0]) if units.size else 2
    if unit not in _UNIT_UM or (not units.size and 296 in directory.tags):
        return Scale()  # 1: the numbers are only an aspect ratio
    x, y = directory.rational(282), directory.rational(283)
    return scale_from_resolution(x, y, _UNIT_UM[unit], source)


def scale_from_description(directory: Directory) -> Scale:
    """Read the scale that Aperio, OME and ImageJ write into ImageDescription."""
    text = (directory.raw(270) or b"").decode("utf-8", "replace")
    if text.startswith("Aperio") and (found := _APERIO.search(text)):
        return believe(_number(found[1]), "aperio_description")
    if "<OME" in text and (found := _OME_SIZE.search(text)):
        unit = _OME_UNIT.search(text)
        if unit is None or html.unescape(unit[1]) in _MICRON_NAMES:
            width = _number(found[1])
            tall = _OME_HEIGHT.search(text)
            height = width if tall is None else _number(tall[1])
            if abs(width - height) > _SQUARE * max(width, height):
                return Scale(note="ome_description ignored: pixels are not square")
            return believe(width, "ome_description")
    found = _IMAGEJ_UNIT.search(text) if text.startswith("ImageJ=") else None
    if found and found[1].strip() in _MICRON_NAMES:
        x, y = directory.rational(282), directory.rational(283)
        return scale_from_resolution(x, y, 1.0, "imagej_description")
    return Scale()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
